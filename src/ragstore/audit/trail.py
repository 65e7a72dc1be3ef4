"""Documents, their history, and what was set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ragstore.model.collection import Collection
from ragstore.model.document import DocumentState, Event, QuarantineEntry
from ragstore.postgres import documents
from ragstore.postgres.pool import PostgresPool


def live_documents(pool: PostgresPool, collection: Collection) -> Iterator[DocumentState]:
    """Live documents in the order of their ids, in constant memory."""
    return documents.iter_documents(pool, collection)


def history(pool: PostgresPool, collection: Collection, document_id: str) -> list[Event]:
    """All that happened to a document, oldest first, also after it was deleted; empty for an id never seen."""
    return documents.history(pool, collection, document_id)


def quarantined(pool: PostgresPool, collection: Collection) -> list[QuarantineEntry]:
    """Documents that were set aside, with the reason."""
    return documents.list_quarantine(pool, collection)


def release(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> int:
    """Let the next ingest try documents in quarantine again; all where none is named."""
    return documents.release_quarantine(pool, collection, document_ids)
