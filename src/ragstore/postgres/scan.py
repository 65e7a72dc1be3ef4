"""Reads of a collection's state in PostgreSQL for audits: all of it in the byte order of ids, or some ids.

MongoDB streams its keys in the same order, so that the two streams can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ragstore.model.collection import Collection
from ragstore.model.node import TYPE_KEYS, content_with_text
from ragstore.model.run import RefDoc
from ragstore.model.storable import stored_json
from ragstore.postgres import statements
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.run import Rows, Target, fetch, fetch_first, fetch_ids
from ragstore.postgres.segment_tables import table_of

PAGE_IDS = 10_000
PAGE_NODES = 1_000

# A scan's snapshot must outlast the work on a page, such as embedding it; it must not outlast a paused process.
_STREAM = """
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '15min';
SET LOCAL cursor_tuple_fraction = 1; DECLARE scan NO SCROLL CURSOR FOR {statement}"""

_NO_TABLE = """(SELECT NULL::bigint AS id, NULL::text AS text, NULL::jsonb AS metadata_, NULL::text AS node_id,
    NULL::vector AS embedding, NULL::text AS document_id, NULL::integer AS ordinal, NULL::bytea AS chunk_hash,
    NULL::jsonb AS user_metadata WHERE false) AS absent"""

# COLLATE "C" orders by bytes, as MongoDB does.
NODE_IDS = """
SELECT node_id FROM (
    SELECT node_id::text FROM {table}
    UNION ALL
    SELECT node_id FROM ragstore.body WHERE collection_id = %(collection_id)s
) AS live ORDER BY node_id COLLATE "C"
"""

# The record decompresses metadata_ once, not once per key; a foreign row may contain anything.
NODES_OF_IDS = """
SELECT node_id::text, id, chunk_hash IS NOT NULL, held._node_type, held._node_content, text::text, document_id,
    held.ref_doc_id, vector_dims(embedding) = %(dim)s
        AND vector_norm(embedding::vector) BETWEEN 1e-18 AND 1e18
FROM {table} CROSS JOIN LATERAL
    jsonb_to_record(CASE jsonb_typeof(metadata_) WHEN 'object' THEN metadata_ ELSE '{}' END)
    AS held (_node_type text, _node_content text, ref_doc_id text)
WHERE node_id = ANY(%(ids)s::text[])
UNION ALL
SELECT node_id, stamp, false, type_key, content::text, NULL, document_id, NULL, NULL FROM ragstore.body
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(ids)s::text[])
"""

# One statement, so that a node on its way from one state to the next is seen in one of them.
STATES = """
SELECT node_id, id FROM {table} WHERE node_id = ANY(%(ids)s::text[])
UNION ALL
SELECT node_id, stamp FROM ragstore.body
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(ids)s::text[])
UNION ALL
SELECT id, NULL FROM ragstore.run, unnest(node_ids) AS id
WHERE collection_id = %(collection_id)s AND id = ANY(%(ids)s::text[])
UNION ALL
SELECT id, NULL FROM ragstore.outbox, unnest(ids) AS id
WHERE namespace = %(name)s AND action <> 'put_ref_docs' AND id = ANY(%(ids)s::text[])
"""

# Ledger and rows change in one transaction, so one statement sees them agree.
_COUNTED = """
SELECT coalesce(d.document_id, rows.document_id) AS document_id, coalesce(d.revision, 0),
    coalesce(d.deleted_at IS NULL AND d.revision > 0, false), coalesce(d.n_nodes, 0), coalesce(rows.n_rows, 0),
    d.doc_hash, d.content_hash, d.revision > 0
FROM (SELECT * FROM ragstore.document WHERE collection_id = %(collection_id)s{documents}) AS d
FULL JOIN (
    SELECT document_id, count(*)::integer AS n_rows FROM {table}
    WHERE document_id IS NOT NULL{rows} GROUP BY document_id
) AS rows USING (document_id)
"""

LEDGER = (
    "SELECT * FROM ("
    + _COUNTED.replace("{documents}", "").replace("{rows}", "")
    + """) AS line (document_id, revision, live, n_nodes, n_rows, doc_hash, content_hash, known)
WHERE live OR n_rows > 0 ORDER BY document_id COLLATE "C"
"""
)

LEDGER_OF_IDS = _COUNTED.replace("{documents}", " AND document_id = ANY(%(ids)s::text[])").replace(
    "{rows}", " AND document_id = ANY(%(ids)s::text[])"
)

LIVE_DOCUMENTS = """
SELECT document_id, revision, doc_hash FROM ragstore.live_document
WHERE collection_id = %(collection_id)s ORDER BY document_id COLLATE "C"
"""

PENDING_ENTRIES = """
SELECT DISTINCT id FROM ragstore.outbox, unnest(ids) AS id
WHERE namespace = %(name)s AND action = 'put_ref_docs' AND id = ANY(%(ids)s::text[])
"""

# A copy of a row under another node id. MongoDB tells which one is the original: that has a body.
COPIES = """
SELECT copy.node_id, array_agg(original.node_id::text) FROM {table} AS copy JOIN {table} AS original
    ON original.text = copy.text AND original.node_id <> copy.node_id
    AND original.document_id = coalesce(copy.document_id, copy.metadata_->>'ref_doc_id')
    AND (original.ordinal = copy.ordinal OR copy.document_id IS NULL)
WHERE copy.node_id = ANY(%(ids)s::text[]) GROUP BY copy.node_id
"""

EVER_PUBLISHED = """
SELECT DISTINCT document_id FROM ragstore.event
WHERE collection = %(name)s AND document_id = ANY(%(ids)s::text[]) AND revision > 0
"""

# Nothing from before this time can still publish: the begin of the oldest run in flight, or the last event.
OLDER_THAN = """
SELECT least((SELECT min(begun_at) FROM ragstore.run WHERE collection_id = %(collection_id)s),
             (SELECT max(at) FROM ragstore.event WHERE collection = %(name)s))
"""

UNUSED_NAMES = """
SELECT name, EXISTS (SELECT FROM ragstore.event e WHERE e.collection = name AND e.action = 'collection_dropped')
FROM unnest(%(names)s::text[]) AS given (name)
WHERE NOT EXISTS (SELECT FROM ragstore.collection c WHERE c.name = given.name)
"""

PENDING_IDS = """
SELECT DISTINCT id FROM ragstore.outbox, unnest(ids) AS id
WHERE namespace = %(namespace)s AND id = ANY(%(ids)s::text[])
"""

COUNT_PENDING_ELSEWHERE = """
SELECT count(*) FROM ragstore.outbox o
WHERE NOT EXISTS (SELECT FROM ragstore.collection c WHERE c.name = o.namespace OR c.collection_id = o.collection_id)
"""

COUNT_PENDING = """
SELECT (SELECT count(*) FROM ragstore.outbox
        WHERE namespace = %(name)s OR namespace = 'index_store' AND collection_id = %(collection_id)s)
     + (SELECT count(*) FROM ragstore.run WHERE collection_id = %(collection_id)s)
"""

INDEXES = """
SELECT c.relname, i.indisvalid AND i.indisready FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass(%(table)s)
"""

IS_BUILDING = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = %(space)s::bigint::oid AND objid = %(collection_id)s::bigint::oid)
"""


@dataclass(frozen=True, slots=True)
class ScannedNode:
    """A live node with everything that MongoDB must agree with.

    Args:
        staged: MongoDB may have it with stamp 0.
        content: as MongoDB must have it; None if the row does not contain a node of that id.
        usable: whether its vector can be searched; None for a node without a vector.
    """

    node_id: str
    stamp: int
    staged: bool
    type_key: str
    content: dict[str, Any] | None
    usable: bool | None
    document_id: str | None = None


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """The ledger's row of a document, and the number of its rows in the vector table.

    Args:
        known: the ledger says that it was published at some time.
    """

    document_id: str
    revision: int
    live: bool
    n_nodes: int
    n_rows: int
    doc_hash: str | None = None
    content_hash: str | None = None
    known: bool = False


class LiveDocument(NamedTuple):
    """The values that MongoDB's entries of a document must at least agree with."""

    document_id: str
    revision: int
    doc_hash: str | None


@dataclass(frozen=True, slots=True)
class States:
    """State of node ids at one moment: stamps of live nodes, and ids in a run or the outbox."""

    live: dict[str, int]
    pending: set[str]

    def stable_stamp(self, node_id: str) -> int | None:
        """The stamp of a live node that no run and no outbox row names."""
        return None if node_id in self.pending else self.live.get(node_id)

    def knows(self, node_id: str) -> bool:
        """Whether the node is live, or a run or outbox row names it."""
        return node_id in self.live or node_id in self.pending


class PostgresScan:
    """Reads one collection for a comparison; works without its vector table too."""

    def __init__(self, pool: PostgresPool, collection: Collection) -> None:
        self._pool = pool
        self.collection = collection
        self.has_table = self._value("SELECT to_regclass(%(table)s) IS NOT NULL", table=quoted_table(collection))

    def node_ids(self) -> Iterator[list[str]]:
        """Ids of all live nodes in byte order, in pages."""
        for rows in self._stream(NODE_IDS, PAGE_IDS):
            yield [row[0] for row in rows]

    def nodes(self) -> Iterator[list[ScannedNode]]:
        """All live nodes in the byte order of their ids, in pages; each page shows the state when it is read."""
        # Sorting whole rows would write all of them to temporary files.
        for rows in self._stream(NODE_IDS, PAGE_NODES):
            found = self.nodes_of([row[0] for row in rows])
            yield [found[row[0]] for row in rows if row[0] in found]

    def ledger(self) -> Iterator[list[LedgerLine]]:
        """Live documents, and other documents that have rows, in the byte order of their ids, in pages."""
        for rows in self._stream(LEDGER, PAGE_NODES):
            yield [LedgerLine(*row) for row in rows]

    def live_documents(self) -> Iterator[list[LiveDocument]]:
        """Live documents in the byte order of their ids, in pages."""
        for rows in self._stream(LIVE_DOCUMENTS, PAGE_IDS):
            yield [LiveDocument(*row) for row in rows]

    def nodes_of(self, ids: Sequence[str]) -> dict[str, ScannedNode]:
        """The live ones among these nodes, by id."""
        return {
            row[0]: _scanned(*row) for row in self._fetch(NODES_OF_IDS, ids=list(ids), dim=self.collection.space.dim)
        }

    def lines_of(self, document_ids: Sequence[str]) -> dict[str, LedgerLine]:
        """The ones among these documents that the ledger or the vector table has, by id."""
        return {row[0]: LedgerLine(*row) for row in self._fetch(LEDGER_OF_IDS, ids=list(document_ids))}

    def states(self, ids: Sequence[str]) -> States:
        live: dict[str, int] = {}
        pending: set[str] = set()
        for node_id, stamp in self._fetch(STATES, ids=list(ids)):
            if stamp is None:
                pending.add(node_id)
            else:
                live[node_id] = stamp
        return States(live, pending)

    def ref_docs(self, document_ids: Sequence[str]) -> dict[str, RefDoc]:
        """The ledger's state of these documents, as MongoDB's entries should have it, by id."""
        rows = self._fetch(statements.REF_DOCS, document_ids=list(document_ids))
        return {
            document_id: RefDoc(document_id, revision, node_ids if live else None, doc_hash, metadata)
            for document_id, revision, live, node_ids, doc_hash, metadata in rows
        }

    def pending_entries(self, document_ids: Sequence[str]) -> set[str]:
        """The ones among these documents whose entries wait in the outbox."""
        return {row[0] for row in self._fetch(PENDING_ENTRIES, ids=list(document_ids))}

    def copies(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Rows whose text is also in other rows of the same document: node id → node ids of the others."""
        return dict(self._fetch(COPIES, ids=list(ids)))

    def ever_published(self, document_ids: Sequence[str]) -> set[str]:
        """The ones among these documents that were published at some time, by the audit trail."""
        return {row[0] for row in self._fetch(EVER_PUBLISHED, ids=list(document_ids))}

    def abandoned_before(self) -> float:
        """Unix time in seconds; nodes that were staged earlier and that nothing names will never be published."""
        found = self._value(OLDER_THAN)
        return float(found.timestamp()) if found is not None else 0.0

    def count_pending(self) -> int:
        """Number of outbox rows and runs in flight."""
        return int(self._value(COUNT_PENDING))

    def indexes(self) -> dict[str, bool]:
        """Indexes of the vector table: name → whether it is valid."""
        return dict(self._fetch(INDEXES, table=quoted_table(self.collection)))

    def missing_segments(self, collection: Collection) -> list[str]:
        """Tables of the collection's segments that are missing."""
        tables = [table_of(collection, segment) for segment in collection.segments]
        # The name is part of the statement, so that the schema in it is replaced.
        missing = (table for table in tables if self._value(f"SELECT to_regclass('{table}') IS NULL"))
        return [table.removeprefix("ragstore.") for table in missing]

    def is_building(self, lock_space: int) -> bool:
        """Whether a process is building an index of the vector table."""
        return bool(self._value(IS_BUILDING, space=lock_space))

    def _stream(self, statement: str, n_rows: int) -> Iterator[Rows]:
        with self._pool.transaction() as cursor:
            fetch_page = f"FETCH {n_rows} FROM scan"
            # Settings, cursor and first page are one message, and a short page is the last: each saves a round trip.
            rows = self._fetch(f"{_STREAM.replace('{statement}', statement)}; {fetch_page}", cursor)
            while rows:
                yield rows
                if len(rows) < n_rows:
                    return
                rows = fetch(cursor, fetch_page)

    def _fetch(self, statement: str, target: Target | None = None, **parameters: Any) -> Rows:
        if "{table}" in statement and not self.has_table:
            statement = statement.replace("{table}", _NO_TABLE)
        return fetch(target or self._pool, statement, self.collection, **parameters)

    def _value(self, statement: str, **parameters: Any) -> Any:
        return self._fetch(statement, **parameters)[0][0]


def unused_names(pool: PostgresPool, names: Sequence[str]) -> dict[str, bool]:
    """Names without a collection: name → whether the audit trail says that one was dropped."""
    return dict(fetch(pool, UNUSED_NAMES, names=list(names)))


def is_unused(pool: PostgresPool, name: str) -> bool:
    return bool(unused_names(pool, [name]))


def pending_ids(pool: PostgresPool, namespace: str, ids: Sequence[str]) -> set[str]:
    """The ones among these ids that the outbox names for this namespace."""
    return set(fetch_ids(pool, PENDING_IDS, namespace=namespace, ids=list(ids)))


def count_pending_elsewhere(pool: PostgresPool) -> int:
    """Number of outbox rows of dropped collections."""
    return int(fetch_first(pool, COUNT_PENDING_ELSEWHERE))


def _scanned(*row: Any) -> ScannedNode:
    node_id, stamp, staged, class_name, content, text, document_id, named_document, usable = row
    held = _json(content)
    if text is None:
        return ScannedNode(node_id, stamp, staged, class_name, held, usable, document_id)
    is_own = held is not None and held.get("id_") == node_id and named_document in (document_id, "None", None)
    whole = content_with_text(class_name or "TextNode", held, text) if held is not None and is_own else None
    return ScannedNode(node_id, stamp, staged, TYPE_KEYS.get(class_name, "1"), whole, usable, document_id)


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        value = stored_json(text or "null")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
