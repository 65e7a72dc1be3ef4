"""``ragstore maintain``: recover, clean, build indexes and refresh statistics."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.long_running import MetricsOption, ended_by_signal, settings_that_log
from ragstore.cli.options import QuietOption
from ragstore.cli.output import write


def maintain(
    ctx: typer.Context,
    every: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds between two rounds.")] = 10,
    once: Annotated[bool, typer.Option("--once", help="One round, then leave.")] = False,
    metrics: MetricsOption = None,
    _quiet: QuietOption = False,
) -> None:
    """Recover what died, clean MongoDB, build indexes, refresh statistics, for ever.

    Needed where applications use a PostgreSQL role that does not own the tables: run it with the URL of the owner.
    Elsewhere it does sooner what they do themselves. Several may run at once. Waits for databases that are away.

    --json: not here; RAGSTORE_LOG_FORMAT=json makes each log line one document.
    """
    with ended_by_signal():
        settings = settings_that_log(invocation_of(ctx))

        from ragstore.app.workers import LoopOptions, run_maintain

        run_maintain(settings, options=LoopOptions(every, metrics), once=once)
    if once:
        write("done")
