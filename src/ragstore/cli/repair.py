"""``ragstore repair``: remove drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.audits import EveryCollectionOption, in_words, tally_lines
from ragstore.cli.exit_status import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import write, write_json
from ragstore.cli.progress import shown_line

if TYPE_CHECKING:
    from ragstore.model.drift import RepairReport


def repair(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Move what would be kept to a place in MongoDB that nothing reads.")
    ] = False,
    collection: EveryCollectionOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring ledger and stores to agree again.

    Each store is rebuilt from the other; vectors that are lost in both are computed again. What cannot be proved
    garbage is kept and reported, or with --set-aside moved away, and the report says where to. Safe to interrupt and to
    repeat, also while workers run. Exit status 5: some drift is left, or in a dry run there is any.

    --json: {"ok", "dry_run", "repaired": {kind: {"count", "examples"}}, "kept" and "set_aside": the same with
    reasons, "places": [names of collections of MongoDB], "embedded", "seconds"}.
    """
    with invocation_of(ctx).store() as store, shown_line(in_words, quiet=quiet) as listener:
        report = store.repair(collection, dry_run=dry_run, set_aside=set_aside, progress=listener)
    if as_json:
        write_json(report.as_dict())
    else:
        for line in repair_lines(report):
            write(line)
    if not report.ok:
        raise typer.Exit(EXIT_DRIFT)


def repair_lines(report: RepairReport) -> list[str]:
    done = "would repair" if report.dry_run else "repaired"
    if not (report.repaired.counts or report.kept.counts or report.set_aside.counts):
        return ["ok: nothing to repair"]
    computed = f", {report.embedded:,} vectors computed" if report.embedded else ""
    lines = [f"{done} {report.repaired.total:,}{computed} in {report.seconds:.1f} s", *tally_lines(report.repaired)]
    if report.set_aside.counts:
        moved = "would set aside" if report.dry_run else "set aside"
        lines += [f"{moved} {report.set_aside.total:,}:", *tally_lines(report.set_aside)]
        lines += [f"  in MongoDB: {place}" for place in report.places]
    if report.kept.counts:
        lines += [f"kept {report.kept.total:,}, which need a decision:", *tally_lines(report.kept)]
        lines += ["'ragstore repair --set-aside' moves what is kept out of every reader's way, and deletes nothing"]
    return lines
