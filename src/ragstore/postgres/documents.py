"""Reading documents, their history and the quarantine from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragstore.errors import RagstoreError
from ragstore.model.audit import Event, QuarantineEntry
from ragstore.model.collection import Collection
from ragstore.model.document import DocumentState, SourceItem, SourceState
from ragstore.postgres import statements
from ragstore.postgres.pool import PostgresPool

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """What is set aside, and why.

    Args:
        seen: its size, mtime_ns and etag at that time.
    """

    retry: str
    code: str
    reason: str
    seen: tuple[int | None, int | None, str | None]


def get_documents(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> dict[str, DocumentState]:
    """The ledger's rows of these documents, deleted ones too, by id."""
    rows = _fetch(
        pool,
        statements.GET_DOCUMENTS,
        {"collection_id": collection.collection_id, "document_ids": list(document_ids)},
    )
    return {row[0]: DocumentState(*row) for row in rows}


def get_source_states(
    pool: PostgresPool, collection: Collection, document_ids: Sequence[str]
) -> dict[str, SourceState]:
    """What tells whether these documents changed, by id; deleted ones too."""
    parameters = {"collection_id": collection.collection_id, "document_ids": list(document_ids)}
    return {row[0]: SourceState._make(row) for row in _fetch(pool, statements.GET_SOURCE_STATES, parameters)}


def find_by_content(
    pool: PostgresPool, collection: Collection, content_hashes: Sequence[str]
) -> dict[str, list[DocumentState]]:
    """Live documents that have one of these contents, by content hash."""
    found: dict[str, list[DocumentState]] = {}
    parameters = {"collection_id": collection.collection_id, "content_hashes": list(content_hashes)}
    for row in _fetch(pool, statements.FIND_BY_CONTENT, parameters):
        state = DocumentState(*row)
        found.setdefault(str(state.content_hash), []).append(state)
    return found


def iter_documents(pool: PostgresPool, collection: Collection) -> Iterator[DocumentState]:
    """Live documents in the order of their ids, a page at a time."""
    after = ""
    while True:
        rows = _fetch(
            pool,
            statements.PAGE_DOCUMENTS,
            {"collection_id": collection.collection_id, "after": after, "limit": _PAGE},
        )
        for row in rows:
            yield DocumentState(*row)
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]


def touch_documents(pool: PostgresPool, collection: Collection, touched: Mapping[str, tuple[int, SourceItem]]) -> None:
    """Record new size and times of documents whose content is what is live: id → (revision, item).

    What set them aside meanwhile is over, so they leave quarantine.
    """
    if not touched:
        return
    items = sorted(touched.items())
    with pool.transaction() as cursor:
        cursor.execute(
            statements.TOUCH_DOCUMENTS,
            {
                "collection_id": collection.collection_id,
                "document_id": [document_id for document_id, _ in items],
                "revision": [revision for _, (revision, _) in items],
                "size": [item.size for _, (_, item) in items],
                "mtime_ns": [item.mtime_ns for _, (_, item) in items],
                "etag": [item.etag for _, (_, item) in items],
            },
        )
        cursor.execute(
            statements.CLEAR_QUARANTINE,
            {"collection_id": collection.collection_id, "document_ids": list(touched)},
        )


def history(pool: PostgresPool, collection: Collection, document_id: str) -> list[Event]:
    """The audit trail of one document, oldest first."""
    rows = _fetch(pool, statements.HISTORY, {"collection": collection.name, "document_id": document_id})
    return [Event(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a source item could not become a document's revision."""

    item: SourceItem
    error: RagstoreError


def put_quarantine(pool: PostgresPool, collection: Collection, failures: Sequence[Failure], *, worker: str) -> None:
    """Set documents aside, counting attempts; a live revision of them stays live."""
    if not failures:
        return
    with pool.transaction() as cursor:
        cursor.execute(
            statements.PUT_QUARANTINE,
            {
                "collection_id": collection.collection_id,
                "collection": collection.name,
                "worker": worker,
                "document_id": [f.item.document_id for f in failures],
                "source_uri": [f.item.source_uri for f in failures],
                "code": [f.error.code for f in failures],
                "reason": [_printable(f.error.message) for f in failures],
                "hint": [_printable(f.error.hint) for f in failures],
                "retry": [f.error.retry.value for f in failures],
                "size": [f.item.size for f in failures],
                "mtime_ns": [f.item.mtime_ns for f in failures],
                "etag": [f.item.etag for f in failures],
            },
        )


def list_quarantine(pool: PostgresPool, collection: Collection) -> list[QuarantineEntry]:
    """Documents set aside, by id."""
    rows = _fetch(pool, statements.LIST_QUARANTINE, {"collection_id": collection.collection_id})
    return [QuarantineEntry(*row) for row in rows]


def has_quarantined(pool: PostgresPool, collection: Collection) -> bool:
    """Whether any document is set aside."""
    return bool(_fetch(pool, statements.HAS_QUARANTINE, {"collection_id": collection.collection_id})[0][0])


def get_quarantined(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> dict[str, Held]:
    """Those of these documents that are set aside, by id."""
    rows = _fetch(
        pool,
        statements.GET_QUARANTINE,
        {"collection_id": collection.collection_id, "document_ids": list(document_ids)},
    )
    return {row[0]: Held(row[1], row[2], row[3], row[4:]) for row in rows}


def release_quarantine(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> int:
    """Let the next ingest try these again, all of them where none is named; returns how many."""
    with pool.transaction() as cursor:
        cursor.execute(
            statements.RELEASE_QUARANTINE,
            {
                "collection_id": collection.collection_id,
                "all": not document_ids,
                "document_ids": list(document_ids),
            },
        )
        return cursor.rowcount


def _fetch(pool: PostgresPool, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


def _printable(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()
