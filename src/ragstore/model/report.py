"""What an ingest did, in the shape that ``ingest --json`` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ragstore.errors import RagstoreError
from ragstore.model.collection import MadeCollection
from ragstore.model.transfer import Findings

COUNTS = ("added", "updated", "renamed", "deleted", "unchanged", "failed", "chunks", "embedded", "reused", "seconds")


@dataclass(frozen=True, slots=True)
class SetAside:
    """A document that could not be taken in, and why; it is in quarantine."""

    document_id: str
    code: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """As JSON."""
        return {"document_id": self.document_id, "code": self.code, "reason": self.reason}


@dataclass(slots=True)
class IngestReport:
    """Counts of documents, then of chunks; ``embedded + reused == chunks``; then what they leave unsaid, by name.

    Args:
        passed_over: entries of listed folders that nothing reads, by the reason.
        collection_made: that was made first; in a dry run, that would be.
        deleted_documents: ids of all that are counted as deleted.
        forgotten_documents: ids of all that left the quarantine because their file is gone.
        quarantined: one for each document that is counted as failed.
        refused: why nothing was deleted, though what could be added was; in a dry run, why nothing would be.
    """

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
    passed_over: Findings = field(default_factory=Findings)
    collection_made: MadeCollection | None = None
    deleted_documents: list[str] = field(default_factory=list)
    forgotten_documents: list[str] = field(default_factory=list)
    quarantined: list[SetAside] = field(default_factory=list)
    refused: RagstoreError | None = None

    def as_dict(self) -> dict[str, Any]:
        """The shape ``ingest --json`` prints."""
        refused = self.refused
        return {
            **{name: getattr(self, name) for name in COUNTS},
            "passed_over": self.passed_over.as_dict(),
            "collection_made": self.collection_made.as_dict() if self.collection_made else None,
            "deleted_documents": list(self.deleted_documents),
            "forgotten_documents": list(self.forgotten_documents),
            "quarantined": [each.as_dict() for each in self.quarantined],
            "refused": {"code": refused.code, "message": refused.message, "hint": refused.hint} if refused else None,
        }
