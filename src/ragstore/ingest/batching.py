"""Puts documents that were read together to batches: by their chunks, by their bytes, and by time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ragstore.errors import ContentError
from ragstore.ingest.reading_ahead import Outcome
from ragstore.ingest.vectors import Parsed
from ragstore.postgres.documents import Failure

MAX_WAIT_S = 0.5
"""A batch that is not full goes after so long, where nothing else is being stored: nobody would gain by its wait."""


@dataclass(slots=True)
class Batch:
    """Documents that are embedded and published together.

    Args:
        n_bytes: what they hold of the memory ceiling.
    """

    parsed: list[Parsed] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    n_chunks: int = 0
    n_bytes: int = 0
    begun_at: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Take one more."""
        self.begun_at = self.begun_at or time.monotonic()
        self.n_bytes += outcome.n_bytes
        if isinstance(outcome.result, ContentError):
            self.failures.append(Failure(outcome.item, outcome.result))
            return
        self.parsed.append(Parsed(outcome.item, outcome.result))
        self.n_chunks += len(outcome.result.chunks)

    @property
    def has_waited(self) -> bool:
        """Whether it has something that waits for long."""
        return self.begun_at > 0 and time.monotonic() - self.begun_at > MAX_WAIT_S


def batches(
    outcomes: Iterable[Outcome | None], *, max_chunks: int, max_bytes: int, is_idle: Callable[[], bool]
) -> Iterator[Batch]:
    """All outcomes in batches.

    Args:
        outcomes: None gives the opportunity to look at the time.
        max_chunks: chunks of a batch, about; a document is never divided.
        is_idle: whether nothing is being stored.
    """
    batch = Batch()
    for outcome in outcomes:
        if outcome is not None:
            batch.add(outcome)
        is_full = max(batch.n_chunks, len(batch.failures)) >= max_chunks or batch.n_bytes >= max_bytes
        if is_full or (batch.has_waited and is_idle()):
            yield batch
            batch = Batch()
    if batch.begun_at:
        yield batch
