"""Segments: ranges of a vector table's ids, each with its vectors in a narrow table that is written once.

A row's id only grows, so new rows are above the last range. These are fresh: in no segment, and compared one by one.
Fresh nodes are sealed into a segment by one statement, as soon as the writers under way have ended. Small segments have
no tree and are read whole, which costs a search a third of a microsecond per node. When they have many nodes together
they become a tree of cells (``cells.py``), and neighbouring trees are merged by size. Rows of a segment's table never
change: deleted nodes are left out when a search fetches the nodes' own rows, and by the next merge.

A search is correct with any version of the list of segments: for it, fresh is all above the last segment that it knows.
A table that was merged into another stays for ``RETIRED_S``. A search with an older list gets the error that the table
is missing, and reads the list again.

A row with a low id must not become visible after its range was sealed. Writers hold a shared lock from before they draw
ids until they commit. Sealing reads the highest id, then waits for the writers that hold the lock at that moment: after
that all rows up to this id are visible.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import orjson

from ragstore.errors import MissingTableError, StoreError
from ragstore.model.collection import Collection, Segment
from ragstore.postgres import pairs, statements
from ragstore.postgres.collections import to_segments
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.segment_tables import live_nodes, new_table, table_of, write_flat, write_tree
from ragstore.postgres.vectors import MAX_INDEXED_DIM
from ragstore.telemetry.failpoint import Failpoint, reached

LOCK_SPACE = 0x5241_4753
"""Key of the lock for building indexes of the vector table; distinguishes it from locks of other programs."""

RETIRED_S = 60.0
"""Seconds for which a table stays after it was merged into another."""

MAX_DEAD_SHARE = 0.3

WAIT_FOR_WRITERS_S = 3.0
"""Seconds that sealing waits for transactions that may have drawn an id already."""

_POLL_S = 0.02

_SEAL_SPACE, _MERGE_SPACE = 0x5241_4754, 0x5241_4755
_FLAT_COMPONENTS = 2_000_000
"""A segment with fewer vector components (nodes times dim) has no tree: reading all of it takes a few milliseconds."""

_PER_LEVEL = 8
_FIRST_LEVEL = 4
"""Times ``max_flat``: trees with fewer nodes are of the first level."""

_MAX_LEVEL = 12
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '1s'"
_UNLIMITED = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
_LOCK_NOT_AVAILABLE = "55P03"

_STATE = """
SELECT segments, retired_segments,
    (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%(table)s))
FROM ragstore.collection WHERE collection_id = %(collection_id)s
"""
_COUNT_FRESH = "SELECT count(*) FROM (SELECT FROM {table} WHERE id > %(last)s LIMIT %(limit)s) AS probe"
_PROBE_FRESH = """
SELECT count(*) FROM (SELECT FROM {table} WHERE id > coalesce(
    (SELECT (segments->-1->>2)::bigint FROM ragstore.collection WHERE collection_id = %(collection_id)s), 0
) LIMIT %(limit)s) AS probe
"""
_HIGHEST = "SELECT max(id) FROM {table}"
_WRITERS = """
SELECT array_agg(virtualtransaction) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid, objid, objsubid) = (%(space)s, %(collection_id)s, 2) AND granted
"""
_END_OF_PART = """
SELECT max(id) FROM (SELECT id FROM {table} WHERE id > %(last)s AND id <= %(upto)s ORDER BY id LIMIT %(n)s) AS part
"""
_COUNT_LIVE = "SELECT count(*) FROM {table} WHERE id > %(above)s AND id <= %(upto)s"
_SEAL = """
INSERT INTO {segment} (id, cell, n, mean, reach, pairs, embedding)
SELECT id, 0, 0, 1, 0, ragstore.pairs(user_metadata), l2_normalize(embedding)::halfvec({dim})
FROM {table} WHERE id > %(above)s AND id <= %(upto)s
"""
_NOTE = """
UPDATE ragstore.collection SET segments = %(segments)s,
    retired_segments = retired_segments || coalesce((
        SELECT jsonb_agg(jsonb_build_array(number, extract(epoch FROM now())))
        FROM unnest(%(retired)s::bigint[]) AS number
    ), '[]')
WHERE collection_id = %(collection_id)s
"""
_FORGET_RETIRED = """
UPDATE ragstore.collection SET retired_segments = coalesce((
    SELECT jsonb_agg(retired) FROM jsonb_array_elements(retired_segments) AS retired
    WHERE (retired->>0)::bigint <> ALL (%(numbers)s)
), '[]')
WHERE collection_id = %(collection_id)s
"""
_HOLD = "SELECT segments FROM ragstore.collection WHERE collection_id = %s FOR NO KEY UPDATE"
_SECONDS = "SELECT extract(epoch FROM now())::float8"


@dataclass(frozen=True, slots=True)
class Room:
    """Limit for the nodes of a merge.

    Args:
        max_nodes: that fit into the memory of a build.
        at_rest: no nodes are being added: merge until each segment has more nodes than all after it together.
    """

    max_nodes: int
    at_rest: bool = False


def room(collection: Collection, memory_mb: int, *, at_rest: bool = False) -> Room:
    """Limit for a build in this memory: the vectors as float16, half as much again, and some numbers per node."""
    return Room(max(1, memory_mb * 2**20 // (3 * collection.space.dim + 200)), at_rest)


def fresh_condition(segments: Sequence[Segment]) -> str:
    """SQL condition for rows that are in none of these segments."""
    return f"id > {segments[-1].upto:d}" if segments else "true"


def max_flat(collection: Collection) -> int:
    """Number of nodes above which a segment gets a tree."""
    return max(1, _FLAT_COMPONENTS // collection.space.dim)


def seal_fresh(pool: PostgresPool, collection: Collection, *, min_nodes: int, room: Room) -> int:
    """Seal a collection's fresh nodes into segments if there are at least ``min_nodes``; returns how many were sealed.

    Returns at once if another process is sealing, or if the table belongs to another role (then ``ragstore maintain``
    seals); after some seconds if a writer does not end.

    Crash safety:
        A segment's table and its entry in the collection's row are one transaction.
    """
    n_sealed = 0
    if collection.space.dim > MAX_INDEXED_DIM:
        return 0
    if not _has_fresh(pool, collection, max(1, min_nodes)):
        return 0
    with _giving_way():
        while n := _seal_once(pool, collection, max(1, min_nodes), room):
            reached(Failpoint.INDEX_NOTED)
            n_sealed += n
        while n_sealed and _plant_flats(pool, collection, room):
            reached(Failpoint.INDEX_NOTED)
    return n_sealed


def merge_once(pool: PostgresPool, collection: Collection, room: Room) -> Segment | None:
    """Merge the next due segments into one, or rewrite one with many deleted nodes; None if nothing is due.

    Takes seconds per 100,000 nodes; meanwhile readers, writers and sealing go on.

    Crash safety:
        As ``seal_fresh``.
    """
    merged = None
    with _giving_way(), _alone(pool, collection, _MERGE_SPACE) as cursor:
        if cursor is None:
            return None
        state = _State.read(cursor, collection)
        run = next_merge(state.segments, room, max_flat(collection)) or _mostly_dead(cursor, collection, state, room)
        if not (state.owns and run):
            return None
        merged = _merged(cursor, collection, run)
    if merged:
        reached(Failpoint.INDEX_NOTED)
    return merged


def wants_merge(pool: PostgresPool, collection: Collection, room: Room) -> bool:
    """Whether segments are due to be merged, or merged tables to be dropped, and this role has the right to."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        state = _State.read(cursor, collection)
        if not state.owns:
            return False
        if next_merge(state.segments, room, max_flat(collection)):
            return True
        if not room.at_rest:
            return False
        return bool(_retired_long_ago(cursor, state) or _mostly_dead(cursor, collection, state, room))


def next_merge(segments: Sequence[Segment], room: Room, max_flat: int) -> Sequence[Segment]:
    """Neighbouring segments that should become one; none if a merge is not worth it.

    Eight trees of about one size become a tree of the next size, or one of more than half of what fits, which then
    stays. So each node is written once per level. At rest each segment gets more nodes than all after it together.
    """
    trees = segments[: len(segments) - len(_flats(segments))]
    least = 0
    for level in range(_MAX_LEVEL):
        limit = _PER_LEVEL**level * _FIRST_LEVEL * max_flat
        run = _tail_below(trees, min(limit, room.max_nodes // 2 + 1))
        of_level = [position for position, segment in enumerate(run) if segment.n_nodes >= least]
        if len(of_level) >= _PER_LEVEL:
            return _fitting(run[: of_level[-1] + 1], room)
        least = limit
    return _at_rest(segments, room) if room.at_rest else ()


def drop_retired(pool: PostgresPool, collection: Collection) -> int:
    """Drop tables that were merged into others more than ``RETIRED_S`` ago; returns how many.

    Crash safety:
        One transaction.
    """
    try:
        with pool.transaction() as cursor:
            cursor.execute(_LOCK_TIMEOUT)
            state = _State.read(cursor, collection)
            old = _retired_long_ago(cursor, state)
            if not (state.owns and old):
                return 0
            for number in old:
                cursor.execute(f"DROP TABLE IF EXISTS {table_of(collection, number)}")
            pairs.forget(cursor, collection, old)
            cursor.execute(_FORGET_RETIRED, {"numbers": old, "collection_id": collection.collection_id})
            return len(old)
    except StoreError as error:
        # Another transaction has been reading one for long; the next round drops it.
        if error.facts.get("sqlstate") == _LOCK_NOT_AVAILABLE:
            return 0
        raise


def forget_from(cursor: Cursor, collection: Collection, row_ids: Sequence[int]) -> None:
    """Remove the first segment with one of these rows, and all after it, because their vectors change in place.

    Crash safety:
        A step of the caller's transaction.
    """
    cursor.execute(_HOLD, [collection.collection_id])
    state = _State.read(cursor, collection)
    kept = [segment for segment in state.segments if segment.upto < min(row_ids)]
    if len(kept) < len(state.segments):
        _note(cursor, collection, kept, state.segments[len(kept) :])


def forget_all(cursor: Cursor, collection: Collection) -> None:
    """Remove all segments, because the vector table is a new one.

    Crash safety:
        A step of the caller's transaction.
    """
    cursor.execute(_HOLD, [collection.collection_id])
    _note(cursor, collection, [], _State.read(cursor, collection).segments)


def drop_all(cursor: Cursor, collection: Collection) -> None:
    """Drop the tables of all segments of a collection that is dropped.

    Crash safety:
        A step of the caller's transaction.
    """
    state = _State.read(cursor, collection)
    numbers = [*(segment.number for segment in state.segments), *(number for number, _ in state.retired)]
    for number in numbers:
        cursor.execute(f"DROP TABLE IF EXISTS {table_of(collection, number)}")
    pairs.forget(cursor, collection, numbers)


def rebuild(pool: PostgresPool, collection: Collection, number: int) -> None:
    """Rebuild a segment from the rows of the vector table.

    Crash safety:
        As ``seal_fresh``.
    """
    with _alone(pool, collection, _MERGE_SPACE) as cursor:
        if cursor is not None:
            state = _State.read(cursor, collection)
            lost = [segment for segment in state.segments if segment.number == number]
            if lost:
                _merged(cursor, collection, lost)


def n_live(pool: PostgresPool, collection: Collection, segment: Segment) -> int:
    """Number of a segment's nodes that are still live."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        return _n_live(cursor, collection, segment)


@dataclass(frozen=True, slots=True)
class _State:
    """A collection's segments as its row has them now.

    Args:
        retired: number and time of each table that was merged into another and is not dropped yet.
        owns: whether this role owns the vector table, and so may create tables of segments.
    """

    segments: list[Segment]
    retired: list[tuple[int, float]]
    owns: bool

    @classmethod
    def read(cls, cursor: Cursor, collection: Collection) -> _State:
        cursor.execute(_STATE, {"table": quoted_table(collection), "collection_id": collection.collection_id})
        segments, retired, owns = cursor.fetchone() or ([], [], False)
        return cls(list(to_segments(segments)), [(int(number), float(at)) for number, at in retired], bool(owns))

    @property
    def last(self) -> int:
        return self.segments[-1].upto if self.segments else 0


@contextmanager
def _alone(pool: PostgresPool, collection: Collection, space: int) -> Iterator[Cursor | None]:
    """A transaction with an exclusive lock for one purpose; None if another process has it.

    The lock ends with the transaction, so it works behind a pooler and is released by a kill.
    """
    with pool.transaction() as cursor:
        cursor.execute(_UNLIMITED)
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [space, collection.collection_id])
        yield cursor if cursor.fetchone() == (True,) else None


@contextmanager
def _giving_way() -> Iterator[None]:
    """Ignore the error that others have changed the segments; the next call sees the new state."""
    try:
        yield
    except StoreError as error:
        if not error.facts.get("segments_changed"):
            raise


def _seal_once(pool: PostgresPool, collection: Collection, min_nodes: int, room: Room) -> int:
    with _alone(pool, collection, _SEAL_SPACE) as cursor:
        if cursor is None:
            return 0
        state = _State.read(cursor, collection)
        if not state.owns or _n_fresh(cursor, collection, state.last, limit=min_nodes) < min_nodes:
            return 0
        upto = _watermark(cursor, collection)
        if upto is None or upto <= state.last:
            return 0
        parameters = {"last": state.last, "upto": upto, "n": room.max_nodes}
        cursor.execute(_END_OF_PART.format(table=quoted_table(collection)), parameters)
        (upto,) = cursor.fetchone() or (None,)
        if upto is None:
            return 0
        reached(Failpoint.INDEX_BUILD_BEGUN)
        number = new_table(cursor, collection)
        sealing = _SEAL.format(
            segment=table_of(collection, number), table=quoted_table(collection), dim=collection.space.dim
        )
        cursor.execute(sealing, {"above": state.last, "upto": upto})
        n_nodes = cursor.rowcount
        reached(Failpoint.INDEX_BUILT)
        sealed = Segment(number, state.last, upto, n_nodes, 0)
        _note_in_place_of(cursor, collection, [], sealed)
    return n_nodes


def _plant_flats(pool: PostgresPool, collection: Collection, room: Room) -> bool:
    """Make one tree of the segments without a tree, if they have many nodes together."""
    with _alone(pool, collection, _SEAL_SPACE) as cursor:
        if cursor is None:
            return False
        flats = list(_flats(_State.read(cursor, collection).segments))
        while len(flats) > 1 and sum(flat.n_nodes for flat in flats) > room.max_nodes:
            del flats[0]
        if sum(flat.n_nodes for flat in flats) <= max_flat(collection):
            return False
        _merged(cursor, collection, flats)
    return True


def _watermark(cursor: Cursor, collection: Collection) -> int | None:
    """The highest id below which each row is visible or never will be; None if a writer does not end in time.

    A row with a lower id that is not visible yet belongs to a writer that held the collection before the highest id
    was read, because ids are drawn after that. So this waits for these writers, and no writer waits for this.
    """
    parameters = {"space": statements.WRITER_SPACE, "collection_id": collection.collection_id}
    cursor.execute(_HIGHEST.format(table=quoted_table(collection)))
    (upto,) = cursor.fetchone() or (None,)
    writers: set[str] | None = None
    give_up_at = time.monotonic() + WAIT_FOR_WRITERS_S
    while writers is None or writers:
        if writers is not None:
            if time.monotonic() > give_up_at:
                return None
            time.sleep(_POLL_S)
        cursor.execute(_WRITERS, parameters)
        (now,) = cursor.fetchone() or (None,)
        writers = set(now or ()) if writers is None else writers & set(now or ())
    return None if upto is None else int(upto)


def _has_fresh(pool: PostgresPool, collection: Collection, n_nodes: int) -> bool:
    """Whether so many nodes are in no segment; one round trip, where mostly there are not."""
    parameters = {"collection_id": collection.collection_id, "limit": n_nodes}
    try:
        with pool.autocommit() as connection, connection.cursor() as cursor:
            cursor.execute(_PROBE_FRESH.format(table=quoted_table(collection)), parameters)
            return cursor.fetchone() == (n_nodes,)
    except MissingTableError:
        return False


def _n_fresh(cursor: Cursor, collection: Collection, last: int, *, limit: int) -> int:
    cursor.execute(_COUNT_FRESH.format(table=quoted_table(collection)), {"last": last, "limit": limit})
    (n,) = cursor.fetchone() or (0,)
    return int(n)


def _n_live(cursor: Cursor, collection: Collection, segment: Segment) -> int:
    parameters = {"above": segment.above, "upto": segment.upto}
    cursor.execute(_COUNT_LIVE.format(table=quoted_table(collection)), parameters)
    (n,) = cursor.fetchone() or (0,)
    return int(n)


def _mostly_dead(cursor: Cursor, collection: Collection, state: _State, room: Room) -> Sequence[Segment]:
    """A segment in which too many nodes are deleted, if any."""
    if not room.at_rest:
        return ()
    for segment in state.segments:
        limit = (1 - MAX_DEAD_SHARE) * segment.n_nodes
        if segment.n_nodes and _n_live(cursor, collection, segment) < limit:
            return [segment]
    return ()


def _merged(cursor: Cursor, collection: Collection, run: Sequence[Segment]) -> Segment:
    """Write the live nodes of these segments into a new one, which replaces them in the collection's row."""
    read = [live_nodes(cursor, collection, segment) for segment in run]
    ids, of_ids, vectors = (np.concatenate(parts) for parts in zip(*read, strict=True))
    del read
    reached(Failpoint.INDEX_BUILD_BEGUN)
    number = new_table(cursor, collection)
    n_cells = 0
    if len(ids) > max_flat(collection):
        n_cells = write_tree(cursor, collection, number, (ids, of_ids, vectors))
    else:
        write_flat(cursor, collection, number, (ids, of_ids, vectors))
    if n_cells:
        cursor.execute(f"CREATE INDEX ON {table_of(collection, number)} (cell)")
        cursor.execute(f"ANALYZE {table_of(collection, number)}")
    reached(Failpoint.INDEX_BUILT)
    merged = Segment(number, run[0].above, run[-1].upto, len(ids), n_cells)
    _note_in_place_of(cursor, collection, run, merged)
    return merged


def _retired_long_ago(cursor: Cursor, state: _State) -> list[int]:
    cursor.execute(_SECONDS)
    (now,) = cursor.fetchone() or (0.0,)
    return [number for number, since in state.retired if now - since >= RETIRED_S]


def _note_in_place_of(cursor: Cursor, collection: Collection, run: Sequence[Segment], new: Segment) -> None:
    """Replace segments by another in the collection's row, if it still has them; later ones may have been sealed."""
    cursor.execute(_HOLD, [collection.collection_id])
    row = cursor.fetchone()
    now = list(to_segments(row[0])) if row else []
    at = now.index(run[0]) if run and run[0] in now else len(now)
    ends_before = now[at - 1].upto if at else 0
    if now[at : at + len(run)] != list(run) or ends_before != new.above:
        raise StoreError(
            f"the segments of collection {collection.name!r} changed while one was being made",
            hint="nothing is lost: run 'ragstore maintain'",
            segments_changed=True,
        )
    _note(cursor, collection, [*now[:at], new, *now[at + len(run) :]], run)


def _note(cursor: Cursor, collection: Collection, segments: Sequence[Segment], retired: Sequence[Segment]) -> None:
    packed = orjson.dumps([[s.number, s.above, s.upto, s.n_nodes, s.n_cells] for s in segments]).decode()
    numbers = [segment.number for segment in retired]
    cursor.execute(_NOTE, {"segments": packed, "retired": numbers, "collection_id": collection.collection_id})


def _flats(segments: Sequence[Segment]) -> Sequence[Segment]:
    """The segments without a tree at the end of the list."""
    n = 0
    while n < len(segments) and not segments[-1 - n].n_cells:
        n += 1
    return segments[len(segments) - n :]


def _tail_below(segments: Sequence[Segment], limit: int) -> Sequence[Segment]:
    """The segments at the end of the list that have fewer nodes than this."""
    n = 0
    while n < len(segments) and segments[-1 - n].n_nodes < limit:
        n += 1
    return segments[len(segments) - n :]


def _fitting(run: Sequence[Segment], room: Room) -> Sequence[Segment]:
    """The first of these segments that together fit into a build's memory."""
    n_nodes, end = 0, 0
    while end < len(run) and n_nodes + run[end].n_nodes <= room.max_nodes:
        n_nodes += run[end].n_nodes
        end += 1
    return run[:end]


def _at_rest(segments: Sequence[Segment], room: Room) -> Sequence[Segment]:
    """The first segment not larger than all that fits after it, with those: large ones are not rewritten for small."""
    for begin in range(len(segments)):
        run = _fitting(segments[begin:], room)
        if len(run) > 1 and 2 * run[0].n_nodes <= sum(segment.n_nodes for segment in run):
            return run
    return ()
