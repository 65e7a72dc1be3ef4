"""What an ingest did, in the shape that ``ingest --json`` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class IngestReport:
    """Counts of documents, then of chunks; ``embedded + reused == chunks``."""

    added: int = 0
    updated: int = 0
    renamed: int = 0
    deleted: int = 0
    unchanged: int = 0
    failed: int = 0
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        """The shape ``ingest --json`` prints."""
        return asdict(self)
