"""``ragstore verify``: compare both stores with the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.audits import EveryCollectionOption, in_words, tally_lines
from ragstore.cli.exit_status import EXIT_DRIFT
from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import counted, say, write, write_json
from ragstore.cli.progress import shown_line
from ragstore.model.drift import Kind

if TYPE_CHECKING:
    from ragstore.model.collection import Found, FoundInSegment
    from ragstore.model.drift import VerifyReport


def verify(
    ctx: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare texts, metadata and vectors too, and searches with exact ones.")
    ] = False,
    collection: EveryCollectionOption = None,
    as_json: JsonOption = False,
    details: Annotated[bool, typer.Option("--details", help="In --json, add the first of each kind of drift.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Compare both stores with the ledger, and change nothing.

    Safe while workers run: what is on its way counts as pending, not as drift. Exit status 5: there is drift.

    --json: {"ok", "documents", "nodes", "missing_in_mongo", "orphans_in_mongo", "missing_in_postgres", "mismatched",
    "pending", "found", "seconds"}; "found" has, after --deep, {collection: {"recall", "self_recall", "asked_recall",
    "of_segments"}}; with --details also "details": {kind: {"count", "examples"}}.
    """
    with invocation_of(ctx).store() as store, shown_line(in_words, quiet=quiet) as listener:
        report = store.verify(collection, deep=deep, progress=listener)
    if as_json:
        write_json({**report.as_dict(), **({"details": report.drift.as_dict()} if details else {})})
    else:
        for line in verify_lines(report):
            write(line)
    if not report.ok:
        verb = "reconcile" if Kind.RESTORED_STORE in report.drift.counts else "repair"
        say(f"hint: 'ragstore {verb} --dry-run' shows what can be done about it")
        raise typer.Exit(EXIT_DRIFT)


def verify_lines(report: VerifyReport) -> list[str]:
    pending = f", {report.pending:,} pending" if report.pending else ""
    summary = (
        f"{counted(report.documents, 'document')}, {counted(report.nodes, 'node')} in {report.seconds:.1f} s{pending}"
    )
    lines = [f"{'ok' if report.ok else 'DRIFT'}: {summary}", *tally_lines(report.drift)]
    for name, found in report.found.items():
        lines += found_lines(name, found)
    return lines


def found_lines(name: str, found: Found) -> list[str]:
    """Lines about the recall that was measured in one collection."""
    low = "; that is low: run 'ragstore maintain'" if found.is_low else ""
    asked = "" if found.asked_recall is None else f", {found.asked_recall:.3f} for the last that were asked"
    first = (
        f"collection {name}: searches find {found.recall:.3f} of the 10 nearest{asked}, and {found.self_recall:.3f} of "
        f"the nodes by their own vector{low}"
    )
    return [first, *(f"  segment {place}, {_segment(segment)}" for place, segment in enumerate(found.of_segments))]


def _segment(segment: FoundInSegment) -> str:
    shares = ["-" if share is None else f"{share:.3f}" for share in (segment.recall, segment.self_recall)]
    return f"{counted(segment.nodes, 'node')}: {shares[0]} of the nearest, {shares[1]} by their own vector"
