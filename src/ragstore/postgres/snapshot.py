"""Consistent snapshot of a whole collection, for exports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson

from ragstore.model.collection import Collection
from ragstore.model.node import TYPE_KEYS, content_with_text
from ragstore.model.run import RefDoc, Vectors
from ragstore.model.storable import stored_json
from ragstore.postgres import statements
from ragstore.postgres.outbox import ref_docs
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import BEGIN_SNAPSHOT, cursor_pages, execute, fetch, pages
from ragstore.postgres.vectors import decoded_vector

_PAGE = 1_000

_ORDER = "ORDER BY document_id, ordinal, id"

NODES = f"""
SELECT node_id, document_id, metadata_->>'_node_type', metadata_->>'_node_content', text FROM {{table}} {_ORDER}
"""

VECTORS = f"SELECT node_id, vector_send(embedding::vector) FROM {{table}} {_ORDER}"

METADATA = f"SELECT node_id, document_id, (metadata_ - '_node_content')::text FROM {{table}} {_ORDER}"

BODIES = """
SELECT node_id, document_id, type_key, content::text FROM ragstore.body
WHERE collection_id = %(collection_id)s ORDER BY document_id, stamp
"""

NODE_IDS = f"SELECT node_id FROM {{table}} {_ORDER}"

# Subjects in the order in which they were first added, as in LlamaIndex.
TRIPLETS = """
SELECT subject, relation, object FROM ragstore.triplet WHERE collection_id = %(collection_id)s
ORDER BY min(triplet_id) OVER (PARTITION BY subject), triplet_id
"""

COUNTS = """
SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM ragstore.body WHERE collection_id = %(collection_id)s)
"""


class StoredNode(NamedTuple):
    """A node as a document store keeps it."""

    node_id: str
    document_id: str | None
    type_key: str
    content: dict[str, Any]


class Snapshot:
    """One collection in one transaction; all reads see the same state."""

    def __init__(self, cursor: Cursor, collection: Collection) -> None:
        self._cursor = cursor
        self._collection = collection

    def n_nodes(self) -> tuple[int, int]:
        """Number of nodes with a vector, and without."""
        ((with_vector, without_vector),) = fetch(self._cursor, COUNTS, self._collection)
        return with_vector, without_vector

    def nodes(self) -> Iterator[StoredNode]:
        """All nodes, those with a vector first."""
        for node_id, document_id, class_name, content, text in self._rows(NODES):
            whole = content_with_text(class_name, orjson.loads(content), text)
            yield StoredNode(node_id, document_id, TYPE_KEYS.get(class_name, "1"), whole)
        for node_id, document_id, type_key, content in self._rows(BODIES):
            yield StoredNode(node_id, document_id, type_key, stored_json(content))

    def vectors(self) -> Iterator[tuple[str, Vectors]]:
        """(node id, vector of shape ``(dim,)``) of all nodes with a vector."""
        for node_id, sent in self._rows(VECTORS):
            yield node_id, decoded_vector(sent)

    def metadata(self) -> Iterator[tuple[str, str | None, str]]:
        """(node id, document id, metadata as JSON) of all nodes with a vector."""
        yield from self._rows(METADATA)

    def node_ids(self) -> Iterator[str]:
        """Ids of the nodes with a vector."""
        for (node_id,) in self._rows(NODE_IDS):
            yield node_id

    def triplets(self) -> Iterator[tuple[str, str, str]]:
        """(subject, relation, object) of the triplet graph, grouped by subject."""
        yield from self._rows(TRIPLETS)

    def documents(self) -> Iterator[RefDoc]:
        """All live documents with their nodes; no other read may be under way."""
        for rows in pages(self._cursor, statements.PAGE_DOCUMENT_IDS, self._collection, limit=_PAGE):
            found = ref_docs(self._cursor, self._collection, [row[0] for row in rows])
            yield from sorted(found, key=lambda document: document.document_id)

    def _rows(self, statement: str) -> Iterator[tuple[Any, ...]]:
        execute(self._cursor, f"DECLARE pages NO SCROLL CURSOR FOR {statement}", self._collection)
        for rows in cursor_pages(self._cursor, "pages", limit=_PAGE):
            yield from rows
        execute(self._cursor, "CLOSE pages")


@contextmanager
def snapshot(pool: PostgresPool, collection: Collection) -> Iterator[Snapshot]:
    """The present state of the collection for the length of the block; writers are not blocked."""
    with pool.transaction() as cursor:
        execute(cursor, BEGIN_SNAPSHOT)
        yield Snapshot(cursor, collection)
