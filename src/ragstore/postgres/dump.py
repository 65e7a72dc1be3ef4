"""PostgreSQL side of a backup: one snapshot, from which whole rows are copied out.

Rows of vector tables go out in the binary COPY format, in which the columns' types have the same form in every version
of PostgreSQL and pgvector, rows of the ledger in its text format. ``xmin`` is the version of a row: a row that was
written again in place has another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import numpy as np

from ragstore.errors import StoreError
from ragstore.model.collection import Collection
from ragstore.postgres.collections import to_collection
from ragstore.postgres.copy import HEADER, TRAILER
from ragstore.postgres.names import quoted_literal, quoted_table
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import BEGIN_SNAPSHOT, fetch, fetch_first
from ragstore.postgres.statements import COLLECTION_COLUMNS
from ragstore.postgres.vectors import decoded_vector

LEDGER = (
    "document", "quarantine", "body", "triplet", "graph_node", "graph_relation", "index_struct", "asked", "event",
)  # fmt: skip
"""Tables with rows of collections, in the order in which they can be filled. Runs and the outbox are not among them:
they say what must still happen in MongoDB, which is made from the ledger again."""

_READ_ALIKE = """
SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL TimeZone = 'UTC';
SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1; SET LOCAL xmloption = 'content'
"""
"""So that the text forms do not depend on what a server or role has set."""

_POSITION = """
SELECT (SELECT deployment_id::text FROM ragstore.deployment), (SELECT epoch FROM ragstore.epoch),
    (SELECT last_value FROM ragstore.stamp), now(), current_setting('server_version')
"""
_COLLECTIONS = f"SELECT {COLLECTION_COLUMNS} FROM ragstore.collection ORDER BY name"
_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
_ROWS = "SELECT id, xmin::text::bigint FROM {table}"
_QUESTIONS = """
SELECT vector_send(embedding) FROM ragstore.asked WHERE collection_id = %(collection_id)s ORDER BY slot LIMIT %(n)s
"""
_OWN_VECTORS = "SELECT vector_send(embedding::vector) FROM {table} WHERE id = ANY(%(ids)s::bigint[]) ORDER BY id"
_NEAREST = """
SELECT node_id, embedding::vector <=> %(vector)s::vector AS distance FROM {table}
ORDER BY distance, node_id LIMIT %(n)s
"""
_COUNTS = """
SELECT (SELECT count(*) FROM ragstore.document
        WHERE collection_id = %(collection_id)s AND deleted_at IS NULL AND revision > 0),
    (SELECT count(*) FROM ragstore.body WHERE collection_id = %(collection_id)s)
"""

RowVersions = np.ndarray[Any, Any]
ROW_VERSION = np.dtype([("id", "<i8"), ("version", "<i8")])
"""Id of a row, and the version of what it holds."""

_SENT_ROW = np.dtype([("fields", ">i2"), ("s1", ">i4"), ("id", ">i8"), ("s2", ">i4"), ("version", ">i8")])
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class Position:
    """Where the databases stood at the snapshot."""

    deployment: str
    epoch: int
    stamp: int
    now: str
    server: str


class Dump:
    """One snapshot of all collections; all reads see the same state."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def position(self) -> Position:
        ((deployment, epoch, stamp, now, server),) = fetch(self._cursor, _POSITION)
        return Position(deployment, epoch, stamp, now.astimezone(UTC).isoformat(), server.split()[0])

    def collections(self) -> list[Collection]:
        """All collections, by name."""
        return [to_collection(row) for row in fetch(self._cursor, _COLLECTIONS)]

    def settings(self, collection: Collection) -> dict[str, str | None]:
        """The row of a collection, each column in its text form; without its id and its segments, which are rebuilt."""
        names = [n for n in self._columns("ragstore.collection") if n not in _REBUILT]
        listed = ", ".join(f'"{name}"::text' for name in names)
        statement = f"SELECT {listed} FROM ragstore.collection WHERE collection_id = %(collection_id)s"
        (row,) = fetch(self._cursor, statement, collection)
        return dict(zip(names, row, strict=True))

    def counts(self, collection: Collection) -> tuple[int, int]:
        """Number of live documents, and of nodes without a vector."""
        ((n_documents, n_bodies),) = fetch(self._cursor, _COUNTS, collection)
        return n_documents, n_bodies

    def has_table(self, collection: Collection) -> bool:
        return not fetch_first(self._cursor, "SELECT to_regclass(%(table)s) IS NULL", table=quoted_table(collection))

    def row_columns(self, collection: Collection) -> tuple[str, ...]:
        """Columns of a vector table that are stored; ``id`` is the first."""
        found = self._columns(quoted_table(collection))
        return ("id", *(name for name in found if name != "id"))

    def row_versions(self, collection: Collection) -> RowVersions:
        """Id and version of each row of the vector table, in the order of ids; 16 bytes of memory a row."""
        sent: list[bytes] = []
        self._copy(f"COPY ({_ROWS.format(table=quoted_table(collection))}) TO STDOUT (FORMAT binary)", sent.append)
        rows = np.frombuffer(b"".join(sent)[len(HEADER) : -len(TRAILER)], dtype=_SENT_ROW)
        found = np.empty(len(rows), dtype=ROW_VERSION)
        found["id"], found["version"] = rows["id"], rows["version"]
        found.sort(order="id")
        return found

    def copy_rows(
        self, collection: Collection, columns: Sequence[str], bounds: tuple[int, int], take: Callable[[bytes], None]
    ) -> int:
        """Pass on each row with an id within these bounds, both included, in the order of ids; returns how many.

        Args:
            columns: ``id`` first.
        """
        listed = ", ".join(f'"{name}"' for name in columns)
        query = (
            f"SELECT {listed} FROM {quoted_table(collection)} "
            f"WHERE id >= {bounds[0]:d} AND id <= {bounds[1]:d} ORDER BY id"
        )
        sink = _Rows(len(columns), take)
        self._copy(f"COPY ({query}) TO STDOUT (FORMAT binary)", sink.write)
        # A server, or a pooler, that joins rows into one message would not be understood.
        if self._cursor.rowcount != sink.n_rows or not sink.is_ended:
            raise StoreError(
                f"PostgreSQL sent {sink.n_rows} rows of {self._cursor.rowcount}",
                hint="connect without what stands between ragstore and PostgreSQL, then run the same command again",
            )
        return sink.n_rows

    def table_columns(self, table: str) -> tuple[str, ...]:
        """Columns of a ledger table but those that name the collection."""
        return tuple(name for name in self._columns(f"ragstore.{table}") if name not in ("collection_id", "collection"))

    def copy_table(
        self, collection: Collection, table: str, columns: Sequence[str], take: Callable[[bytes], None]
    ) -> int:
        """Pass on each row of a ledger table that belongs to the collection, as a line of text; returns how many."""
        listed = ", ".join(f'"{name}"' for name in columns)
        of_collection = f"collection_id = {collection.collection_id:d}"
        if table == "event":
            of_collection = f"collection = {quoted_literal(collection.name)}"
        query = f"SELECT {listed} FROM ragstore.{table} WHERE {of_collection} ORDER BY {_ORDERS.get(table, '1')}"
        self._copy(f"COPY ({query}) TO STDOUT", take)
        return int(self._cursor.rowcount)

    def questions(self, collection: Collection, row_ids: Sequence[int], n: int) -> list[list[float]]:
        """Vectors of the last questions, at most ``n``, and of these nodes."""
        asked = fetch(self._cursor, _QUESTIONS, collection, n=n)
        own = fetch(self._cursor, _OWN_VECTORS, collection, ids=[int(row_id) for row_id in row_ids])
        return [decoded_vector(sent).tolist() for (sent,) in (*asked, *own)]

    def nearest(self, collection: Collection, vector: Sequence[float], n: int) -> list[tuple[str, float]]:
        """The nearest nodes by an exact search, each with its cosine distance, nearest first."""
        text = f"[{','.join(map(repr, vector))}]"
        return [
            (node_id, float(distance))
            for node_id, distance in fetch(self._cursor, _NEAREST, collection, vector=text, n=n)
        ]

    def _columns(self, table: str) -> list[str]:
        return [row[0] for row in fetch(self._cursor, _COLUMNS, table=table)]

    def _copy(self, statement: str, take: Callable[[bytes], object]) -> None:
        self._cursor.copy_expert(statement, _Calls(take), size=_BUFFER)


_REBUILT = ("collection_id", "segments", "retired_segments", "effort", "index_state")

_ORDERS = {
    "document": 'document_id COLLATE "C"',
    "quarantine": 'document_id COLLATE "C"',
    "body": "stamp, node_id",
    "triplet": "triplet_id",
    "graph_node": "position",
    "graph_relation": "position",
    "index_struct": 'index_id COLLATE "C"',
    "asked": "slot",
    "event": "event_id",
}


class _Calls:
    """A file for psycopg2 that passes on what is written to it."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take

    def write(self, sent: bytes) -> int:
        self._take(sent)
        return len(sent)


class _Rows:
    """Takes the messages of a binary COPY, of which each is one row, the first with the header before it."""

    def __init__(self, n_fields: int, take: Callable[[bytes], None]) -> None:
        self._fields = n_fields.to_bytes(2, "big") + b"\0\0\0\x08"
        self._take = take
        self._has_begun = False
        self.n_rows = 0
        self.is_ended = False

    def write(self, sent: bytes) -> None:
        if not self._has_begun:
            if not sent.startswith(HEADER[:11]):
                raise StoreError("PostgreSQL sent rows in an unknown format", hint="report this as a defect")
            self._has_begun = True
            sent = sent[len(HEADER) :]
            if not sent:
                return
        if sent == TRAILER:
            self.is_ended = True
        elif sent.startswith(self._fields):
            self.n_rows += 1
            self._take(sent)
        else:
            raise StoreError("PostgreSQL sent rows in an unknown format", hint="report this as a defect")


@contextmanager
def dump(pool: PostgresPool) -> Iterator[Dump]:
    """The present state of all collections for the length of the block; writers are not blocked."""
    with pool.transaction() as cursor:
        cursor.execute(BEGIN_SNAPSHOT)
        cursor.execute(_READ_ALIKE)
        yield Dump(cursor)
