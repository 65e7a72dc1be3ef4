"""Output that ``verify``, ``repair`` and ``reconcile`` share: progress, and drift by kind."""

from __future__ import annotations

from typing import Annotated

import typer

from ragstore.cli.output import one_line
from ragstore.model.report import Findings, Progress

MAX_SHOWN = 5


EveryCollectionOption = Annotated[
    str | None, typer.Option("--collection", "-c", metavar="NAME", help="Only this one; all where none is named.")
]


def in_words(progress: Progress) -> str:
    """``docs: 120,000 of 500,000 nodes, 210,000 nodes/s``."""
    rate = f", {progress.done / progress.seconds:,.0f} nodes/s" if progress.seconds > 0 else ""
    return f"{progress.step}: {progress.done:,} of {progress.expected:,} nodes{rate}"


def tally_lines(tally: Findings) -> list[str]:
    """Lines with each kind, its count and its first examples."""
    found = []
    for kind, count in sorted(tally.counts.items()):
        found.append(f"  {count:,} {kind.replace('_', ' ')}")
        examples = tally.examples[kind][:MAX_SHOWN]
        found += [f"    {one_line(example)}" for example in examples]
        found += [f"    and {count - len(examples):,} more"] if count > len(examples) else []
    return found
