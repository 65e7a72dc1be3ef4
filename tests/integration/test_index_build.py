"""Sealing and merging of segments while others read and write, and after builds that ended badly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg2
import pytest

from ragstore.errors import StoreUnavailableError
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace
from ragstore.postgres import segments, statements
from ragstore.postgres.collections import create_collection, get_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.prepared import PreparingConnection
from ragstore.postgres.search import Query, vector_search
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.corpus import a_text
from tests.support.internals import trees_above
from tests.support.parts import DIM, Parts, a_revision, execute, open_parts, postgres_url
from tests.support.segments import AGED, AT_REST, OTHERS, ROOM, SEGMENTS, SIZES, merge_at_rest, seal

pytestmark = pytest.mark.on_both

NODES_OF_A_TREE = 12
WAITING = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
AND query LIKE %s AND clock_timestamp() - query_start > %s * interval '1 second'
"""
ASKING_FOR_WRITERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND state ^@ 'idle in transaction' AND position('array_agg(virtualtransaction)' IN query) > 0
"""
COPYING = "COPY (SELECT id, pairs, embedding%"
SEGMENT_TABLES = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname ^@ 'seg_' ORDER BY oid"
RETIRED = "SELECT jsonb_array_length(retired_segments) FROM ragstore.collection WHERE name = 'docs'"
INSERT = """
INSERT INTO ragstore.data_docs (text, metadata_, node_id, embedding, ordinal, user_metadata)
VALUES ('', '{}', %s, %s, 0, '{}')
"""


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    """A collection of 8 fresh nodes; of more than 12, a segment is a tree."""
    with open_parts(settings) as parts, trees_above(NODES_OF_A_TREE * DIM):
        publish(parts, "a", 8)
        yield parts


def publish(parts: Parts, name: str, n_nodes: int) -> None:
    parts.publisher.publish(parts.collection, [a_revision(name, "\n\n".join(f"{name} {i}" for i in range(n_nodes)))])


@contextmanager
def a_writer(settings: Settings, *, node_id: str | None = None, is_held: bool = True) -> Iterator[Any]:
    """A transaction that holds the collection as all writers do, and may have drawn an id; not committed."""
    connection = psycopg2.connect(postgres_url(settings))
    try:
        with connection.cursor() as cursor:
            if is_held:
                cursor.execute(statements.HOLD_COLLECTION_BY_NAME, {"name": "docs"})
            if node_id:
                cursor.execute(INSERT, [node_id, "[1,0,0,0,0,0,0,0]"])
            yield connection
    finally:
        connection.close()


@contextmanager
def a_locked_table(settings: Settings, table: str = "data_docs") -> Iterator[None]:
    """A table that nobody can read: a build has to wait for it."""
    connection = psycopg2.connect(postgres_url(settings))
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE ragstore.{table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        connection.close()


def are_there(settings: Settings) -> list[bool]:
    """Of each segment that is noted, whether its table is there; there are no others."""
    assert execute(settings, OTHERS) == []
    return [is_there for _, is_there in execute(settings, SEGMENTS)]


def sizes(settings: Settings) -> list[int]:
    return [int(n) for n, _ in execute(settings, SIZES)]


def of_trees(settings: Settings) -> list[bool]:
    """Of each segment, whether it is a tree."""
    return [n_cells > 0 for _, n_cells in execute(settings, SIZES)]


def a_collection(pool: PostgresPool, name: str, dim: int) -> Collection:
    return create_collection(
        pool, name, space=EmbeddingSpace("external", dim), chunking=Chunking(32, 0), text_search_config="english"
    )


def now(parts: Parts) -> Parts:
    """With the segments as they are now."""
    return replace(parts, collection=get_collection(parts.pool, "docs"))


def found(parts: Parts, vector: list[float], k: int) -> list[str]:
    """Ids of the nodes that a search with the segments as ``parts`` knows them finds, sorted."""
    with parts.pool.autocommit() as connection:
        rows = vector_search(connection, parts.collection, np.array(vector, dtype=np.float32), Query(k)).rows
    return sorted(row.node_id for row in rows)


def assert_finds_all(settings: Settings, parts: Parts) -> None:
    """Wanting as many as there are, a search is complete without comparing all one by one."""
    expected = all_nodes(settings)
    assert found(parts, [1.0] * DIM, len(expected)) == expected


def all_nodes(settings: Settings) -> list[str]:
    return sorted(node_id for (node_id,) in execute(settings, "SELECT node_id FROM ragstore.data_docs"))


# Sealing


def test_few_nodes_get_no_segment(settings: Settings, parts: Parts) -> None:
    assert not seal(parts.pool, parts.collection, min_nodes=9)
    assert are_there(settings) == []
    assert seal(parts.pool, parts.collection, min_nodes=8) == 8
    assert are_there(settings) == [True]
    assert not seal(parts.pool, parts.collection)


def test_an_empty_collection_gets_no_segment(settings: Settings, parts: Parts) -> None:
    execute(settings, "DELETE FROM ragstore.data_docs")
    assert not seal(parts.pool, parts.collection, min_nodes=0)
    assert execute(settings, SEGMENT_TABLES) == []


def test_new_nodes_are_in_no_segment_and_are_found_at_once(settings: Settings, parts: Parts) -> None:
    assert seal(parts.pool, parts.collection)
    ((name, _),) = execute(settings, SEGMENTS)
    written = execute(settings, f"SELECT ctid::text, id, embedding::text FROM ragstore.{name}")
    parts = now(parts)
    publish(parts, "b", 200)
    assert execute(settings, f"SELECT ctid::text, id, embedding::text FROM ragstore.{name}") == written
    ((new, vector),) = execute(settings, "SELECT node_id, embedding::text FROM ragstore.data_docs WHERE text = 'b 0'")
    assert found(parts, [float(x) for x in vector.strip("[]").split(",")], k=1) == [new]
    assert_finds_all(settings, parts)


def test_a_segment_is_never_written_again_whatever_becomes_of_its_nodes(settings: Settings, parts: Parts) -> None:
    publish(parts, "b", 40)
    assert seal(parts.pool, parts.collection) == 48
    assert of_trees(settings) == [True]
    ((name, _),) = execute(settings, SEGMENTS)
    # The planner's statistics, and the rows themselves, with what wrote them.
    rows = f"SELECT ctid::text, xmin::text, xmax::text, id, cell, n FROM ragstore.{name} ORDER BY ctid"
    written = execute(settings, rows)
    parts.publisher.publish(parts.collection, [a_revision("a", "new", planned_from=1, action="updated")])
    execute(settings, "DELETE FROM ragstore.data_docs WHERE text = 'b 7'")
    publish(parts, "c", 30)
    seal(parts.pool, parts.collection)
    assert execute(settings, rows) == written
    assert_finds_all(settings, now(parts))


def test_small_segments_become_a_tree_when_they_are_more_than_a_search_reads_whole(
    settings: Settings, parts: Parts
) -> None:
    expected = [([8], [False]), ([8, 3], [False] * 2), ([14], [True]), ([14, 2], [True, False]), ([14, 15], [True] * 2)]
    for (of_size, of_form), n_nodes in zip(expected, (0, 3, 3, 2, 13), strict=True):
        if n_nodes:
            publish(parts, f"{of_size}", n_nodes)
        assert seal(parts.pool, parts.collection)
        assert (sizes(settings), of_trees(settings)) == (of_size, of_form)
        assert are_there(settings) == [True] * len(of_size)
        assert_finds_all(settings, now(parts))


def test_a_large_collection_is_sealed_in_parts_that_fit_into_memory(settings: Settings, parts: Parts) -> None:
    publish(parts, "b", 42)
    assert seal(parts.pool, parts.collection, at_once=20) == 50
    assert sizes(settings) == [20, 20, 10]
    assert_finds_all(settings, now(parts))


def test_no_node_is_passed_over_that_has_a_low_id_and_commits_late(
    settings: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "WAIT_FOR_WRITERS_S", 0.1)
    with a_writer(settings, node_id="late") as writer:
        publish(parts, "b", 30)
        # Drawn before those of b, and not to be seen yet.
        assert not seal(parts.pool, parts.collection)
        assert execute(settings, SEGMENTS) == []
        writer.commit()
    assert seal(parts.pool, parts.collection) == 39
    assert_finds_all(settings, now(parts))
    assert "late" in found(now(parts), [1.0] + [0.0] * 7, k=1)
    ((name, _),) = execute(settings, SEGMENTS)
    late = f"SELECT count(*) FROM ragstore.{name} WHERE n = 0 AND id = (SELECT id FROM ragstore.data_docs"
    assert execute(settings, f"{late} WHERE node_id = 'late')") == [(1,)]


def test_without_the_lock_that_writers_share_a_late_node_would_be_lost(settings: Settings, parts: Parts) -> None:
    with a_writer(settings, node_id="late", is_held=False) as writer:
        publish(parts, "b", 30)
        assert seal(parts.pool, parts.collection) == 38
        writer.commit()
    assert "late" in all_nodes(settings)
    assert "late" not in found(now(parts), [1.0] + [0.0] * 7, k=1)


def test_a_merge_gives_way_where_the_segments_were_taken_away_meanwhile(settings: Settings, parts: Parts) -> None:
    seal(parts.pool, parts.collection)
    publish(parts, "b", 9)
    with trees_above(1_000 * DIM):
        seal(parts.pool, parts.collection)
    tables = [name for name, _ in execute(settings, SEGMENTS)]
    with ThreadPoolExecutor(1) as threads:
        with a_locked_table(settings, tables[0]):
            merged = threads.submit(segments.merge_once, parts.pool, parts.collection, AT_REST)
            until(lambda: execute(settings, WAITING, [COPYING, 0]), what="the merge waits for the table")
            with parts.pool.transaction() as cursor:
                segments.forget_from(cursor, parts.collection, [1])
        assert merged.result(30) is None
    assert sizes(settings) == []
    assert execute(settings, OTHERS) == []
    assert_finds_all(settings, now(parts))
    seal(parts.pool, parts.collection)
    assert sizes(settings) == [17]


def test_writers_of_every_kind_hold_off_the_sealing_of_their_ids(settings: Settings, parts: Parts) -> None:
    locks = "SELECT DISTINCT mode FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s"
    of_writers = [statements.WRITER_SPACE, parts.collection.collection_id]
    for hold in (statements.HOLD_COLLECTION, statements.HOLD_COLLECTION_BY_NAME):
        with psycopg2.connect(postgres_url(settings)) as connection, connection.cursor() as cursor:
            own = {"collection_id": parts.collection.collection_id, "epoch": parts.collection.epoch}
            cursor.execute(hold, {"name": "docs"} | own)
            assert execute(settings, locks, of_writers) == [("ShareLock",)]
        connection.close()
    until(lambda: execute(settings, locks, of_writers) == [], what="PostgreSQL has noticed that they are gone")


def test_others_seal_nothing_while_it_is_sealed(
    settings: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "WAIT_FOR_WRITERS_S", 60.0)
    with ThreadPoolExecutor(1) as threads:
        with a_writer(settings):
            sealed = threads.submit(seal, parts.pool, parts.collection)
            until(lambda: execute(settings, ASKING_FOR_WRITERS), what="it waits for the writer")
            assert not seal(parts.pool, parts.collection)
            assert execute(settings, SEGMENTS) == []
        assert sealed.result(30) == 8
    parts.publisher.publish(parts.collection, [a_revision("b", a_text("b"))])
    assert are_there(settings) == [True]


def test_while_sealing_waits_for_a_writer_others_write_on(
    settings: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "WAIT_FOR_WRITERS_S", 60.0)
    with ThreadPoolExecutor(1) as threads:
        with a_writer(settings):
            sealed = threads.submit(seal, parts.pool, parts.collection)
            until(lambda: execute(settings, ASKING_FOR_WRITERS), what="it waits for the writer")
            publish(parts, "b", 5)
            assert len(all_nodes(settings)) == 13
        assert sealed.result(30) == 13
    assert sizes(settings) == [13]
    assert_finds_all(settings, now(parts))


# Merging


def test_who_does_not_know_of_a_merge_finds_the_same(settings: Settings, parts: Parts) -> None:
    stale = [parts.collection]
    for name, n_nodes in (("b", 4), ("c", 2), ("d", 30)):
        seal(parts.pool, parts.collection)
        stale.append(get_collection(parts.pool, "docs"))
        publish(parts, name, n_nodes)
    seal(parts.pool, parts.collection)
    merge_at_rest(parts.pool, parts.collection)
    assert sizes(settings) == [44]
    assert [len(collection.segments) for collection in stale] == [0, 1, 2, 1]
    for collection in stale:
        assert_finds_all(settings, replace(parts, collection=collection))


def test_tables_that_were_merged_are_dropped_when_nobody_can_know_them(settings: Settings, parts: Parts) -> None:
    seal(parts.pool, parts.collection)
    publish(parts, "b", 4)
    seal(parts.pool, parts.collection)
    publish(parts, "c", 30)
    seal(parts.pool, parts.collection)
    merge_at_rest(parts.pool, parts.collection)
    assert segments.drop_retired(parts.pool, parts.collection) == 0
    ((n_retired,),) = execute(settings, RETIRED)
    assert n_retired >= 2
    execute(settings, AGED)
    ((noted, _),) = execute(settings, SEGMENTS)
    other = next(name for (name,) in execute(settings, SEGMENT_TABLES) if name != noted)
    with a_locked_table(settings, other):
        # Somebody reads it for long: the next round drops it.
        assert segments.drop_retired(parts.pool, parts.collection) == 0
    assert segments.drop_retired(parts.pool, parts.collection) == n_retired
    assert execute(settings, SEGMENT_TABLES) == execute(settings, f"SELECT name FROM ({SEGMENTS}) AS noted (name, x)")
    assert execute(settings, RETIRED) == [(0,)]
    assert_finds_all(settings, now(parts))


def test_eight_trees_of_a_size_become_one_while_nodes_are_added(settings: Settings, parts: Parts) -> None:
    for n in range(8):
        publish(parts, f"{n}", 13)
        seal(parts.pool, parts.collection)
        if n < 7:
            assert segments.merge_once(parts.pool, parts.collection, ROOM) is None
    assert segments.merge_once(parts.pool, parts.collection, ROOM)
    assert sizes(settings) == [8 + 8 * 13]
    assert_finds_all(settings, now(parts))


def test_what_was_deleted_leaves_with_the_next_merge_and_a_segment_of_the_dead_is_made_again(
    settings: Settings, parts: Parts
) -> None:
    publish(parts, "b", 40)
    seal(parts.pool, parts.collection)
    assert sizes(settings) == [48]
    execute(settings, "DELETE FROM ragstore.data_docs WHERE id %% 10 = 0")
    assert not segments.wants_merge(parts.pool, parts.collection, AT_REST)
    execute(settings, "DELETE FROM ragstore.data_docs WHERE id %% 3 = 0")
    assert segments.wants_merge(parts.pool, parts.collection, AT_REST)
    assert not segments.wants_merge(parts.pool, parts.collection, ROOM)
    merge_at_rest(parts.pool, parts.collection)
    assert sizes(settings) == [len(all_nodes(settings))]
    assert_finds_all(settings, now(parts))
    execute(settings, "DELETE FROM ragstore.data_docs")
    merge_at_rest(parts.pool, parts.collection)
    assert found(now(parts), [1.0] * DIM, 5) == []
    assert not segments.wants_merge(parts.pool, parts.collection, AT_REST)


def test_no_two_merge_at_once_and_others_seal_and_write_meanwhile(settings: Settings, parts: Parts) -> None:
    seal(parts.pool, parts.collection)
    publish(parts, "b", 9)
    with trees_above(1_000 * DIM):
        seal(parts.pool, parts.collection)
    first = [name for name, _ in execute(settings, SEGMENTS)]
    with ThreadPoolExecutor(1) as threads:
        with a_locked_table(settings, first[0]):
            merged = threads.submit(segments.merge_once, parts.pool, parts.collection, AT_REST)
            until(lambda: execute(settings, WAITING, [COPYING, 0]), what="the merge waits for the table")
            assert segments.merge_once(parts.pool, parts.collection, AT_REST) is None
            publish(parts, "c", 5)
            with trees_above(1_000 * DIM):
                assert seal(parts.pool, parts.collection) == 5
        assert merged.result(30)
    assert sizes(settings) == [17, 5]
    assert are_there(settings) == [True, True]
    assert_finds_all(settings, now(parts))


def test_a_build_that_was_ended_leaves_nothing(settings: Settings, parts: Parts) -> None:
    seal(parts.pool, parts.collection)
    publish(parts, "b", 9)
    with trees_above(1_000 * DIM):
        seal(parts.pool, parts.collection)
    before = execute(settings, SEGMENT_TABLES), execute(settings, SIZES)
    first = execute(settings, SEGMENTS)[0][0]
    with ThreadPoolExecutor(1) as threads, a_locked_table(settings, first):
        merged = threads.submit(segments.merge_once, parts.pool, parts.collection, AT_REST)
        until(lambda: execute(settings, WAITING, [COPYING, 0]), what="the merge waits for the table")
        waiting = f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting"
        execute(settings, waiting, [COPYING, 0])
        with pytest.raises(StoreUnavailableError):
            merged.result(30)
    assert (execute(settings, SEGMENT_TABLES), execute(settings, SIZES)) == before
    assert segments.merge_once(parts.pool, parts.collection, AT_REST)
    assert sizes(settings) == [17]
    assert are_there(settings) == [True]


def test_a_time_limit_for_statements_does_not_end_a_build(settings: Settings, parts: Parts) -> None:
    seal(parts.pool, parts.collection)
    publish(parts, "b", 9)
    with trees_above(1_000 * DIM):
        seal(parts.pool, parts.collection)
    first = execute(settings, SEGMENTS)[0][0]
    pool = PostgresPool(postgres_url(settings), size=1, statement_timeout_s=0.3)
    with ThreadPoolExecutor(1) as threads:
        with a_locked_table(settings, first):
            merged = threads.submit(segments.merge_once, pool, parts.collection, AT_REST)
            until(
                lambda: merged.done() or execute(settings, WAITING, [COPYING, 0.5]),
                what="the merge outlives the limit",
            )
        assert merged.result(30)
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("300ms",)
    pool.close()


def test_readers_see_every_node_once_while_segments_are_sealed_and_merged(settings: Settings, parts: Parts) -> None:
    done: Counter[str] = Counter()
    pool = PostgresPool(postgres_url(settings), size=8)

    def is_enough() -> bool:
        return min(done["sealed"], done["merged"], done["reader 0"], done["reader 9"]) >= 5

    def write() -> None:
        for i in range(400):
            publish(parts, f"d{i}", 1 + i % 3)
            if is_enough():
                return

    def build() -> None:
        while not writing.done():
            done["sealed"] += bool(seal(pool, parts.collection))

    def merge() -> None:
        while not writing.done():
            done["merged"] += segments.merge_once(pool, parts.collection, AT_REST) is not None

    def read(seed: int) -> None:
        known, chance = parts.collection, np.random.default_rng(seed)
        connection = psycopg2.connect(postgres_url(settings), connection_factory=PreparingConnection)
        connection.set_session(isolation_level="REPEATABLE READ")
        while not writing.done():
            vector = chance.normal(size=DIM).astype(np.float32)
            with connection:
                rows = vector_search(connection, known, vector, Query(30)).rows
                exact = vector_search(connection, known, vector, Query(30, exact=True)).rows
            assert len({row.node_id for row in rows}) == len(rows)
            assert [row.score for row in rows] == pytest.approx([row.score for row in exact])
            done[f"reader {seed}"] += 1
            # Some go on with what they know, and the segments change under them.
            known = known if done[f"reader {seed}"] % (seed + 2) else get_collection(pool, "docs")
        connection.close()

    with ThreadPoolExecutor(5) as threads:
        writing = threads.submit(write)
        for working in [
            *map(threads.submit, (build, merge)),
            threads.submit(read, 0),
            threads.submit(read, 9),
            writing,
        ]:
            working.result(100)
    pool.close()
    assert is_enough()
    seal(parts.pool, parts.collection)
    assert all(are_there(settings))
    assert_finds_all(settings, now(parts))


# Vectors


@pytest.mark.parametrize("dim", [1, 2, 1_000, 1_001, 4_000])
def test_vectors_of_every_length_are_in_segments_at_half_precision(dim: int, settings: Settings, parts: Parts) -> None:
    collection = a_collection(parts.pool, "long", dim)
    vectors = np.random.default_rng(1).standard_normal((30, dim)).astype(np.float32)
    vectors[7] = 0
    revision = a_revision("a", "\n\n".join(f"paragraph {n}" for n in range(30)))
    parts.publisher.publish(collection, [replace(revision, vectors=vectors)])
    for components in (10**9, 12 * dim):
        with trees_above(components):
            seal(parts.pool, collection)
            execute(settings, "UPDATE ragstore.collection SET segments = jsonb_set(segments, '{0,3}', '90')")
            segments.merge_once(parts.pool, collection, AT_REST)
        known = get_collection(parts.pool, "long")
        assert [segment.n_nodes for segment in known.segments] == [30]
        for position in (0, 7, 29):
            with parts.pool.autocommit() as connection:
                rows = vector_search(connection, known, vectors[position], Query(30)).rows
            assert len({row.node_id for row in rows}) == 30
            if position != 7 and dim > 1:
                assert rows[0].score == pytest.approx(1.0, abs=1e-5)
    types = "SELECT DISTINCT format_type(atttypid, atttypmod), attstorage::text FROM pg_attribute"
    of_segments = "JOIN pg_class c ON c.oid = attrelid WHERE relkind = 'r' AND relname ^@ 'seg_'"
    assert execute(settings, f"{types} {of_segments} AND attname = 'embedding'") == [(f"halfvec({dim})", "p")]


def test_vectors_too_long_for_a_segment_are_searched_without_one(settings: Settings, parts: Parts) -> None:
    collection = a_collection(parts.pool, "longest", 4_001)
    vectors = np.random.default_rng(1).standard_normal((3, 4_001)).astype(np.float32)
    parts.publisher.publish(collection, [replace(a_revision("a", "1\n\n2\n\n3"), vectors=vectors)])
    assert not seal(parts.pool, collection)
    assert execute(settings, SEGMENT_TABLES) == []
    with parts.pool.autocommit() as connection:
        rows = vector_search(connection, get_collection(parts.pool, "longest"), vectors[1], Query(3)).rows
    assert rows[0].score == pytest.approx(1.0) and len(rows) == 3
