"""``ragstore down``: stop the embedded servers."""

from __future__ import annotations

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import write, write_json


def down(ctx: typer.Context, as_json: JsonOption = False, _quiet: QuietOption = False) -> None:
    """Stop the embedded databases.

    The data stays. Refuses where RAGSTORE_POSTGRES_URL and RAGSTORE_MONGO_URL name servers of your own.

    --json: {"stopped": true or false}.
    """
    settings = invocation_of(ctx).settings()

    from ragstore.app import servers

    stopped = servers.down(settings)
    if as_json:
        write_json({"stopped": stopped})
    else:
        write("stopped; the data stays" if stopped else "nothing was running")
