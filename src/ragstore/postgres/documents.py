"""Documents, their history, the quarantine and gauges: reads from the ledger, and changes of the quarantine."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ragstore.errors import RagstoreError
from ragstore.model.collection import Collection, Found
from ragstore.model.document import IN_CONTAINER, DocumentState, Event, QuarantineEntry, SourceItem, SourceState
from ragstore.postgres import statements
from ragstore.postgres.collections import nodes_without_document, to_found
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import BEGIN_SNAPSHOT, cursor_pages, execute, fetch, fetch_first, fetch_ids, pages

PAGE = 1_000
_SPANS_AT_ONCE = 500

GAUGES = """
SELECT totals.*, c.name, c.n_documents, c.n_nodes, c.n_quarantined, c.n_segments, c.found
FROM (
    SELECT (SELECT count(*) FROM ragstore.outbox),
           (SELECT coalesce(extract(epoch FROM now() - min(not_before)), 0)::float8 FROM ragstore.outbox
            WHERE not_before <= now()),
           (SELECT count(*) FROM ragstore.run),
           (SELECT count(*) FROM ragstore.run WHERE lease_until < now())
) AS totals (n_outbox, oldest_due_s, n_runs, n_runs_expired)
LEFT JOIN (
    SELECT name, coalesce(d.n, 0) AS n_documents, coalesce(d.n_nodes, 0)::bigint AS n_nodes,
           coalesce(q.n, 0) AS n_quarantined, jsonb_array_length(segments) AS n_segments,
           effort->'found' AS found
    FROM ragstore.collection
    LEFT JOIN (SELECT collection_id, count(*) AS n, sum(n_nodes) AS n_nodes FROM ragstore.live_document
               GROUP BY 1) AS d USING (collection_id)
    LEFT JOIN (SELECT collection_id, count(*) AS n FROM ragstore.quarantine GROUP BY 1) AS q USING (collection_id)
) AS c ON true ORDER BY c.name
"""

_MISSING_TABLES = """
SELECT name FROM ragstore.collection WHERE to_regclass(format('ragstore.%I', 'data_' || name)) IS NULL ORDER BY name
"""

_BELOW = """
SELECT document_id, source_uri, revision FROM ragstore.document
WHERE collection_id = %(collection_id)s AND deleted_at IS NULL AND revision > 0
    AND (document_id ^@ %(document_id)s OR source_uri ^@ %(source_uri)s)
"""

_QUARANTINED_BELOW = """
SELECT document_id, source_uri, 0 FROM ragstore.quarantine
WHERE collection_id = %(collection_id)s AND (document_id ^@ %(document_id)s OR source_uri ^@ %(source_uri)s)
"""

_READINGS = """
SELECT document_id, chunk_hash, start_char, end_char, user_metadata FROM {table}
WHERE document_id = ANY(%(document_ids)s::text[]) ORDER BY document_id, ordinal, id
"""


LIVE_REVISION = """
SELECT coalesce((SELECT revision FROM ragstore.live_document
                 WHERE collection_id = %(collection_id)s AND document_id = %(document_id)s), 0)
"""

SPANS = """
DECLARE spans NO SCROLL CURSOR FOR
SELECT text, start_char, end_char, user_metadata FROM {table}
WHERE document_id = %(document_id)s
    AND (start_char IS NULL OR end_char IS NULL
         OR end_char > %(start_char)s AND start_char < coalesce(%(end_char)s, 2147483647))
ORDER BY start_char NULLS FIRST, ordinal, id
"""

SPAN_END = """
SELECT coalesce(max(end_char), 0) FROM {table} WHERE document_id = %(document_id)s
"""


class Span(NamedTuple):
    """A live chunk of a document; positions are None where LlamaIndex code gave none."""

    text: str
    start_char: int | None
    end_char: int | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class QuarantineState:
    """Why a document is in quarantine.

    Args:
        seen: size, mtime_ns and etag of the source when it was set aside.
        ctime_ns: its time of the last change of any kind then; None if unknown.
    """

    retry: str
    code: str
    reason: str
    seen: tuple[int | None, int | None, str | None]
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a source item could not become a document's revision."""

    item: SourceItem
    error: RagstoreError


@dataclass(frozen=True, slots=True)
class KnownSource:
    """A document that the ledger has; ``revision`` is 0 if it is only in quarantine."""

    document_id: str
    source_uri: str
    revision: int


@dataclass(frozen=True, slots=True)
class CollectionGauges:
    """Numbers of one collection: live, in quarantine, and how well searches find its vectors.

    Args:
        found: result of the last measurement of searches; None if there was none.
    """

    name: str
    n_documents: int
    n_nodes: int
    n_quarantined: int
    n_segments: int
    found: Found | None


@dataclass(frozen=True, slots=True)
class LedgerGauges:
    """The ledger at one moment.

    Args:
        oldest_due_s: seconds for which the oldest due outbox row has waited; 0 if none is due.
        n_runs_expired: runs whose lease ran out and that are not recovered yet.
    """

    n_outbox: int
    oldest_due_s: float
    n_runs: int
    n_runs_expired: int
    collections: list[CollectionGauges]


def get_documents(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> dict[str, DocumentState]:
    """The ledger's rows of these documents by id, deleted ones included."""
    rows = fetch(pool, statements.GET_DOCUMENTS, collection, document_ids=list(document_ids))
    return {row[0]: DocumentState(*row) for row in rows}


def get_source_states(
    pool: PostgresPool, collection: Collection, document_ids: Sequence[str]
) -> dict[str, SourceState]:
    """The values that show whether these documents changed, by id, deleted ones included."""
    rows = fetch(pool, statements.GET_SOURCE_STATES, collection, document_ids=list(document_ids))
    return {row[0]: SourceState._make(row) for row in rows}


def spans(
    pool: PostgresPool, collection: Collection, document_id: str, start_char: int, end_char: int | None
) -> Generator[Any]:
    """What ``span_end`` returns, and then the document's spans between two offsets, all from one snapshot."""
    with pool.transaction() as cursor:
        execute(cursor, BEGIN_SNAPSHOT)
        yield _span_end(cursor, collection, document_id)
        execute(cursor, SPANS, collection, document_id=document_id, start_char=start_char, end_char=end_char)
        for rows in cursor_pages(cursor, "spans", limit=_SPANS_AT_ONCE):
            yield from map(Span._make, rows)


def span_end(pool: PostgresPool, collection: Collection, document_id: str) -> tuple[int, int]:
    """The live revision of a document, 0 for none, and the offset after its last span."""
    with pool.transaction() as cursor:
        execute(cursor, BEGIN_SNAPSHOT)
        return _span_end(cursor, collection, document_id)


def _span_end(cursor: Cursor, collection: Collection, document_id: str) -> tuple[int, int]:
    revision: int = fetch_first(cursor, LIVE_REVISION, collection, document_id=document_id)
    return revision, fetch_first(cursor, SPAN_END, collection, document_id=document_id)


def get_members(pool: PostgresPool, collection: Collection, container: SourceItem) -> dict[str, SourceState]:
    """The live documents that an ingest read from this container, by id."""
    rows = fetch(pool, statements.GET_MEMBERS, collection, **_of_container(container))
    return {row[0]: SourceState._make(row) for row in rows}


def with_members(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> list[str]:
    """The live ones among these documents, and the live documents in those that are containers."""
    beginnings = [f"{document_id}{IN_CONTAINER}" for document_id in document_ids]
    rows = fetch(pool, statements.WITH_MEMBERS, collection, document_ids=list(document_ids), beginnings=beginnings)
    return [row[0] for row in rows]


def get_quarantined_members(pool: PostgresPool, collection: Collection, container: SourceItem) -> list[str]:
    """Ids of members of this container that are in quarantine."""
    return [row[0] for row in fetch(pool, statements.QUARANTINED_MEMBERS, collection, **_of_container(container))]


def containers_to_retry(pool: PostgresPool, collection: Collection) -> set[str]:
    """URIs of containers with members in quarantine that are to be tried again."""
    return {row[0] for row in fetch(pool, statements.CONTAINERS_TO_RETRY, collection, mark=IN_CONTAINER)}


def _of_container(container: SourceItem) -> dict[str, str]:
    return {"source_uri": container.source_uri, "beginning": f"{container.document_id}{IN_CONTAINER}"}


def find_by_content(
    pool: PostgresPool, collection: Collection, content_hashes: Sequence[str]
) -> dict[str, list[DocumentState]]:
    """Live documents with one of these content hashes, by hash."""
    found: dict[str, list[DocumentState]] = {}
    for row in fetch(pool, statements.FIND_BY_CONTENT, collection, content_hashes=list(content_hashes)):
        state = DocumentState(*row)
        found.setdefault(str(state.content_hash), []).append(state)
    return found


def iter_documents(pool: PostgresPool, collection: Collection) -> Iterator[DocumentState]:
    """Live documents in the order of their ids, a page at a time."""
    for rows in pages(pool, statements.PAGE_DOCUMENTS, collection, limit=PAGE):
        yield from (DocumentState(*row) for row in rows)


def page_of_sources(
    pool: PostgresPool, collection: Collection, folders: Sequence[str], *, after: str, quarantined: bool = False
) -> list[KnownSource]:
    """The next live documents that an ingest read from files below these folders, in the order of their ids.

    Documents with an escaped URI are included from any folder. A page of fewer than ``PAGE`` documents is the last.

    Args:
        after: the last id of the previous page, the empty string for the first page.
        quarantined: page through the documents in quarantine instead, live or not.
    """
    statement = statements.PAGE_QUARANTINED_SOURCES if quarantined else statements.PAGE_SOURCES
    rows = fetch(pool, statement, collection, folders=list(folders), after=after, limit=PAGE)
    return [KnownSource(*row) for row in rows]


def has_below(pool: PostgresPool, collection: Collection, beginnings: tuple[str, str]) -> bool:
    """Whether live documents have an id or a source URI with one of these beginnings."""
    document_id, source_uri = beginnings
    return bool(fetch(pool, f"{_BELOW} LIMIT 1", collection, document_id=document_id, source_uri=source_uri))


def find_below(
    pool: PostgresPool, collection: Collection, beginnings: tuple[str, str], *, quarantined: bool = False
) -> list[KnownSource]:
    """The live documents with an id or a source URI with one of these beginnings, in the order of their ids.

    Args:
        quarantined: the documents in quarantine instead, live or not.
    """
    document_id, source_uri = beginnings
    statement = _QUARANTINED_BELOW if quarantined else _BELOW
    rows = fetch(pool, f"{statement} ORDER BY document_id", collection, document_id=document_id, source_uri=source_uri)
    return [KnownSource(*row) for row in rows]


def count_live(pool: PostgresPool, collection: Collection) -> int:
    """Number of live documents of a collection, from all sources."""
    return int(fetch_first(pool, statements.COUNT_LIVE, collection))


@dataclass(frozen=True, slots=True)
class Touched:
    """A document whose content is unchanged, with its source as it is now.

    Args:
        fingerprint: the new one, if it was read again and reads as before; None if it was not read.
        notes: those of that reading.
    """

    item: SourceItem
    revision: int
    fingerprint: str | None = None
    notes: dict[str, int | str] | None = None


def touch_documents(pool: PostgresPool, collection: Collection, touched: Sequence[Touched]) -> None:
    """Record size and times of documents whose content is unchanged.

    They also leave quarantine, because their source could be read.
    """
    if not touched:
        return
    items = [each.item for each in touched]
    with pool.transaction() as cursor:
        execute(
            cursor,
            statements.TOUCH_DOCUMENTS,
            collection,
            document_id=[item.document_id for item in items],
            revision=[each.revision for each in touched],
            size=[item.size for item in items],
            mtime_ns=[item.mtime_ns for item in items],
            etag=[item.etag for item in items],
            ctime_ns=[item.ctime_ns for item in items],
            fingerprint=[each.fingerprint for each in touched],
            notes=[None if each.notes is None else orjson.dumps(each.notes).decode() for each in touched],
        )
        execute(cursor, statements.CLEAR_QUARANTINE, collection, document_ids=[item.document_id for item in items])


ChunkAsRead = tuple[bytes | None, int | None, int | None, dict[str, Any]]
"""What a reading says of a chunk: its hash, where it begins and ends, and its metadata."""


def get_readings(
    pool: PostgresPool, collection: Collection, document_ids: Sequence[str]
) -> dict[str, list[ChunkAsRead]]:
    """The chunks of these live documents in their order, by document."""
    found: dict[str, list[ChunkAsRead]] = {}
    for document_id, chunk_hash, *rest in fetch(pool, _READINGS, collection, document_ids=list(document_ids)):
        known = None if chunk_hash is None else bytes(chunk_hash)
        found.setdefault(document_id, []).append((known, *rest))
    return found


def history(pool: PostgresPool, collection: Collection, document_id: str) -> list[Event]:
    """The audit trail of one document, oldest first."""
    rows = fetch(pool, statements.HISTORY, collection=collection.name, document_id=document_id)
    return [Event(*row) for row in rows]


def put_quarantine(pool: PostgresPool, collection: Collection, failures: Sequence[Failure], *, worker: str) -> None:
    """Put documents into quarantine and count the attempts; a live revision stays live."""
    if not failures:
        return
    with pool.transaction() as cursor:
        execute(
            cursor,
            statements.PUT_QUARANTINE,
            collection,
            collection=collection.name,
            worker=worker,
            document_id=[f.item.document_id for f in failures],
            source_uri=[f.item.source_uri for f in failures],
            code=[f.error.code for f in failures],
            reason=[_printable(f.error.message) for f in failures],
            hint=[_printable(f.error.hint) for f in failures],
            retry=[f.error.retry.value for f in failures],
            size=[f.item.size for f in failures],
            mtime_ns=[f.item.mtime_ns for f in failures],
            etag=[f.item.etag for f in failures],
            ctime_ns=[f.item.ctime_ns for f in failures],
        )


def list_quarantine(pool: PostgresPool, collection: Collection) -> list[QuarantineEntry]:
    """Documents in quarantine, in the order of their ids."""
    return [QuarantineEntry(*row) for row in fetch(pool, statements.LIST_QUARANTINE, collection)]


def has_quarantined(pool: PostgresPool, collection: Collection) -> bool:
    return bool(fetch_first(pool, statements.HAS_QUARANTINE, collection))


def get_quarantined(
    pool: PostgresPool, collection: Collection, document_ids: Sequence[str]
) -> dict[str, QuarantineState]:
    """The ones among these documents that are in quarantine, by id."""
    rows = fetch(pool, statements.GET_QUARANTINE, collection, document_ids=list(document_ids))
    return {row[0]: QuarantineState(row[1], row[2], row[3], row[4:7], row[7]) for row in rows}


def release_quarantine(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> int:
    """Let the next ingest try these documents again, or all if none is named; returns how many."""
    with pool.transaction() as cursor:
        parameters = {"all": not document_ids, "document_ids": list(document_ids)}
        execute(cursor, statements.RELEASE_QUARANTINE, collection, **parameters)
        return cursor.rowcount


def forget_quarantined(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> None:
    """Remove documents from quarantine whose source no longer exists."""
    if document_ids:
        with pool.transaction() as cursor:
            execute(cursor, statements.CLEAR_QUARANTINE, collection, document_ids=list(document_ids))


def read_gauges(pool: PostgresPool) -> LedgerGauges:
    """All gauges in one snapshot, except nodes without a document, which are counted after it.

    Raises:
        StoreError
    """
    rows = fetch(pool, GAUGES)
    n_outbox, oldest_due_s, n_runs, n_runs_expired = rows[0][:4]
    more = nodes_without_document(pool)
    each = [
        CollectionGauges(name, n_documents, n_nodes + more.get(name, 0), n_quarantined, n_segments, to_found(found))
        for name, n_documents, n_nodes, n_quarantined, n_segments, found in (
            row[4:] for row in rows if row[4] is not None
        )
    ]
    return LedgerGauges(n_outbox, oldest_due_s, n_runs, n_runs_expired, each)


def missing_tables(pool: PostgresPool) -> list[str]:
    """Names of collections whose vector table is missing."""
    return fetch_ids(pool, _MISSING_TABLES)


def ping(pool: PostgresPool) -> None:
    """Raise StoreError if PostgreSQL does not answer."""
    fetch(pool, "SELECT 1")


def _printable(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()
