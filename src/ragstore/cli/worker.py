"""``ragstore worker``: keep a collection equal to its folders."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.long_running import MetricsOption, ended_by_signal, settings_that_log
from ragstore.cli.options import (
    ChecksumOption,
    CollectionOption,
    ExcludeOption,
    FilterKeyOption,
    FollowLinksOption,
    IncludeOption,
    NoDefaultExcludesOption,
    QuietOption,
    StrictOption,
)


def worker(  # noqa: PLR0913, PLR0917 - one argument per option
    ctx: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders; folders with all below.")],
    collection: CollectionOption = None,
    every: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds between two passes.")] = 30,
    follow_links: FollowLinksOption = False,
    metrics: MetricsOption = None,
    filter_keys: FilterKeyOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    no_default_excludes: NoDefaultExcludesOption = False,
    checksum: ChecksumOption = False,
    strict: StrictOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Keep a collection equal to its folders, for ever.

    Each pass is a sync: it adds, updates and deletes, and refuses mass deletion, which stays for a person to decide. Of
    several workers with the same paths one works; another takes over within seconds when it is gone. Waits for
    databases that are away. SIGTERM and SIGINT end it after what is being published, with exit status 0.

    --json: not here; RAGSTORE_LOG_FORMAT=json makes each log line one document.
    """
    with ended_by_signal():
        settings = settings_that_log(invocation_of(ctx))

        from ragstore.app.workers import LoopOptions, run_worker

        run_worker(
            settings,
            paths,
            collection=collection,
            options=LoopOptions(every, metrics),
            filter_keys=filter_keys or (),
            follow_links=follow_links or None,
            include=include or (),
            exclude=exclude or (),
            default_excludes=not no_default_excludes,
            checksum=checksum or None,
            strict=strict or None,
        )
