"""``ragstore move``: give the documents of a folder that was moved their new ids."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.exit_status import EXIT_PARTLY
from ragstore.cli.ingest import passed_over_lines
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import CollectionOption, JsonOption, QuietOption
from ragstore.cli.output import counted, say, write, write_json


def move(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The folder or file by which the documents are known.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where it is now.")],
    collection: CollectionOption = None,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Give the documents of a folder that was moved their new ids.

    Reads no file and embeds nothing. A document that is at its new id already, with the same content, only leaves the
    old one. Safe to interrupt and to repeat. Exit status 3: some keep their old id and are named; 6: there is none.

    --json: {"moved", "nodes", "already_there": numbers, "left": {reason: {"count", "examples"}}}.
    """
    with invocation_of(ctx).store() as store:
        report = store.move(old, new, collection=collection)
    if as_json:
        write_json(report.as_dict())
    else:
        already = f", {report.already_there:,} were there already" if report.already_there else ""
        write(f"{counted(report.moved, 'document')} moved with {counted(report.nodes, 'node')}{already}")
    for line in passed_over_lines(report.left):
        say(line.replace("passed over", "left"))
    if report.left.total:
        raise typer.Exit(EXIT_PARTLY)
