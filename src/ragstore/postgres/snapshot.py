"""A collection as it was at one moment, read from end to end: what an export writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import orjson

from ragstore.model.collection import Collection
from ragstore.model.node import TYPE_KEYS, content_with_text
from ragstore.model.run import RefDoc, Vectors
from ragstore.model.storable import stored_json
from ragstore.postgres.names import quoted_table
from ragstore.postgres.outbox import ref_docs
from ragstore.postgres.pool import Cursor, PostgresPool

_PAGE = 1_000

# The snapshot must outlast the writing of a page to a slow place; it must not outlast a paused process.
_BEGIN = """
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '15min';
SET LOCAL cursor_tuple_fraction = 1
"""

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

DOCUMENTS = """
SELECT document_id FROM ragstore.document
WHERE collection_id = %(collection_id)s AND deleted_at IS NULL AND revision > 0 AND document_id > %(after)s
ORDER BY document_id LIMIT %(limit)s
"""

# Subjects in the order in which they were first named, as LlamaIndex keeps them.
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
    """One collection within one transaction; every reading sees the same."""

    def __init__(self, cursor: Cursor, collection: Collection) -> None:
        self._cursor = cursor
        self._collection = collection

    def n_nodes(self) -> tuple[int, int]:
        """How many nodes have a vector, and how many have none."""
        self._execute(COUNTS)
        row = self._cursor.fetchone()
        return (row[0], row[1]) if row else (0, 0)

    def nodes(self) -> Iterator[StoredNode]:
        """All nodes, those with a vector first."""
        for node_id, document_id, class_name, content, text in self._rows(NODES):
            whole = content_with_text(class_name, orjson.loads(content), text)
            yield StoredNode(node_id, document_id, TYPE_KEYS.get(class_name, "1"), whole)
        for node_id, document_id, type_key, content in self._rows(BODIES):
            yield StoredNode(node_id, document_id, type_key, stored_json(content))

    def vectors(self) -> Iterator[tuple[str, Vectors]]:
        """(node, vector) of all that have one."""
        for node_id, sent in self._rows(VECTORS):
            yield node_id, np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)

    def metadata(self) -> Iterator[tuple[str, str | None, str]]:
        """(node, document, metadata as JSON) of all that have a vector."""
        yield from self._rows(METADATA)

    def node_ids(self) -> Iterator[str]:
        """The nodes that have a vector."""
        for (node_id,) in self._rows(NODE_IDS):
            yield node_id

    def triplets(self) -> Iterator[tuple[str, str, str]]:
        """(subject, relation, object) of the graph, those of a subject together."""
        yield from self._rows(TRIPLETS)

    def documents(self) -> Iterator[RefDoc]:
        """All live documents with their nodes; no other reading may be under way."""
        after = ""
        while True:
            self._execute(DOCUMENTS, after=after, limit=_PAGE)
            ids = [row[0] for row in self._cursor.fetchall()]
            found = ref_docs(self._cursor, self._collection, ids) if ids else []
            yield from sorted(found, key=lambda document: document.document_id)
            if len(ids) < _PAGE:
                return
            after = ids[-1]

    def _rows(self, statement: str) -> Iterator[tuple[Any, ...]]:
        self._execute(f"DECLARE pages NO SCROLL CURSOR FOR {statement}")
        while True:
            self._cursor.execute(f"FETCH {_PAGE} FROM pages")
            rows = self._cursor.fetchall()
            if not rows:
                break
            yield from rows
        self._cursor.execute("CLOSE pages")

    def _execute(self, statement: str, **parameters: Any) -> None:
        parameters["collection_id"] = self._collection.collection_id
        self._cursor.execute(statement.replace("{table}", quoted_table(self._collection)), parameters)


@contextmanager
def snapshot(pool: PostgresPool, collection: Collection) -> Iterator[Snapshot]:
    """The collection as it is now, for the length of the block; writers go on."""
    with pool.transaction() as cursor:
        cursor.execute(_BEGIN)
        yield Snapshot(cursor, collection)
