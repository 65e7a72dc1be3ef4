"""Output that ``verify``, ``repair`` and ``reconcile`` share: progress, and drift by kind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ragstore.cli.output import one_line, say
from ragstore.cli.progress import LINE_EVERY_S
from ragstore.model.drift import AuditProgress, DriftFindings

MAX_SHOWN = 5

Listener = Callable[[AuditProgress], None]

EveryCollectionOption = Annotated[
    str | None, typer.Option("--collection", "-c", metavar="NAME", help="Only this one; all where none is named.")
]


@contextmanager
def shown_audit(*, quiet: bool) -> Iterator[Listener | None]:
    """A listener that shows progress: one changing line on a terminal, a line every few seconds elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        yield lines(say=_overwrite, every_s=0.2)
        _overwrite("")
    else:
        yield lines()


def lines(
    *, say: Callable[[str], None] = say, every_s: float = LINE_EVERY_S, clock: Callable[[], float] = time.monotonic
) -> Listener:
    """A listener that prints a line if the last one is at least ``every_s`` old."""
    said_at = clock()

    def listen(progress: AuditProgress) -> None:
        nonlocal said_at
        if clock() - said_at >= every_s:
            said_at = clock()
            say(in_words(progress))

    return listen


def in_words(progress: AuditProgress) -> str:
    """``docs: 120,000 of 500,000 nodes, 210,000 nodes/s``."""
    rate = f", {progress.nodes / progress.seconds:,.0f} nodes/s" if progress.seconds > 0 else ""
    return f"{progress.collection}: {progress.nodes:,} of {progress.expected:,} nodes{rate}"


def tally_lines(tally: DriftFindings) -> list[str]:
    """Lines with each kind, its count and its first examples."""
    found = []
    for kind, count in sorted(tally.counts.items()):
        found.append(f"  {count:,} {kind.value.replace('_', ' ')}")
        examples = tally.examples[kind][:MAX_SHOWN]
        found += [f"    {one_line(example)}" for example in examples]
        found += [f"    and {count - len(examples):,} more"] if count > len(examples) else []
    return found


def _overwrite(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()
