"""PostgreSQL side of direct writes: nodes whose ids the caller chose, changed in one transaction.

Node ids may be live already, in the vector table or as a body, and two processes may write the same id at once. Every
change locks the documents concerned, in order, before it takes a stamp. So of two writes of one node id, the one that
commits later has the larger stamp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from ragstore.model.collection import Collection
from ragstore.model.document import check_entry_size
from ragstore.model.node import LiveNode, Node, content_with_text
from ragstore.model.run import Run
from ragstore.postgres.collections import hold
from ragstore.postgres.copy import pgvector_metadata
from ragstore.postgres.ledger import Publication
from ragstore.postgres.names import array
from ragstore.postgres.outbox import live_nodes
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import execute, fetch, fetch_ids

_IDS_PER_ITEM = 2_048
"""Most ids of one outbox row, which are read and written at once; LlamaIndex adds this many nodes in one call."""

_ENTRY_ALWAYS_FITS = 1_000
"""Nodes of a document that one entry of MongoDB can always name, however long their ids are."""

_LOCK_SPACE = 0x5241_474E  # "RAGN": nodes without a document

PLACES = """
SELECT node_id, document_id, true FROM {table} WHERE node_id = ANY(%(node_ids)s::text[])
UNION ALL
SELECT node_id, document_id, false FROM ragstore.body
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(node_ids)s::text[])
"""

LOCK_NODES_WITHOUT_DOCUMENT = "SELECT pg_advisory_xact_lock(%(space)s, %(collection_id)s)"

DELETE_NODES = """
WITH gone AS (
    DELETE FROM {table} WHERE node_id = ANY(%(node_ids)s::text[]) RETURNING node_id
), gone_bodies AS (
    DELETE FROM ragstore.body
    WHERE collection_id = %(collection_id)s AND node_id = ANY(%(node_ids)s::text[]) RETURNING node_id
)
SELECT node_id FROM gone UNION ALL SELECT node_id FROM gone_bodies
"""

# A document's own node may exist without naming the document: a sourceless node that the docstore has too.
DELETE_NODES_OF_DOCUMENTS = """
WITH gone AS (
    DELETE FROM {table}
    WHERE document_id = ANY(%(document_ids)s::text[])
        OR document_id IS NULL AND node_id = ANY(%(document_ids)s::text[]) RETURNING node_id
), gone_bodies AS (
    DELETE FROM ragstore.body
    WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[]) RETURNING node_id
)
SELECT node_id FROM gone UNION ALL SELECT node_id FROM gone_bodies
"""

DELETE_OTHER_VECTORS = """
DELETE FROM {table} WHERE document_id = ANY(%(document_ids)s::text[]) AND node_id <> ALL(%(keep)s::text[])
RETURNING node_id
"""

# LlamaIndex names the version that a node was cut from in its relationship "1", the source. A node without it stays.
DELETE_OTHER_VERSIONS = """
DELETE FROM {table} t USING unnest(%(document_id)s::text[], %(doc_hash)s::text[]) AS complete (document_id, doc_hash)
WHERE t.document_id = complete.document_id
    AND (t.metadata_->>'_node_content')::jsonb #>> '{relationships,1,hash}' <> complete.doc_hash
RETURNING t.node_id
"""

DELETE_OTHER_BODIES = """
DELETE FROM ragstore.body
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
    AND node_id <> document_id AND node_id <> ALL(%(keep)s::text[])
RETURNING node_id
"""

DELETE_OWN_BODIES = """
DELETE FROM ragstore.body
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[]) AND node_id = document_id
RETURNING node_id
"""

# Stamps follow the order of the call, as the docstore's answers do; rows are written in the order of the node ids.
PUT_BODIES = """
INSERT INTO ragstore.body (collection_id, node_id, document_id, stamp, type_key, content)
SELECT %(collection_id)s, node_id, document_id, stamp, type_key, content FROM (
    SELECT *, nextval('ragstore.stamp') AS stamp
    FROM unnest(%(node_id)s::text[], %(document_id)s::text[], %(type_key)s::text[], %(content)s::jsonb[])
        WITH ORDINALITY AS new (node_id, document_id, type_key, content, position) ORDER BY position
) AS numbered ORDER BY node_id
"""

# The vector stays: an update of the docstore does not contain it.
UPDATE_ROWS = """
UPDATE {table} t SET id = new.stamp, text = new.text, metadata_ = new.metadata_,
    user_metadata = new.user_metadata, document_id = new.document_id, chunk_hash = NULL
FROM (
    SELECT *, nextval('ragstore.stamp') AS stamp
    FROM unnest(%(node_id)s::text[], %(text)s::text[], %(metadata_)s::jsonb[], %(user_metadata)s::jsonb[],
                %(document_id)s::text[])
        WITH ORDINALITY AS put (node_id, text, metadata_, user_metadata, document_id, position) ORDER BY position
) AS new WHERE t.node_id = new.node_id
"""

# A replaced document loses what was known of its former content; to another one only nodes are added.
PUT_DOCUMENTS = """
UPDATE ragstore.document d SET
    revision = d.revision + 1, published_at = now(), deleted_at = NULL,
    n_nodes = (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id),
    source_uri = CASE WHEN new.anew THEN new.source_uri ELSE d.source_uri END,
    metadata = CASE WHEN new.anew THEN new.metadata ELSE d.metadata END,
    doc_hash = CASE WHEN new.anew OR new.source_hash <> d.doc_hash THEN NULL ELSE d.doc_hash END,
    fingerprint = CASE WHEN new.anew THEN NULL ELSE d.fingerprint END,
    content_hash = CASE WHEN new.anew THEN NULL ELSE d.content_hash END,
    size = CASE WHEN new.anew THEN NULL ELSE d.size END,
    mtime_ns = CASE WHEN new.anew THEN NULL ELSE d.mtime_ns END,
    etag = CASE WHEN new.anew THEN NULL ELSE d.etag END
FROM unnest(%(document_id)s::text[], %(source_uri)s::text[], %(metadata)s::jsonb[], %(anew)s::bool[],
            %(source_hash)s::text[]) AS new (document_id, source_uri, metadata, anew, source_hash)
WHERE d.collection_id = %(collection_id)s AND d.document_id = new.document_id
RETURNING d.document_id, d.n_nodes + (SELECT count(*) FROM ragstore.body b
                                      WHERE b.collection_id = d.collection_id AND b.document_id = d.document_id)
"""

# A byte of type, at most 7 digits and a NUL of name, 4 of length and a NUL for each id; JSON becomes 7 times as long.
ENTRY_SIZES = """
SELECT d.document_id, sum(octet_length(part.node_id) + 14) + 7 * octet_length(d.metadata::text)
FROM ragstore.document d JOIN (
    SELECT document_id, node_id FROM {table} WHERE document_id = ANY(%(document_ids)s::text[])
    UNION ALL
    SELECT document_id, node_id FROM ragstore.body
    WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
) AS part USING (document_id)
WHERE d.collection_id = %(collection_id)s AND d.document_id = ANY(%(document_ids)s::text[])
GROUP BY d.collection_id, d.document_id ORDER BY d.document_id
"""

STATES = """
SELECT document_id, revision, revision > 0 AND deleted_at IS NULL, doc_hash FROM ragstore.document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
"""

# A document that lost its last part is deleted with its hash, so that a refresh adds it again. The document's own node,
# as pipelines put it, is not a part, but with a vector it is. A document that lost its last vector keeps its other
# nodes and loses its hash.
RECOUNT_DOCUMENTS = """
WITH counted AS (
    SELECT d.document_id, d.n_nodes AS n_before,
           (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id) AS n_nodes,
           EXISTS (SELECT FROM ragstore.body b WHERE b.collection_id = d.collection_id
                   AND b.document_id = d.document_id AND b.node_id <> d.document_id)
           OR EXISTS (SELECT FROM {table} t WHERE t.node_id = d.document_id AND t.document_id IS NULL) AS has_parts
    FROM ragstore.document d
    WHERE d.collection_id = %(collection_id)s AND d.document_id = ANY(%(document_ids)s::text[])
        AND d.deleted_at IS NULL AND d.revision > 0
), settled AS (
    SELECT *, n_nodes = 0 AND NOT has_parts AS gone, n_nodes = 0 AND (n_before > 0 OR NOT has_parts) AS bare
    FROM counted
)
UPDATE ragstore.document d SET
    revision = d.revision + 1, n_nodes = s.n_nodes, deleted_at = CASE WHEN s.gone THEN now() END,
    doc_hash = CASE WHEN s.bare THEN NULL ELSE d.doc_hash END,
    fingerprint = CASE WHEN s.bare THEN NULL ELSE d.fingerprint END,
    content_hash = CASE WHEN s.bare THEN NULL ELSE d.content_hash END
FROM settled s WHERE d.collection_id = %(collection_id)s AND d.document_id = s.document_id
RETURNING d.document_id, s.gone
"""

SET_HASHES = """
UPDATE ragstore.document d SET doc_hash = new.doc_hash, revision = d.revision + 1, published_at = now(),
    deleted_at = NULL, n_nodes = (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id)
FROM unnest(%(document_id)s::text[], %(doc_hash)s::text[]) AS new (document_id, doc_hash)
WHERE d.collection_id = %(collection_id)s AND d.document_id = new.document_id
"""

WITHOUT_VECTORS = """
SELECT id FROM unnest(%(document_ids)s::text[]) AS own (id)
WHERE NOT EXISTS (SELECT FROM {table} t WHERE t.document_id = own.id)
"""

# The stamp of a put counts its attempts: 1, because the writer makes the first one as soon as this is committed.
QUEUE = """
INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp)
VALUES (%(namespace)s, %(collection_id)s, %(action)s, %(ids)s::text[],
        CASE WHEN %(action)s = 'delete_nodes' THEN nextval('ragstore.stamp') ELSE 1 END)
RETURNING outbox_id, pg_current_xact_id()::xid::text
"""

ALL_DOCUMENTS = """
SELECT document_id FROM ragstore.document
WHERE collection_id = %(collection_id)s AND deleted_at IS NULL AND revision > 0 ORDER BY document_id
"""

ALL_NODES_WITHOUT_DOCUMENT = """
SELECT node_id FROM {table} WHERE document_id IS NULL
UNION ALL
SELECT node_id FROM ragstore.body WHERE collection_id = %(collection_id)s AND document_id IS NULL
"""


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """A document that gets nodes.

    Args:
        replace_existing: its former content is replaced, so its hash and what an ingest knew of it are removed.
        source_hash: of the version that the nodes were cut from; if the document has another hash, that is removed.
        metadata: the ``RefDocInfo.metadata`` of the document.
    """

    document_id: str
    source_uri: str
    replace_existing: bool
    source_hash: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeLocation:
    """The document of a live node, and whether it is in the vector table."""

    document_id: str | None
    has_vector: bool


@dataclass(frozen=True, slots=True)
class DirectState:
    """The ledger's row of a locked document."""

    revision: int
    live: bool
    doc_hash: str | None


class DirectChange:
    """The steps inside the transaction of a direct write; lock first."""

    def __init__(self, cursor: Cursor, collection: Collection, publication: Publication) -> None:
        self._cursor = cursor
        self._collection = collection
        self._publication = publication
        self.vector_type = collection.vector_type
        self.outbox_ids: list[int] = []
        self.transaction = ""
        """The transaction's id, set when something is queued."""

    def lock(
        self, document_ids: Iterable[str], node_ids: Sequence[str], *, lock_sourceless: bool = False
    ) -> dict[str, NodeLocation]:
        """Lock these documents and the documents of these nodes; returns the locations of the nodes.

        Documents that the ledger does not have get a row first.

        Args:
            lock_sourceless: also take the lock that serialises writers of nodes without a document.
        """
        locked: set[str] = set()
        wanted = set(document_ids)
        sourceless_locked = False
        while True:
            rows = fetch(self._cursor, PLACES, self._collection, node_ids=array(node_ids))
            locations = {node_id: NodeLocation(*location) for node_id, *location in rows}
            lock_sourceless = lock_sourceless or any(location.document_id is None for location in locations.values())
            missing = wanted.union(p.document_id for p in locations.values() if p.document_id is not None) - locked
            if not missing and lock_sourceless == sourceless_locked:
                return locations
            # Before the documents, so that all writers take these locks in one order.
            if lock_sourceless and not sourceless_locked:
                execute(self._cursor, LOCK_NODES_WITHOUT_DOCUMENT, self._collection, space=_LOCK_SPACE)
                sourceless_locked = True
            if missing:
                self._publication.lock_documents(list(missing))
                locked |= missing

    def lock_live(self, document_ids: Sequence[str]) -> list[str]:
        """Lock the live ones among these documents; returns their ids."""
        return list(self._publication.lock_live_documents(document_ids))

    def states(self, document_ids: Iterable[str]) -> dict[str, DirectState]:
        """State of each of these documents that the ledger has."""
        ids = list(document_ids)
        rows = fetch(self._cursor, STATES, self._collection, document_ids=array(ids)) if ids else []
        return {document_id: DirectState(*state) for document_id, *state in rows}

    def delete_nodes(self, node_ids: Sequence[str]) -> list[str]:
        """Delete these nodes, with a vector or without; returns the ids of those that were live."""
        return fetch_ids(self._cursor, DELETE_NODES, self._collection, node_ids=array(node_ids))

    def delete_nodes_of(self, document_ids: Sequence[str]) -> list[str]:
        """Delete all nodes of these documents; returns their ids."""
        return fetch_ids(self._cursor, DELETE_NODES_OF_DOCUMENTS, self._collection, document_ids=array(document_ids))

    def delete_other_vectors(self, document_ids: Sequence[str], keep: Sequence[str]) -> list[str]:
        """Delete these documents' nodes with a vector except the ones to keep; returns the deleted ids."""
        return fetch_ids(
            self._cursor, DELETE_OTHER_VECTORS, self._collection, document_ids=array(document_ids), keep=array(keep)
        )

    def delete_other_versions(self, hashes: Mapping[str, str]) -> list[str]:
        """Delete nodes with a vector that name another version of their document as source; returns their ids."""
        parameters = {"document_id": array(hashes), "doc_hash": array(hashes.values())}
        return fetch_ids(self._cursor, DELETE_OTHER_VERSIONS, self._collection, **parameters)

    def delete_other_bodies(self, document_ids: Sequence[str], keep: Sequence[str]) -> list[str]:
        """As ``delete_other_vectors``, for nodes without a vector; a document's own node stays."""
        return fetch_ids(
            self._cursor, DELETE_OTHER_BODIES, self._collection, document_ids=array(document_ids), keep=array(keep)
        )

    def delete_own_bodies(self, document_ids: Sequence[str]) -> list[str]:
        """Delete the bodies that are these documents themselves; returns their ids."""
        return fetch_ids(self._cursor, DELETE_OWN_BODIES, self._collection, document_ids=array(document_ids))

    def copy_rows(self, rows: bytes) -> None:
        """COPY rows that ``copy.encode_rows`` made."""
        self._publication.copy_rows([rows])

    def put_bodies(self, nodes: Sequence[Node]) -> None:
        """Insert nodes without a vector; none of these ids may be live."""
        execute(
            self._cursor,
            PUT_BODIES,
            self._collection,
            node_id=array([n.node_id for n in nodes]),
            document_id=array([n.document_id for n in nodes]),
            type_key=array([n.type_key for n in nodes]),
            content=array([orjson.dumps(content_with_text(n.class_name, n.content, n.text)).decode() for n in nodes]),
        )

    def live_nodes(self, node_ids: Sequence[str]) -> dict[str, LiveNode]:
        """The live ones among these nodes, by id."""
        return {node.node_id: node for node in live_nodes(self._cursor, self._collection, node_ids)}

    def update_rows(self, nodes: Sequence[Node]) -> None:
        """Change text and content of nodes that have a vector; the vector stays."""
        execute(
            self._cursor,
            UPDATE_ROWS,
            self._collection,
            node_id=array([n.node_id for n in nodes]),
            text=array([n.text for n in nodes]),
            metadata_=array([pgvector_metadata(n).decode() for n in nodes]),
            user_metadata=array([orjson.dumps(n.metadata).decode() for n in nodes]),
            document_id=array([n.document_id for n in nodes]),
        )

    def put_documents(self, documents: Sequence[WrittenDocument]) -> None:
        """Move these documents to their next revision.

        Raises:
            LimitExceededError: a document has more nodes than one entry of MongoDB can name.
        """
        if not documents:
            return
        rows = fetch(
            self._cursor,
            PUT_DOCUMENTS,
            self._collection,
            document_id=array([d.document_id for d in documents]),
            source_uri=array([d.source_uri for d in documents]),
            metadata=array([orjson.dumps(d.metadata).decode() for d in documents]),
            anew=array([d.replace_existing for d in documents]),
            source_hash=array([d.source_hash for d in documents]),
        )
        large = [document_id for document_id, n_nodes in rows if n_nodes > _ENTRY_ALWAYS_FITS]
        sizes = fetch(self._cursor, ENTRY_SIZES, self._collection, document_ids=array(large)) if large else []
        for document_id, size in sizes:
            check_entry_size(document_id, int(size))

    def recount_documents(self, document_ids: Iterable[str]) -> dict[str, bool]:
        """Count the nodes of live documents that lost some, delete empty ones; returns by id whether it was deleted."""
        return dict(fetch(self._cursor, RECOUNT_DOCUMENTS, self._collection, document_ids=array(sorted(document_ids))))

    def mark_deleted(self, document_ids: Sequence[str]) -> None:
        self._publication.mark_deleted(document_ids)

    def set_hashes(self, hashes: Mapping[str, str]) -> None:
        """Set the hash of complete documents, which moves them to their next revision."""
        execute(self._cursor, SET_HASHES, self._collection, document_id=array(hashes), doc_hash=array(hashes.values()))

    def without_vectors(self, document_ids: Sequence[str]) -> list[str]:
        """The ones among these documents that have no node with a vector."""
        return fetch_ids(self._cursor, WITHOUT_VECTORS, self._collection, document_ids=array(document_ids))

    def add_events(self, events: Sequence[tuple[str, str, int]]) -> None:
        """Append to the audit trail: (document_id, action, new vectors) each."""
        if events:
            self._publication.add_events([(*event, None) for event in events])

    def queue(self, *, put: Iterable[str] = (), delete: Iterable[str] = (), ref_docs: Iterable[str] = ()) -> None:
        """Add outbox rows: changes that MongoDB must get after the commit."""
        for action, ids in (("put_nodes", put), ("delete_nodes", delete), ("put_ref_docs", ref_docs)):
            listed = sorted(set(ids))
            for i in range(0, len(listed), _IDS_PER_ITEM):
                batch = listed[i : i + _IDS_PER_ITEM]
                parameters = {"namespace": self._collection.name, "action": action, "ids": array(batch)}
                ((outbox_id, self.transaction),) = fetch(self._cursor, QUEUE, self._collection, **parameters)
                self.outbox_ids.append(outbox_id)

    def all_documents(self) -> list[str]:
        """Ids of live documents."""
        return fetch_ids(self._cursor, ALL_DOCUMENTS, self._collection)

    def all_nodes_without_document(self) -> list[str]:
        return fetch_ids(self._cursor, ALL_NODES_WITHOUT_DOCUMENT, self._collection)


@contextmanager
def changing(pool: PostgresPool, collection: Collection, run: Run) -> Iterator[DirectChange]:
    """The transaction of a direct write, committed at the end of the block.

    Raises:
        CollectionNotFoundError: the collection was dropped.
    """
    with pool.transaction() as cursor:
        hold(cursor, collection)
        yield DirectChange(cursor, collection, Publication(cursor, collection, run))
