"""``ragstore repair``: remove drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.audits import EveryCollectionOption, shown_audit, tally_lines
from ragstore.cli.edge import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import write, write_json

if TYPE_CHECKING:
    from ragstore.model.drift import RepairReport


def repair(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    collection: EveryCollectionOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring ledger and stores to agree again.

    Each store is rebuilt from the other; vectors that are lost in both are computed again. What cannot be proved
    garbage is kept and reported. Safe to interrupt and to repeat, also while workers run. Exit status 5: some drift is
    left, or in a dry run there is any.

    --json: {"ok", "dry_run", "repaired": {kind: {"count", "examples"}}, "kept": the same with reasons, "embedded",
    "seconds"}.
    """
    with invocation_of(ctx).store() as store, shown_audit(quiet=quiet) as listener:
        report = store.repair(collection, dry_run=dry_run, progress=listener)
    if as_json:
        write_json(report.as_dict())
    else:
        for line in repair_lines(report):
            write(line)
    if not report.ok:
        raise typer.Exit(EXIT_DRIFT)


def repair_lines(report: RepairReport) -> list[str]:
    """The report for people."""
    done = "would repair" if report.dry_run else "repaired"
    if not report.repaired.counts and not report.kept.counts:
        return ["ok: nothing to repair"]
    computed = f", {report.embedded:,} vectors computed" if report.embedded else ""
    lines = [f"{done} {report.repaired.total:,}{computed} in {report.seconds:.1f} s", *tally_lines(report.repaired)]
    if report.kept.counts:
        lines += [f"kept {report.kept.total:,}, which need a decision:", *tally_lines(report.kept)]
    return lines
