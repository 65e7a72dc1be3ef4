"""``ragstore reconcile``: go on after one of the stores was restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.audits import in_words
from ragstore.cli.exit_status import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import write, write_json
from ragstore.cli.progress import shown_line
from ragstore.cli.repair import repair_lines

if TYPE_CHECKING:
    from ragstore.model.drift import ReconcileReport


def reconcile(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go on after one of the two stores was restored to another moment.

    PostgreSQL decides: MongoDB is brought to its state, what only MongoDB has is moved to a place that nothing reads,
    and a new epoch begins; no number that was given out before is given out again. Writers are refused meanwhile, and
    begin again by themselves. Does nothing where neither store was restored. Safe to interrupt and to repeat. Exit
    status 5: some drift is left, or in a dry run there is any.

    --json: {"ok", "dry_run", "restored": which store and why, or null, "epoch", "repaired": {kind: {"count",
    "examples"}}, "kept" and "set_aside": the same with reasons, "places": [names of collections of MongoDB],
    "embedded", "seconds"}.
    """
    with invocation_of(ctx).store() as store, shown_line(in_words, quiet=quiet) as listener:
        report = store.reconcile(dry_run=dry_run, progress=listener)
    if as_json:
        write_json(report.as_dict())
    else:
        for line in reconcile_lines(report):
            write(line)
    if not report.ok:
        raise typer.Exit(EXIT_DRIFT)


def reconcile_lines(report: ReconcileReport) -> list[str]:
    if report.restored is None:
        return [f"ok: nothing to reconcile, both stores are in epoch {report.epoch}"]
    begun = "a new epoch would begin" if report.repair.dry_run else f"epoch {report.epoch} has begun"
    return [f"{report.restored}; {begun}", *repair_lines(report.repair)]
