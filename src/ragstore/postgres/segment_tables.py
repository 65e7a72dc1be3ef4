"""Tables of segments: a row for each node, region and cell, read and written in the binary COPY format.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; of a ``halfvec`` two int16 (dim, unused)
and ``dim`` float16, big-endian.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ragstore.model.collection import Collection, Segment
from ragstore.postgres.cells import Entries, Halves, Numbers, tree
from ragstore.postgres.copy import HEADER, TRAILER
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pairs import SLOTS, Groups, Pairs
from ragstore.postgres.pool import Cursor

Nodes = tuple[Numbers, Pairs, Halves]
Rows = np.ndarray[Any, Any]
"""Sorted ids of nodes, shape ``(n,)``, their pairs ``(n, SLOTS)``, their vectors of length 1 or 0 ``(n, dim)``."""

_WRITTEN_AT_ONCE = 20_000
_FIELDS = ("id", "cell", "n", "mean", "reach", "pairs")
_TYPES: dict[str, Any] = {
    "id": ">i8",
    "cell": ">i4",
    "n": ">i4",
    "mean": ">f4",
    "reach": ">f4",
    "pairs": (">u2", (SLOTS,)),
}


def table_of(collection: Collection, segment: Segment | int) -> str:
    """A segment's table, as SQL."""
    number = segment if isinstance(segment, int) else segment.number
    return f"ragstore.seg_{collection.collection_id}_{number:d}"


def is_segment_table(name: str) -> bool:
    """Whether a relation is the table of a segment."""
    return re.fullmatch(r"seg_\d+_\d+", name) is not None


def new_table(cursor: Cursor, collection: Collection) -> int:
    """Create an empty table of a segment; returns its number."""
    cursor.execute("SELECT nextval('ragstore.stamp')")
    (number,) = cursor.fetchone() or (0,)
    table = table_of(collection, number)
    # The rows never change, so that there is nothing to vacuum.
    cursor.execute(
        f"CREATE TABLE {table} (id bigint NOT NULL, cell integer NOT NULL, n integer NOT NULL, mean real NOT NULL, "
        f"reach real NOT NULL, pairs bytea NOT NULL, embedding halfvec({collection.space.dim:d}) NOT NULL) "
        "WITH (autovacuum_enabled = off)"
    )
    cursor.execute(f"ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE PLAIN")
    return int(number)


def write_flat(cursor: Cursor, collection: Collection, number: int, nodes: Nodes) -> None:
    """Write nodes into a table without a tree."""
    ids, of_ids, vectors = nodes
    _write(cursor, collection, number, Entries.of_nodes(np.zeros(len(ids), dtype=np.int64), ids, vectors), of_ids)


def write_tree(cursor: Cursor, collection: Collection, number: int, nodes: Nodes) -> int:
    """Write a tree of nodes, and the pairs of its groups; returns the number of groups."""
    ids, of_ids, vectors = nodes
    written: list[Entries] = []
    of_nodes: list[tuple[Numbers, Pairs]] = []
    for entries in tree(ids, vectors):
        is_node = entries.counts == 0
        of_entries = np.zeros((len(entries.ids), SLOTS), dtype=np.uint16)
        of_entries[is_node] = of_ids[np.searchsorted(ids, entries.ids[is_node])]
        _write(cursor, collection, number, entries, of_entries)
        written.append(entries.groups())
        of_nodes.append((entries.cells[is_node], of_entries[is_node]))
    n_groups = sum(len(entries.ids) for entries in written)
    groups = Groups(n_groups)
    for entries in written:
        groups.add_groups(entries.ids, entries.cells, entries.counts)
    for cells, of_cells in of_nodes:
        groups.add_nodes(cells, of_cells)
    groups.write(cursor, collection, number)
    return n_groups


def live_nodes(cursor: Cursor, collection: Collection, segment: Segment) -> Nodes:
    """A segment's live nodes; read from their own rows if the segment's table is missing."""
    query, live = _live(cursor, collection, segment)
    ids, of_ids, vectors = _read(cursor, collection, query)
    if live is not None:
        kept = np.isin(ids, live)
        ids, of_ids, vectors = ids[kept], of_ids[kept], vectors[kept]
    order = np.argsort(ids)
    return ids[order], of_ids[order], vectors[order]


def visit_live_vectors(
    cursor: Cursor, collection: Collection, segment: Segment, visit: Callable[[Halves], object]
) -> None:
    """Call ``visit`` with some hundred vectors at a time of a segment's live nodes; they have length 1 or 0.

    Needs eight bytes of memory a node, not its vector.
    """
    query, live = _live(cursor, collection, segment)
    ordered = None if live is None else np.append(np.sort(live), np.iinfo(np.int64).max)

    def take(rows: Rows) -> None:
        if ordered is not None:
            ids = rows["id"].astype(np.int64)
            rows = rows[ordered[np.searchsorted(ordered, ids)] == ids]
        visit(rows["vector"].astype(np.float16))

    _copy(cursor, query, _Sink(_row_type(collection.space.dim, "id", "pairs"), take))


def _live(cursor: Cursor, collection: Collection, segment: Segment) -> tuple[str, Numbers | None]:
    """A query for a segment's ids, pairs and vectors, and which of the ids are live; None if all are."""
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [table_of(collection, segment)])
    where = f"id > {segment.above:d} AND id <= {segment.upto:d}"
    if cursor.fetchone() == (True,):
        live = _read_ids(cursor, f"SELECT id FROM {quoted_table(collection)} WHERE {where}")
        return f"SELECT id, pairs, embedding FROM {table_of(collection, segment)} WHERE n = 0", live
    normalised = f"ragstore.pairs(user_metadata), l2_normalize(embedding)::halfvec({collection.space.dim:d})"
    return f"SELECT id, {normalised} FROM {quoted_table(collection)} WHERE {where}", None


def _row_type(dim: int, *fields: str) -> np.dtype[Any]:
    """Type of a row in PostgreSQL's binary COPY format: these fields, then a vector unless ``dim`` is 0."""
    sized = [part for name in fields for part in ((f"{name}_size", ">i4"), (name, _TYPES[name]))]
    vector = [("vector_size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("vector", ">f2", (dim,))] if dim else []
    return np.dtype([("fields", ">i2"), *sized, *vector])


def _write(cursor: Cursor, collection: Collection, number: int, entries: Entries, of_entries: Pairs) -> None:
    dim = collection.space.dim
    for begin in range(0, len(entries.ids), _WRITTEN_AT_ONCE):
        part = slice(begin, begin + _WRITTEN_AT_ONCE)
        rows = np.zeros(len(entries.ids[part]), dtype=_row_type(dim, *_FIELDS))
        rows["fields"] = 1 + len(_FIELDS)
        for name in _FIELDS:
            rows[f"{name}_size"] = np.dtype(_TYPES[name]).itemsize
        rows["vector_size"], rows["dim"] = 4 + 2 * dim, dim
        rows["id"], rows["cell"], rows["n"] = entries.ids[part], entries.cells[part], entries.counts[part]
        rows["mean"], rows["reach"], rows["pairs"] = entries.means[part], entries.reaches[part], of_entries[part]
        rows["vector"] = entries.vectors[part]
        copying = f"COPY {table_of(collection, number)} ({', '.join(_FIELDS)}, embedding) FROM STDIN (FORMAT binary)"
        cursor.copy_expert(copying, io.BytesIO(HEADER + rows.tobytes() + TRAILER), size=1 << 18)


def _read(cursor: Cursor, collection: Collection, query: str) -> Nodes:
    dim = collection.space.dim
    ids, vectors = [np.empty(0, dtype=np.int64)], [np.empty((0, dim), dtype=np.float16)]
    of_ids = [np.empty((0, SLOTS), dtype=np.uint16)]
    for rows in _rows(cursor, query, _row_type(dim, "id", "pairs")):
        ids.append(rows["id"].astype(np.int64))
        of_ids.append(rows["pairs"].astype(np.uint16))
        vectors.append(rows["vector"].astype(np.float16))
    return np.concatenate(ids), np.concatenate(of_ids), np.concatenate(vectors)


def _read_ids(cursor: Cursor, query: str) -> Numbers:
    parts = [rows["id"].astype(np.int64) for rows in _rows(cursor, query, _row_type(0, "id"))]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _rows(cursor: Cursor, query: str, of_type: np.dtype[Any]) -> list[Rows]:
    parts: list[Rows] = []
    _copy(cursor, query, _Sink(of_type, parts.append))
    return parts


def _copy(cursor: Cursor, query: str, sink: _Sink) -> None:
    cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", sink, size=1 << 18)


class _Sink:
    """Receives rows of one size in PostgreSQL's binary COPY format, and passes them on as they arrive."""

    def __init__(self, of_type: np.dtype[Any], take: Callable[[Rows], object]) -> None:
        self._type = of_type
        self._take = take
        self._rest = bytearray()
        self._has_begun = False

    def write(self, sent: bytes) -> int:
        self._rest += sent
        if not self._has_begun and len(self._rest) >= len(HEADER):
            del self._rest[: len(HEADER)]
            self._has_begun = True
        n = len(self._rest) // self._type.itemsize if self._has_begun else 0
        if n:
            size = n * self._type.itemsize
            self._take(np.frombuffer(bytes(self._rest[:size]), dtype=self._type))
            del self._rest[:size]
        return len(sent)
