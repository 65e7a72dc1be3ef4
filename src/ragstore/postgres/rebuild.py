"""PostgreSQL side of a repair: changes of rows and of the ledger, and rebuilds of tables and indexes.

Steps of a ``Change``; each change is one transaction, which first locks and checks again what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from ragstore.errors import RefusedError, StoreBusyError, StoreSetupError, as_owner
from ragstore.model.collection import Collection
from ragstore.model.run import Vectors
from ragstore.postgres import scan, segments, statements
from ragstore.postgres.change import Change
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import execute, fetch, fetch_first, fetch_ids
from ragstore.postgres.scan import LedgerLine
from ragstore.postgres.turn import exclusive

_LOCK = (0x5241_4752, 0)  # "RAGR"
_WAIT_FOR_DEAD_S = 3.0
"""PostgreSQL may take a moment to notice that a killed repair has ended."""

_WAIT_FOR_BUILD_S = 600.0

# Each row is checked again: only a copy of a row that stays is deleted.
DELETE_COPIES = """
DELETE FROM {table} AS copy WHERE node_id = ANY(%(ids)s::text[]) AND EXISTS (
    SELECT FROM {table} AS original
    WHERE original.text = copy.text AND original.node_id <> ALL(%(ids)s::text[])
        AND original.document_id = coalesce(copy.document_id, copy.metadata_->>'ref_doc_id')
) RETURNING node_id
"""

# A new revision, so that entries of former revisions in MongoDB are older.
PUT_LEDGER = """
UPDATE ragstore.document d SET
    source_uri = new.source_uri,
    revision = greatest(d.revision, new.revision, (
        SELECT coalesce(max(e.revision), 0) FROM ragstore.event e
        WHERE e.collection = %(name)s AND e.document_id = d.document_id)) + 1,
    n_nodes = (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id),
    fingerprint = new.fingerprint, content_hash = new.content_hash, doc_hash = new.doc_hash,
    size = NULL, mtime_ns = NULL, etag = NULL, ctime_ns = NULL, notes = '{}', metadata = new.metadata,
    published_at = now(), deleted_at = NULL
FROM unnest(%(document_id)s::text[], %(source_uri)s::text[], %(revision)s::bigint[], %(fingerprint)s::text[],
            %(content_hash)s::text[], %(doc_hash)s::text[], %(metadata)s::jsonb[])
    AS new (document_id, source_uri, revision, fingerprint, content_hash, doc_hash, metadata)
WHERE d.collection_id = %(collection_id)s AND d.document_id = new.document_id
"""

RECOUNT = """
UPDATE ragstore.document d SET revision = d.revision + 1,
    n_nodes = (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id)
WHERE d.collection_id = %(collection_id)s AND d.document_id = ANY(%(ids)s::text[])
"""

# Without the columns that identify a known source, the next ingest or refresh reads the document again; a member of a
# container is read with that, whose file it names as its source. Only documents
# of an ingest have a fingerprint, and keep one: by it a sync recognises its own documents.
FORGET_SOURCES = """
UPDATE ragstore.document SET fingerprint = CASE WHEN fingerprint IS NOT NULL THEN '' END, content_hash = NULL,
    doc_hash = NULL, size = NULL, mtime_ns = NULL, etag = NULL, ctime_ns = NULL
WHERE collection_id = %(collection_id)s AND (document_id = ANY(%(ids)s::text[]) OR document_id = ANY(
    SELECT source_uri FROM ragstore.document
    WHERE collection_id = %(collection_id)s AND document_id = ANY(%(ids)s::text[])))
"""

SET_VECTORS = """
UPDATE {table} t SET embedding = new.embedding::vector
FROM unnest(%(node_id)s::text[], %(stamp)s::bigint[], %(embedding)s::text[]) AS new (node_id, stamp, embedding)
WHERE t.node_id = new.node_id AND t.id = new.stamp
"""

DELETE_ROWS = """
DELETE FROM {table} t USING unnest(%(node_id)s::text[], %(id)s::bigint[]) AS found (node_id, id)
WHERE t.node_id = found.node_id AND t.id = found.id
"""

WHOLE_ROWS = """
SELECT t.node_id::text, t.id, t.document_id, to_jsonb(t)::text FROM {table} t WHERE t.node_id = ANY(%(ids)s::text[])
"""

FIRST_ROWS = """
SELECT DISTINCT ON (document_id) document_id, user_metadata, chunk_hash IS NOT NULL, metadata_->>'_node_content'
FROM {table} WHERE document_id = ANY(%(ids)s::text[]) ORDER BY document_id, ordinal, id
"""

IS_OWNER = """
SELECT pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'ragstore' AND c.relname = %(relation)s
"""

# Without a revision: readers see the document at the revision that it had.
ADD_RESTORED = """
INSERT INTO ragstore.event (worker, collection, document_id, action, run_id, n_nodes, n_embedded)
SELECT %(worker)s, %(name)s, document_id, 'repaired', %(run_id)s, n_nodes, n_embedded
FROM unnest(%(document_id)s::text[], %(n_nodes)s::int[], %(n_embedded)s::int[])
    AS new (document_id, n_nodes, n_embedded)
"""

LACKS_SOMETHING = """
SELECT to_regclass(%(table)s) IS NULL OR EXISTS (
    SELECT FROM (
        SELECT format('data_%%s_%%s_idx', %(name)s::text, of_all)
        FROM unnest(ARRAY['document', 'chunk_hash', 'text', 'metadata']) AS of_all
        UNION ALL SELECT index_name FROM ragstore.filter_indexes(%(name)s)
    ) AS wanted (index_name) WHERE to_regclass(format('ragstore.%%I', index_name)) IS NULL)
"""


@dataclass(frozen=True, slots=True)
class LostDocument:
    """A document that the ledger lost, with what the stores still know of it.

    Args:
        revision: the latest one that is known; the ledger gets a later one.
        from_ingest: an ingest read it, and will read it again.
    """

    document_id: str
    source_uri: str
    revision: int
    from_ingest: bool
    content_hash: str | None
    doc_hash: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FirstRow:
    """The first row of a document, with the data of the document that its nodes repeat."""

    user_metadata: dict[str, Any]
    staged: bool
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WholeRow:
    """A row of a vector table, as JSON."""

    node_id: str
    row_id: int
    document_id: str | None
    content: str


def lock(
    change: Change, document_ids: Sequence[str], node_ids: Sequence[str] = (), *, lock_sourceless: bool = False
) -> dict[str, LedgerLine]:
    """Lock these documents as every writer does, then read their state again."""
    change.lock_nodes(document_ids, list(node_ids), lock_sourceless=lock_sourceless)
    rows = fetch(change.cursor, scan.LEDGER_OF_IDS, change.collection, ids=list(document_ids))
    return {row[0]: LedgerLine(*row) for row in rows}


def known(change: Change, node_ids: Sequence[str]) -> set[str]:
    """The ones among these nodes that are live, in flight or in the outbox."""
    return set(fetch_ids(change.cursor, scan.STATES, change.collection, ids=list(node_ids)))


def put_ledger(change: Change, documents: Sequence[LostDocument]) -> None:
    """Make these documents live, with the rows that they have."""
    execute(
        change.cursor,
        PUT_LEDGER,
        change.collection,
        document_id=[d.document_id for d in documents],
        source_uri=[d.source_uri for d in documents],
        revision=[d.revision for d in documents],
        # Not the present fingerprint, with which the document would not be read again. Not NULL either: LlamaIndex
        # code would take the documents of an ingest for its own, and find them missing in its own listing.
        fingerprint=["" if d.from_ingest else None for d in documents],
        content_hash=[d.content_hash for d in documents],
        doc_hash=[d.doc_hash for d in documents],
        metadata=[orjson.dumps(d.metadata).decode() for d in documents],
    )
    change.add_events([(d.document_id, "repaired", 0, None) for d in documents])


def recount(change: Change, document_ids: Sequence[str]) -> None:
    """Set the ledger's number of nodes to the rows that these live documents have."""
    execute(change.cursor, RECOUNT, change.collection, ids=list(document_ids))
    change.add_events([(i, "repaired", 0, None) for i in document_ids])


def forget_sources(change: Change, document_ids: Sequence[str]) -> None:
    """Mark these documents to be read again."""
    execute(change.cursor, FORGET_SOURCES, change.collection, ids=list(document_ids))


def delete_copies(change: Change, node_ids: Sequence[str]) -> list[str]:
    """Delete rows whose text is also in another row of their document; returns their node ids."""
    return fetch_ids(change.cursor, DELETE_COPIES, change.collection, ids=list(node_ids))


def delete_rows(change: Change, rows: Mapping[str, int]) -> None:
    """Delete rows (node id, row id) that still exist with this row id."""
    execute(change.cursor, DELETE_ROWS, change.collection, node_id=list(rows), id=list(rows.values()))


def set_vectors(change: Change, states: Sequence[tuple[str, int]], vectors: Vectors) -> None:
    """Replace the vectors of live nodes that are still in this state (node id, stamp)."""
    execute(
        change.cursor,
        SET_VECTORS,
        change.collection,
        node_id=[node_id for node_id, _ in states],
        stamp=[stamp for _, stamp in states],
        embedding=[orjson.dumps(v, option=orjson.OPT_SERIALIZE_NUMPY).decode() for v in vectors.astype(np.float32)],
    )
    segments.forget_from(change.cursor, change.collection, [stamp for _, stamp in states])


def add_restored(change: Change, events: Sequence[tuple[str | None, int, int]]) -> None:
    """Append to the audit trail: (document_id, restored nodes, computed vectors) each."""
    execute(
        change.cursor,
        ADD_RESTORED,
        change.collection,
        worker=change.run.worker,
        run_id=change.run.run_id,
        document_id=[e[0] for e in events],
        n_nodes=[e[1] for e in events],
        n_embedded=[e[2] for e in events],
    )


@contextmanager
def exclusive_repair(pool: PostgresPool) -> Iterator[None]:
    """Exclude other repairs for the length of the block.

    Raises:
        RefusedError: another repair is running.
    """
    with exclusive(pool, _LOCK, wait_s=_WAIT_FOR_DEAD_S) as is_mine:
        if not is_mine:
            raise RefusedError("another repair is at work", hint="wait for it, then run 'ragstore verify'")
        yield


def first_rows(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> dict[str, FirstRow]:
    """The first row of each of these documents, by document id; without those that have no rows."""
    rows = fetch(pool, FIRST_ROWS, collection, ids=list(document_ids))
    return {row[0]: FirstRow(row[1], row[2], _content(row[3])) for row in rows}


def whole_rows(pool: PostgresPool, collection: Collection, node_ids: Sequence[str]) -> list[WholeRow]:
    """The ones among these rows that exist."""
    return [WholeRow(*row) for row in fetch(pool, WHOLE_ROWS, collection, ids=list(node_ids))]


def ensure_table(pool: PostgresPool, collection: Collection) -> None:
    """Create the vector table and its indexes, as far as they are missing.

    The segments of a lost table do not hold for a new one, and are removed.

    Raises:
        StoreBusyError: another build of an index of the table takes minutes.

    Crash safety:
        One transaction, idempotent.
    """
    # Checked first, because CREATE INDEX IF NOT EXISTS locks the table even if the index exists.
    if not _lacks_something(pool, collection):
        return
    with _no_index_build(pool, collection), pool.transaction() as cursor:
        if fetch_first(cursor, "SELECT to_regclass(%(table)s) IS NULL", table=quoted_table(collection)):
            segments.forget_all(cursor, collection)
        execute(cursor, statements.ENSURE_COLLECTION_TABLE, collection)


def reindex(pool: PostgresPool, collection: Collection, index: str) -> None:
    """Rebuild an index while it is in use.

    Crash safety:
        A killed rebuild leaves an invalid index, which the next repair rebuilds or drops.
    """
    with _no_index_build(pool, collection), pool.autocommit() as connection, connection.cursor() as cursor:
        _require_owner(cursor, index)
        # Left by a killed rebuild; it would never be used.
        if index.endswith(("_ccnew", "_ccold")):
            connection.outside(f'DROP INDEX CONCURRENTLY IF EXISTS ragstore."{index}"', statement_timeout="0")
        else:
            connection.outside(f'REINDEX INDEX CONCURRENTLY ragstore."{index}"', statement_timeout="0")


def segment(pool: PostgresPool, collection: Collection, table: str) -> None:
    """Rebuild a segment's table from the rows of the vector table.

    Crash safety:
        Until it is done searches compare every node; the next repair does the same again.
    """
    with _no_index_build(pool, collection), pool.autocommit() as connection, connection.cursor() as cursor:
        _require_owner(cursor, collection.table)
    segments.rebuild(pool, collection, int(table.split("_")[2]))


def _lacks_something(pool: PostgresPool, collection: Collection) -> bool:
    return bool(fetch_first(pool, LACKS_SOMETHING, collection, table=quoted_table(collection)))


@contextmanager
def _no_index_build(pool: PostgresPool, collection: Collection) -> Iterator[None]:
    """Exclude builds of this collection's indexes for the length of the block; waits for one that is running.

    Waiting inside a statement would hold a snapshot that CREATE INDEX CONCURRENTLY in turn waits for: a deadlock.

    Raises:
        StoreBusyError: the running build takes minutes.
    """
    with exclusive(pool, (segments.LOCK_SPACE, collection.collection_id), wait_s=_WAIT_FOR_BUILD_S) as is_mine:
        if not is_mine:
            raise StoreBusyError(
                f"an index of collection {collection.name!r} is being built",
                hint="wait until it is done, then run 'ragstore repair' again",
                collection=collection.name,
            )
        yield


def _require_owner(cursor: Cursor, relation: str) -> None:
    """Refuse a role that does not own the relation, before anything is changed."""
    cursor.execute(IS_OWNER, {"relation": relation})
    row = cursor.fetchone()
    if row is not None and not row[0]:
        raise StoreSetupError(
            f"{relation} must be built anew, and belongs to the role {row[1]}",
            hint=as_owner("repair", row[1]),
        )


def _content(text: str | None) -> dict[str, Any]:
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
