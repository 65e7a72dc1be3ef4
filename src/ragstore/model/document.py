"""Documents as the source and the ledger have them, their events, and entries of the quarantine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ragstore.errors import LimitExceededError, Retry

MAX_ENTRY_BYTES = 16 * 1024 * 1024 - 65_536
"""Largest entry of a document in MongoDB; it names all nodes of the document, and MongoDB's limit is 16 MB."""

MAX_DOCUMENT_ID_BYTES = 1024
"""Far below the limit of 2,704 bytes of a btree entry, so that every index on it works."""


IN_CONTAINER = "!//"
"""Stands in an id between a container and its member. No path of a listing has it, because none has an empty part."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One source unit of a listing, not yet read.

    Args:
        document_id: its id in the ledger, also if it is not there yet; for a local file its absolute path.
        source_uri: URI to read it from; for a local file its absolute path.
        size: bytes.
        mtime_ns: last change, nanoseconds since the epoch, None if the source has none.
        etag: version tag, None if the source has none.
        ctime_ns: last change of any kind, also of name or rights, nanoseconds since the epoch; None if unknown.
        within: the file that contains it, for a member of a container; ``source_uri`` is that file's then.
    """

    document_id: str
    source_uri: str
    size: int
    mtime_ns: int | None = None
    etag: str | None = None
    ctime_ns: int | None = None
    within: SourceItem | None = None


@dataclass(frozen=True, slots=True)
class DocumentState:
    """One row of ``ragstore.document``.

    Args:
        notes: what was noted when it was read; see ``ParsedDocument``.
    """

    document_id: str
    source_uri: str
    revision: int
    n_nodes: int
    fingerprint: str | None = None
    content_hash: str | None = None
    doc_hash: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    etag: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    published_at: datetime | None = None
    deleted_at: datetime | None = None
    ctime_ns: int | None = None
    notes: dict[str, int | str] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether readers can see the document."""
        return self.revision > 0 and self.deleted_at is None


class SourceState(NamedTuple):
    """Columns of a row of ``ragstore.document`` that show whether a source unit changed; as in ``DocumentState``."""

    document_id: str
    revision: int
    fingerprint: str | None
    content_hash: str | None
    size: int | None
    mtime_ns: int | None
    etag: str | None
    live: bool
    ctime_ns: int | None = None


def check_entry_size(document_id: str, size: int) -> None:
    """Raise LimitExceededError if the entry that names a document's nodes is too large for MongoDB."""
    if size > MAX_ENTRY_BYTES:
        raise LimitExceededError(
            f"document {document_id[:100]} has more nodes than one entry of MongoDB can name: {size:,} bytes of ids "
            f"and metadata, more than {MAX_ENTRY_BYTES:,}",
            hint="cut it into several documents, or into fewer and larger nodes",
            document_id=document_id,
            size=size,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One row of ``ragstore.event``: an action on a document, its worker, and its time by the database's clock.

    Args:
        document_id: None if the event concerns the whole collection.
        n_nodes: nodes of the new revision; ``n_embedded + n_reused`` of them have a vector.
    """

    event_id: int
    at: datetime
    worker: str
    document_id: str | None
    revision: int | None
    action: str
    run_id: str | None = None
    n_nodes: int | None = None
    n_embedded: int | None = None
    n_reused: int | None = None
    detail: dict[str, Any] | None = field(default=None)

    def as_dict(self) -> dict[str, Any]:
        """The shape ``history --json`` prints, times in ISO 8601."""
        return asdict(self) | {"at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One row of ``ragstore.quarantine``: a document that could not be ingested, with the reason.

    Args:
        code: the error's stable code, e.g. ``content.parse``.
        attempts: how often it was tried, at least 1.
    """

    document_id: str
    source_uri: str
    code: str
    reason: str
    hint: str
    retry: Retry
    attempts: int
    first_at: datetime
    last_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """The shape ``quarantine list --json`` prints, times in ISO 8601."""
        times = {"first_at": self.first_at.isoformat(), "last_at": self.last_at.isoformat()}
        return asdict(self) | times
