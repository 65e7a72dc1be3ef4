"""Segments: ranges of a vector table's ids, each with an HNSW index of its own; nodes above the last are fresh.

Inserting into an HNSW index costs more than all else that is done for a node. A row's id is a number that only grows,
so an index ``WHERE id > above AND id <= upto`` gets no new rows: those are fresh, and compared one by one. When they
have become many, an index over them, and over small segments before them, is built beside all readers and writers. No
row moves, and the unique key on ``node_id`` stays one.

Queries are right without any of the indexes, and with segments that others have merged since: an index that holds more
than a query asks for serves it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from ragstore.errors import StoreError
from ragstore.model.collection import Collection, Segment
from ragstore.postgres import statements
from ragstore.postgres.collections import to_segments
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Connection, Cursor, PostgresPool
from ragstore.postgres.vectors import MAX_INDEXED_DIM, index_expression, index_operators
from ragstore.telemetry.failpoint import Failpoint, reached

LOCK_SPACE = 0x5241_4753  # "RAGS": of the lock on building an index; keeps ours apart from other programs

_MAX_SHORT_DIM = 500
"""Comparing a longer one costs several times as much, and fewer are compared one by one."""

_MIN_FRESH_SHARE = 100
"""A build reads the whole table, so that larger tables wait for more fresh nodes: for one in so many."""

_STATE = """
SELECT
    (SELECT segments FROM ragstore.collection WHERE collection_id = %(collection_id)s),
    (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%(table)s)),
    ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
          WHERE i.indrelid = to_regclass(%(table)s) AND c.relname ~ %(pattern)s),
    ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
          WHERE i.indrelid = to_regclass(%(table)s) AND c.relname ~ %(pattern)s AND i.indisvalid)
"""
_FRESH = """
SELECT count(*) >= %(wanted)s AND count(*) > 0, count(*)
FROM (SELECT FROM {table} WHERE id > %(last)s LIMIT greatest(%(wanted)s, 1)) AS probe
"""
_EXTENT = "SELECT count(*), max(id) FROM {table} WHERE id > %(last)s"
_COUNT = "SELECT count(*) FROM {table} WHERE id > %(above)s AND id <= %(upto)s"


def index_fresh(pool: PostgresPool, collection: Collection, *, min_nodes: int) -> bool:
    """Build an HNSW index over a collection's fresh nodes once they are many; returns whether it did.

    Many are ``min_nodes``, a quarter of that where vectors are long, and one in a hundred of a large collection.
    Returns at once when another process is building, and where the table belongs to another role: then ``ragstore
    maintain`` builds.

    Crash safety:
        Built concurrently: readers and writers go on. What a killed build left behind is taken over here where it is
        whole, and dropped where it is not.
    """
    if collection.space.dim > MAX_INDEXED_DIM:
        return False
    with pool.autocommit() as connection:
        build = _Build(connection, collection)
        if not build.is_wanted(min_nodes):
            return False
        with connection.cursor() as cursor:
            # Waiting for a lock would hold a snapshot that CREATE INDEX CONCURRENTLY in turn waits for.
            key = {"space": LOCK_SPACE, "id": collection.collection_id}
            cursor.execute("SELECT pg_try_advisory_lock(%(space)s, %(id)s)", key)
            if cursor.fetchone() != (True,):
                return False
            try:
                return build.go(min_nodes)
            finally:
                if not connection.closed:
                    cursor.execute("SELECT pg_advisory_unlock(%(space)s, %(id)s)", key)


def rebuild(connection: Connection, collection: Collection, index: str) -> None:
    """Build a segment's index anew, or drop an index that belongs to none."""
    with connection.cursor() as cursor:
        _drop(cursor, index)
    reached(Failpoint.REPAIR_INDEX_DROPPED)
    for segment in collection.segments:
        if index_name(collection, segment) == index:
            _create(connection, collection, segment)


def index_name(collection: Collection, segment: Segment) -> str:
    """Name of a segment's index, unquoted; a collection's own name may be too long to go into it."""
    return f"hnsw_{collection.collection_id}_{segment.above:x}_{segment.upto:x}"


def is_index_name(name: str) -> bool:
    """Whether an index is one of a segment."""
    return re.fullmatch(r"hnsw_\d+_[0-9a-f]+_[0-9a-f]+", name) is not None


def condition(segment: Segment) -> str:
    """Which rows are in a segment, as SQL."""
    upper = f"id <= {segment.upto}"
    return f"id > {segment.above} AND {upper}" if segment.above else upper


def fresh_condition(segments: Sequence[Segment]) -> str:
    """Which rows are in none of these segments, as SQL."""
    return f"id > {segments[-1].upto}" if segments else "true"


def merged(segments: Sequence[Segment], n_fresh: int, upto: int) -> tuple[list[Segment], Segment]:
    """Which segments stay, and the new one: of the fresh nodes and of those before them while they are no more than it.

    So each segment is more than all after it together: there are few, and a node is indexed again only when its
    segment doubles.
    """
    kept, n_nodes = list(segments), n_fresh
    while kept and kept[-1].n_nodes <= n_nodes:
        n_nodes += kept.pop().n_nodes
    return kept, Segment(kept[-1].upto if kept else 0, upto, n_nodes)


class _Build:
    """One look at a collection's segments, and what it finds to do."""

    def __init__(self, connection: Connection, collection: Collection) -> None:
        self._connection = connection
        self._collection = collection
        self._segments: list[Segment] = []
        self._owns = False
        self._indexes: set[str] = set()
        self._valid: set[str] = set()

    def is_wanted(self, min_nodes: int) -> bool:
        """Whether there is something to do, and this role may do it."""
        self._look()
        return self._owns and (bool(self._left_behind()) or self._has_many_fresh(min_nodes))

    def go(self, min_nodes: int) -> bool:
        """Take over or drop what others left behind, then build; nobody else does so meanwhile."""
        self._look()
        has_built = self._take_over()
        if self._has_many_fresh(min_nodes):
            n_fresh, upto = self._row(_EXTENT, last=self._last())
            kept, segment = merged(self._segments, n_fresh, upto)
            reached(Failpoint.INDEX_BUILD_BEGUN)
            _create(self._connection, self._collection, segment)
            reached(Failpoint.INDEX_BUILT)
            self._note([*kept, segment])
            has_built = True
        if has_built:
            reached(Failpoint.INDEX_NOTED)
        self._look()
        with self._connection.cursor() as cursor:
            for name in sorted(self._left_behind()):
                _drop(cursor, name)
        return has_built

    def _take_over(self) -> bool:
        """Note an index that was built whole by somebody who then died."""
        whole = [self._segment_of(name) for name in self._left_behind() & self._valid]
        ends = {0, *(segment.upto for segment in self._segments)}
        newer = [segment for segment in whole if segment.upto > self._last() and segment.above in ends]
        if not newer:
            return False
        found = max(newer, key=lambda segment: (segment.upto, -segment.above))
        (n_nodes,) = self._row(_COUNT, above=found.above, upto=found.upto)
        kept = [segment for segment in self._segments if segment.upto <= found.above]
        self._note([*kept, Segment(found.above, found.upto, n_nodes)])
        return True

    def _note(self, segments: list[Segment]) -> None:
        packed = orjson.dumps([[s.above, s.upto, s.n_nodes] for s in segments]).decode()
        with self._connection.cursor() as cursor:
            parameters = {"segments": packed, "collection_id": self._collection.collection_id}
            cursor.execute(statements.SET_SEGMENTS, parameters)
        self._segments = segments

    def _look(self) -> None:
        found, owns, indexes, valid = self._row(
            _STATE, table=quoted_table(self._collection), pattern=f"^hnsw_{self._collection.collection_id}_"
        )
        self._segments = list(to_segments(found or []))
        self._owns, self._indexes, self._valid = bool(owns), set(indexes), set(valid)

    def _left_behind(self) -> set[str]:
        """Indexes of segments that are none any more, or not yet."""
        return self._indexes - {index_name(self._collection, segment) for segment in self._segments}

    def _has_many_fresh(self, min_nodes: int) -> bool:
        few = min_nodes if self._collection.space.dim <= _MAX_SHORT_DIM else min_nodes // 4
        share = sum(segment.n_nodes for segment in self._segments) // _MIN_FRESH_SHARE
        return bool(self._row(_FRESH, last=self._last(), wanted=max(few, share))[0])

    def _last(self) -> int:
        return self._segments[-1].upto if self._segments else 0

    def _segment_of(self, name: str) -> Segment:
        above, upto = name.split("_")[-2:]
        return Segment(int(above, 16), int(upto, 16), 0)

    def _row(self, statement: str, **parameters: object) -> tuple[Any, ...]:
        own = {"collection_id": self._collection.collection_id}
        with self._connection.cursor() as cursor:
            cursor.execute(statement.replace("{table}", quoted_table(self._collection)), own | parameters)
            row = cursor.fetchone()
        assert row is not None
        return row


def _create(connection: Connection, collection: Collection, segment: Segment) -> None:
    name = index_name(collection, segment)
    with connection.cursor() as cursor:
        _drop(cursor, name)
        cursor.execute("SET maintenance_work_mem = '512MB'")
        # A limit that is right for queries would end every build of a large index.
        cursor.execute("SET statement_timeout = 0")
        try:
            cursor.execute(
                f'CREATE INDEX CONCURRENTLY "{name}" ON {quoted_table(collection)} '
                f"USING hnsw ({index_expression(collection)} {index_operators(collection)}) WHERE {condition(segment)}"
            )
        finally:
            if not connection.closed:
                cursor.execute("RESET maintenance_work_mem")
                cursor.execute("RESET statement_timeout")
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [f"ragstore.{name}"])
        if cursor.fetchone() != (True,):
            raise StoreError(
                f"PostgreSQL left the index {name} of collection {collection.name!r} invalid",
                hint="run the same command again: it builds the index anew; queries are exact meanwhile",
            )


def _drop(cursor: Cursor, index: str) -> None:
    """Drop an index when the last query that uses it has ended; nobody waits for that but this call."""
    cursor.execute("SET statement_timeout = 0")
    try:
        cursor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS ragstore."{index}"')
    finally:
        if not cursor.connection.closed:
            cursor.execute("RESET statement_timeout")
