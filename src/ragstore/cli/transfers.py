"""Output that ``import``, ``export`` and ``adopt`` share: progress and report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.exit_status import EXIT_PARTLY
from ragstore.cli.invocation import invocation_of
from ragstore.cli.output import counted, one_line, say, write, write_json

if TYPE_CHECKING:
    from ragstore.model.collection import MadeCollection
    from ragstore.model.report import Findings, Progress, TransferReport

MAX_SHOWN = 5

_SINGULAR = {
    "changed documents": "changed document",
    "doubled nodes": "doubled node",
    "graphs": "graph",
    "hashes not taken": "hash not taken",
    "hashes without nodes": "hash without nodes",
    "index structs": "index struct",
    "indexes renamed": "index renamed",
    "indexes sharing nodes": "index sharing nodes",
    "invalid nodes": "invalid node",
    "lossy vectors": "lossy vector store",
    "nodes without document": "node without document",
    "nodes without text": "node without text",
    "nodes without vector": "node without vector",
    "sparse vectors": "sparse vector field",
    "other vector stores": "other vector store",
    "unusable vectors": "unusable vector",
    "vectors without node": "vector without node",
}

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Model that made the vectors, where you know it; else external."),
]


FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="URL", help="Vector store of another system, such as chroma:PATH#collection."),
]


def in_words(progress: Progress) -> str:
    """``12,000 of 50,000 nodes, 4,000/s``."""
    if progress.step == "index":
        return "building the index"
    total = f" of {progress.expected:,}" if progress.expected is not None else ""
    rate = f", {progress.done / progress.seconds:,.0f}/s" if progress.seconds > 0 else ""
    return f"{progress.done:,}{total} {progress.step}{rate}"


def tell_report(ctx: typer.Context, report: TransferReport, done: str, *, dry_run: bool = False) -> None:
    """Print a report; exits with the status that fits it."""
    invocation = invocation_of(ctx)
    if invocation.json:
        write_json(report.as_dict())
    else:
        write(report_line(report, done))
    invocation.note(*made_lines(report.collection_made, dry_run=dry_run))
    for line in findings_lines("left behind", report.left_behind):
        say(line)
    invocation.note(*findings_lines("noted", report.noted))
    if not report.ok:
        raise typer.Exit(EXIT_PARTLY)


def report_line(report: TransferReport, done: str) -> str:
    """``500 documents, 2,000 nodes imported, 1,000 skipped; 0 embedded, in 1.2 s``."""
    skipped = f", {report.skipped:,} skipped" if report.skipped else ""
    counts = f"{counted(report.documents, 'document')}, {counted(report.nodes, 'node')} {done}{skipped}"
    return f"{counts}; {report.embedded} embedded, in {report.seconds:.1f} s"


def findings_lines(heading: str, findings: Findings) -> list[str]:
    """Lines with each kind, its count and its first examples."""
    lines = []
    for kind, count in sorted(findings.counts.items()):
        words = kind.replace("_", " ")
        lines.append(f"{heading}: {count:,} {_SINGULAR.get(words, words) if count == 1 else words}")
        shown = findings.examples[kind][:MAX_SHOWN]
        lines += [f"  {one_line(example)}" for example in shown]
        lines += [f"  and {count - len(shown):,} more"] if count > len(shown) else []
    return lines


def made_lines(made: MadeCollection | None, *, dry_run: bool) -> list[str]:
    """Lines about a new collection, with the properties that cannot be changed later."""
    if made is None:
        return []
    verb = "would be made" if dry_run else "made"
    return [f"collection {made.name} {verb}: model {made.model}, {made.dim:,} dimensions"]
