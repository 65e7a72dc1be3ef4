"""Reports and progress of ingests, imports and exports, in the shapes that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ragstore.errors import RagstoreError
from ragstore.model.collection import MadeCollection
from ragstore.model.notes import Notes, kinds

MAX_EXAMPLES = 20
"""Most examples of each kind of finding, so that a report stays small."""


class LeftBehind(StrEnum):
    """Kinds of data that a transfer could not take over."""

    VECTORS_WITHOUT_NODE = "vectors_without_node"
    UNUSABLE_VECTORS = "unusable_vectors"
    INVALID_NODES = "invalid_nodes"
    CHANGED_DOCUMENTS = "changed_documents"
    INDEX_STRUCTS = "index_structs"
    GRAPHS = "graphs"


class Noted(StrEnum):
    """Kinds of data that a transfer took over in another form, or left on purpose."""

    NODES_WITHOUT_VECTOR = "nodes_without_vector"
    DOUBLED_NODES = "doubled_nodes"
    HASHES_WITHOUT_NODES = "hashes_without_nodes"
    HASHES_NOT_TAKEN = "hashes_not_taken"
    OTHER_VECTOR_STORES = "other_vector_stores"
    NODES_WITHOUT_TEXT = "nodes_without_text"
    NODES_WITHOUT_DOCUMENT = "nodes_without_document"
    SPARSE_VECTORS = "sparse_vectors"
    LOSSY_VECTORS = "lossy_vectors"
    INDEXES_SHARING_NODES = "indexes_sharing_nodes"
    INDEXES_RENAMED = "indexes_renamed"


@dataclass(slots=True)
class Findings:
    """Counts by kind, with the first examples of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, found: Iterable[str], *, n_more: int = 0) -> None:
        """Count these findings and ``n_more`` without a name; the first are kept as examples."""
        kind = str(kind)
        kept = self.examples.get(kind, [])
        n_found = n_more
        for each in found:
            n_found += 1
            if len(kept) < MAX_EXAMPLES:
                kept.append(each)
        if n_found:
            self.counts[kind] = self.counts.get(kind, 0) + n_found
            self.examples[kind] = kept

    def merge(self, other: Findings) -> None:
        """Add the counts and examples of other findings."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            kept = self.examples.setdefault(kind, [])
            kept += other.examples[kind][: MAX_EXAMPLES - len(kept)]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """``{kind: {"count", "examples"}}``."""
        return {kind: {"count": n, "examples": self.examples[kind]} for kind, n in sorted(self.counts.items())}


@dataclass(slots=True)
class TransferReport:
    """Result of an import, an export or an adoption.

    Args:
        documents: documents that got nodes or data, or that an export wrote.
        nodes: nodes written.
        embedded: vectors computed; always 0, because all are taken over.
        skipped: nodes that existed already and are equal.
        left_behind: data that could not be taken over; if there is any, the exit status is 3.
        noted: data that was taken over in an unexpected way.
        collection_made: the collection that was made first, if any.
    """

    documents: int = 0
    nodes: int = 0
    embedded: int = 0
    skipped: int = 0
    seconds: float = 0.0
    left_behind: Findings = field(default_factory=Findings)
    noted: Findings = field(default_factory=Findings)
    collection_made: MadeCollection | None = None

    @property
    def ok(self) -> bool:
        """Whether everything was taken over."""
        return not self.left_behind.counts

    def as_dict(self) -> dict[str, Any]:
        """The shape ``import``, ``export`` and ``adopt --json`` print."""
        return {
            "documents": self.documents,
            "nodes": self.nodes,
            "embedded": self.embedded,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            "left_behind": self.left_behind.as_dict(),
            "noted": self.noted.as_dict(),
            "collection_made": self.collection_made.as_dict() if self.collection_made else None,
        }


MAX_NOTED = 1_000
"""Most documents with notes that a report names; ``documents`` has them all."""


@dataclass(slots=True)
class NotedDocuments:
    """Documents that were read with notes: how many by kind of note, and the first ones with their notes."""

    n_documents: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    documents: list[tuple[str, Notes]] = field(default_factory=list)

    def add(self, document_id: str, notes: Notes) -> None:
        """Count a document, unless it has no notes."""
        if not notes:
            return
        self.n_documents += 1
        for kind in kinds(notes):
            self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.documents) < MAX_NOTED:
            self.documents.append((document_id, notes))

    def merge(self, other: NotedDocuments) -> None:
        """Add the counts and documents of another report."""
        self.n_documents += other.n_documents
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        self.documents += other.documents[: MAX_NOTED - len(self.documents)]

    def as_dict(self) -> dict[str, Any]:
        """``{"count", "by_note": {sentence: count}, "documents": [{"document_id", "notes"}]}``."""
        named = [{"document_id": document_id, "notes": dict(notes)} for document_id, notes in self.documents]
        return {"count": self.n_documents, "by_note": dict(sorted(self.counts.items())), "documents": named}


COUNTS = ("added", "updated", "renamed", "deleted", "unchanged", "failed", "chunks", "embedded", "reused", "seconds")


@dataclass(frozen=True, slots=True)
class SetAside:
    """A document that could not be ingested and is in quarantine, with the reason."""

    document_id: str
    code: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        return {"document_id": self.document_id, "code": self.code, "reason": self.reason}


@dataclass(slots=True)
class IngestReport:
    """Result of an ingest or a sync: counts of documents and chunks (``embedded + reused == chunks``), and details.

    Args:
        noted: added and updated documents with notes about their reading.
        passed_over: entries of listed folders that are not read, by reason.
        collection_made: the collection that was made first, or in a dry run would be.
        deleted_documents: ids of all documents that are counted as deleted.
        left_out_documents: ids of those of them whose file exists, but is left out by a pattern.
        forgotten_documents: ids of all documents that left the quarantine because their file is missing.
        quarantined: one entry for each document that is counted as failed.
        refused: why nothing was deleted, although documents were added; in a dry run, why nothing would be.
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
    noted: NotedDocuments = field(default_factory=NotedDocuments)
    passed_over: Findings = field(default_factory=Findings)
    collection_made: MadeCollection | None = None
    deleted_documents: list[str] = field(default_factory=list)
    left_out_documents: list[str] = field(default_factory=list)
    forgotten_documents: list[str] = field(default_factory=list)
    quarantined: list[SetAside] = field(default_factory=list)
    refused: RagstoreError | None = None

    def as_dict(self) -> dict[str, Any]:
        """The shape ``ingest --json`` prints."""
        refused = self.refused
        return {
            **{name: getattr(self, name) for name in COUNTS},
            "noted": self.noted.as_dict(),
            "passed_over": self.passed_over.as_dict(),
            "collection_made": self.collection_made.as_dict() if self.collection_made else None,
            "deleted_documents": list(self.deleted_documents),
            "left_out_documents": list(self.left_out_documents),
            "forgotten_documents": list(self.forgotten_documents),
            "quarantined": [each.as_dict() for each in self.quarantined],
            "refused": {"code": refused.code, "message": refused.message, "hint": refused.hint} if refused else None,
        }


@dataclass(slots=True)
class MoveReport:
    """Result of a move of documents to ids below another path.

    Args:
        moved: documents that have their new id.
        nodes: their nodes; none was embedded.
        already_there: documents that were at the new id already, with the same content; the old ones were deleted.
        left: documents that keep their old id, by reason.
    """

    moved: int = 0
    nodes: int = 0
    already_there: int = 0
    left: Findings = field(default_factory=Findings)

    def as_dict(self) -> dict[str, Any]:
        """The shape ``move --json`` prints."""
        return {
            "moved": self.moved,
            "nodes": self.nodes,
            "already_there": self.already_there,
            "left": self.left.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class DeleteReport:
    """Result of the deletion of all documents below a path; in a dry run what would be deleted.

    Args:
        forgotten_documents: ids of documents from there that left the quarantine, and were not live.
    """

    deleted_documents: list[str]
    forgotten_documents: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The shape ``delete --below --json`` prints."""
        return {
            "deleted": len(self.deleted_documents),
            "deleted_documents": self.deleted_documents,
            "forgotten_documents": self.forgotten_documents,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a call that takes long: counts since its start.

    Args:
        step: what is counted: documents of an ingest, nodes or vectors of a transfer, or the collection whose nodes are
            compared by an audit.
        done: how many are done; of an ingest including unchanged and failed ones.
        expected: total number of them; None if unknown.
        seconds: time since the start.
        is_final: whether ``expected`` is; a listing may go on.
        failed: documents of an ingest that are in quarantine.
        chunks: chunks published by an ingest.
        bytes_done: size of the documents in ``done``.
    """

    step: str
    done: int
    expected: int | None
    seconds: float
    is_final: bool = True
    failed: int = 0
    chunks: int = 0
    bytes_done: int = 0
    bytes_expected: int = 0


Listener = Callable[[Progress], None]
"""Called several times a second, from several threads."""
