"""Temporary SQLite database that holds import state larger than memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import orjson

from ragstore.model.node import Node
from ragstore.model.run import Vectors

_TABLES = """
CREATE TABLE vector (node_id TEXT PRIMARY KEY, dim INTEGER NOT NULL, floats BLOB NOT NULL, is_joined INTEGER DEFAULT 0);
CREATE TABLE elsewhere (node_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE hash (id TEXT PRIMARY KEY, doc_hash TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE document (
    document_id TEXT PRIMARY KEY, n_vectors INTEGER NOT NULL DEFAULT 0, is_written INTEGER NOT NULL DEFAULT 0,
    is_broken INTEGER NOT NULL DEFAULT 0, is_another INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE seen (node_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE node (
    node_id TEXT PRIMARY KEY, n INTEGER NOT NULL, document_id TEXT, start INTEGER, body BLOB NOT NULL,
    is_known INTEGER NOT NULL
);
CREATE TABLE turn (n INTEGER PRIMARY KEY, node_id TEXT NOT NULL);
"""


class Spill:
    """Vectors, hashes and the state of each document; on disk, in a nameless file that is deleted with the process."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32000;")
        self._database.executescript(_TABLES)
        self._n_nodes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    # Vectors

    def put_vectors(self, vectors: Mapping[str, Vectors | None]) -> None:
        """Store vectors by node id, None for an unusable one; for an id given twice the last one counts."""
        rows = [(i, 0, b"") if v is None else (i, len(v), v.tobytes()) for i, v in vectors.items()]
        self._many("INSERT OR REPLACE INTO vector (node_id, dim, floats) VALUES (?, ?, ?)", rows)

    def dims(self) -> dict[int, int]:
        """Number of usable vectors of each length, the most frequent length first."""
        found = self._database.execute(
            "SELECT dim, count(*) FROM vector WHERE dim > 0 GROUP BY dim ORDER BY count(*) DESC, dim"
        )
        return dict(found.fetchall())

    def join_vectors(self, node_ids: Sequence[str], dim: int) -> dict[str, Vectors | None]:
        """The vectors of those of these nodes that have one, None for an unusable one; marks them as joined."""
        marks = ",".join("?" * len(node_ids))
        found = self._database.execute(f"SELECT node_id, dim, floats FROM vector WHERE node_id IN ({marks})", node_ids)
        vectors = {i: np.frombuffer(floats, dtype=np.float32) if n == dim else None for i, n, floats in found}
        self._database.execute(f"UPDATE vector SET is_joined = 1 WHERE node_id IN ({marks})", node_ids)
        return vectors

    def vectors_without_node(self) -> Iterator[str]:
        """Ids of vectors that were not joined to a node."""
        for (node_id,) in self._database.execute("SELECT node_id FROM vector WHERE NOT is_joined"):
            yield node_id

    def unusable_vectors(self, dim: int) -> Iterator[tuple[str, int]]:
        """(node id, length) of vectors of another length or with a bad value; the latter have length 0."""
        yield from self._database.execute("SELECT node_id, dim FROM vector WHERE dim <> ?", (dim,))

    def put_elsewhere(self, node_ids: Iterable[str]) -> None:
        """Record nodes whose vector is in another vector store."""
        self._many("INSERT OR IGNORE INTO elsewhere VALUES (?)", ((node_id,) for node_id in node_ids))

    def elsewhere(self, node_ids: Sequence[str]) -> set[str]:
        """Those of these node ids whose vector is only in another vector store."""
        marks = ",".join("?" * len(node_ids))
        statement = (
            f"SELECT node_id FROM elsewhere WHERE node_id IN ({marks}) AND node_id NOT IN (SELECT node_id FROM vector)"
        )
        return {node_id for (node_id,) in self._database.execute(statement, node_ids)}

    # Nodes that wait until everything was read

    def put_nodes(self, nodes: Sequence[Node], *, is_known: bool) -> None:
        """Store nodes; for an id given twice the last one counts, and has the last one's place in the order.

        Args:
            is_known: whether they come from the document store, which the vector store may repeat.
        """
        rows = []
        for node in nodes:
            self._n_nodes += 1
            body = orjson.dumps(node)
            rows.append((node.node_id, self._n_nodes, node.document_id, node.start_char, body, is_known))
        self._many(
            "INSERT INTO node VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "(n, document_id, start, body, is_known) = "
            "(excluded.n, excluded.document_id, excluded.start, excluded.body, excluded.is_known)",
            rows,
        )

    def known(self, node_ids: Sequence[str]) -> dict[str, bool]:
        """Those of these nodes that were stored; True for those that only the document store gave so far."""
        marks = ",".join("?" * len(node_ids))
        found = self._database.execute(f"SELECT node_id, is_known FROM node WHERE node_id IN ({marks})", node_ids)
        return {node_id: bool(is_known) for node_id, is_known in found}

    def n_nodes(self) -> tuple[int, int]:
        """Number of nodes, and of documents that they belong to."""
        statement = "SELECT count(*), count(DISTINCT coalesce(document_id, node_id)) FROM node"
        n_nodes, n_documents = self._database.execute(statement).fetchone()
        return n_nodes, n_documents

    def nodes(self, n_at_once: int, chars_at_once: int, *, by_document: bool) -> Iterator[list[Node]]:
        """The stored nodes in batches, in the order in which they were stored.

        Args:
            chars_at_once: most bytes of a batch of several nodes.
            by_document: each document's nodes in the order of their text, for a system that has no order.
        """
        order = "min(n) OVER (PARTITION BY coalesce(document_id, node_id)), start, n" if by_document else "n"
        self._database.execute("DELETE FROM turn")
        self._database.execute(f"INSERT INTO turn (node_id) SELECT node_id FROM node ORDER BY {order}")
        statement = (
            "SELECT turn.n, length(body), body FROM turn JOIN node USING (node_id) WHERE turn.n > ? "
            "ORDER BY turn.n LIMIT ?"
        )
        batch: list[Node] = []
        after = n_chars = 0
        while rows := self._database.execute(statement, (after, 100)).fetchall():
            for number, size, body in rows:
                if batch and (len(batch) >= n_at_once or n_chars + size > chars_at_once):
                    yield batch
                    batch, n_chars = [], 0
                batch.append(Node(**orjson.loads(body)))
                after, n_chars = number, n_chars + size
        if batch:
            yield batch

    # Hashes

    def put_hashes(self, hashes: Mapping[str, str]) -> None:
        """Store hashes of documents and of nodes, by id."""
        self._many("INSERT OR REPLACE INTO hash VALUES (?, ?)", hashes.items())

    def hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """The hashes of these ids; ids without a hash are left out."""
        marks = ",".join("?" * len(ids))
        return dict(self._database.execute(f"SELECT id, doc_hash FROM hash WHERE id IN ({marks})", ids).fetchall())

    def hashes_without_nodes(self) -> Iterator[str]:
        """Ids that have a hash, but are neither a node nor a document with nodes."""
        statement = (
            "SELECT id FROM hash WHERE id NOT IN (SELECT node_id FROM seen) "
            "AND id NOT IN (SELECT document_id FROM document)"
        )
        for (found,) in self._database.execute(statement):
            yield found

    # Nodes and documents

    def see(self, node_ids: Iterable[str]) -> None:
        """Record that these nodes were read."""
        self._many("INSERT OR IGNORE INTO seen VALUES (?)", ((node_id,) for node_id in node_ids))

    def seen(self, node_ids: Sequence[str]) -> set[str]:
        """Those of these nodes that were read before."""
        marks = ",".join("?" * len(node_ids))
        found = self._database.execute(f"SELECT node_id FROM seen WHERE node_id IN ({marks})", node_ids)
        return {node_id for (node_id,) in found}

    def count_vectors(self, document_ids: Mapping[str, int]) -> dict[str, int]:
        """Add to the number of nodes with a vector of each document; returns the numbers before."""
        before = self._numbers(list(document_ids))
        self._many(
            "INSERT INTO document (document_id, n_vectors) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET n_vectors = n_vectors + excluded.n_vectors",
            document_ids.items(),
        )
        return before

    def mark_written(self, document_ids: Iterable[str]) -> None:
        """Record that nodes of these documents were written."""
        self._mark("is_written", document_ids)

    def mark_broken(self, document_ids: Iterable[str]) -> None:
        """Record that a node of these documents could not be imported."""
        self._mark("is_broken", document_ids)

    def mark_another(self, document_ids: Iterable[str]) -> None:
        """Record that the collection has another version of these documents, which stays."""
        self._mark("is_another", document_ids)

    def n_written(self) -> int:
        """Number of documents that were written, at least in part."""
        return int(self._database.execute("SELECT count(*) FROM document WHERE is_written").fetchone()[0])

    def other_versions(self) -> Iterator[str]:
        """Ids of documents of which the collection keeps another version."""
        for (document_id,) in self._database.execute("SELECT document_id FROM document WHERE is_another"):
            yield document_id

    def whole_documents(self, n_at_once: int) -> Iterator[list[tuple[str, str, int]]]:
        """(document id, hash, number of nodes with a vector) of complete documents that have a hash, in batches."""
        found = self._database.execute(
            "SELECT document_id, doc_hash, n_vectors FROM document JOIN hash ON id = document_id "
            "WHERE NOT is_broken AND NOT is_another"
        )
        while rows := found.fetchmany(n_at_once):
            yield rows

    def _mark(self, flag: str, document_ids: Iterable[str]) -> None:
        self._many(
            f"INSERT INTO document (document_id, {flag}) VALUES (?, 1) ON CONFLICT DO UPDATE SET {flag} = 1",
            ((document_id,) for document_id in document_ids),
        )

    def _numbers(self, document_ids: Sequence[str]) -> dict[str, int]:
        marks = ",".join("?" * len(document_ids))
        statement = f"SELECT document_id, n_vectors FROM document WHERE document_id IN ({marks})"
        return dict(self._database.execute(statement, document_ids).fetchall())

    def _many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(statement, rows)
        self._database.execute("COMMIT")
