"""Building segments' indexes while others read and write, and after builds that ended badly."""

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
from ragstore.postgres.collections import create_collection, get_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.search import Query, vector_search
from ragstore.postgres.segments import index_fresh
from ragstore.protocol.indexing import Indexer
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.corpus import a_text
from tests.support.parts import DIM, Parts, a_revision, execute, open_parts, postgres_url
from tests.support.segments import OTHERS, SEGMENTS

pytestmark = pytest.mark.on_both

BUILDING = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%%'
AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > %s * interval '1 second'
"""
N_NODES = "SELECT segment->>2 FROM ragstore.collection, jsonb_array_elements(segments) AS segment"


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    with open_parts(settings) as parts:
        publish(parts, "a", 8)
        yield parts


def publish(parts: Parts, name: str, n_nodes: int) -> None:
    parts.publisher.publish(parts.collection, [a_revision(name, "\n\n".join(f"{name} {i}" for i in range(n_nodes)))])


@contextmanager
def a_long_writer(settings: Settings) -> Iterator[None]:
    """A transaction that a concurrent build has to wait for."""
    connection = psycopg2.connect(postgres_url(settings))
    try:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE ragstore.data_docs SET ordinal = ordinal")
            yield
    finally:
        connection.close()


def validity(settings: Settings) -> list[bool | None]:
    """Of each segment that is noted, its index's; there are no others."""
    assert execute(settings, OTHERS) == []
    return [valid for _, valid in execute(settings, SEGMENTS)]


def sizes(settings: Settings) -> list[int]:
    return [int(n) for (n,) in execute(settings, N_NODES)]


def a_collection(pool: PostgresPool, name: str, dim: int) -> Collection:
    return create_collection(
        pool, name, space=EmbeddingSpace("external", dim), chunking=Chunking(32, 0), text_search_config="english"
    )


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


def test_few_nodes_get_no_index(settings: Settings, parts: Parts) -> None:
    assert not index_fresh(parts.pool, parts.collection, min_nodes=9)
    assert validity(settings) == []
    assert index_fresh(parts.pool, parts.collection, min_nodes=8)
    assert validity(settings) == [True]
    assert not index_fresh(parts.pool, parts.collection, min_nodes=1)


def test_an_empty_collection_gets_no_index(settings: Settings, parts: Parts) -> None:
    execute(settings, "DELETE FROM ragstore.data_docs")
    assert not index_fresh(parts.pool, parts.collection, min_nodes=0)


def test_new_nodes_are_in_no_index_and_are_found_at_once(settings: Settings, parts: Parts) -> None:
    assert index_fresh(parts.pool, parts.collection, min_nodes=1)
    ((name, _),) = execute(settings, SEGMENTS)
    indexed = execute(settings, f"SELECT pg_relation_size('ragstore.{name}')")
    parts = replace(parts, collection=get_collection(parts.pool, "docs"))
    publish(parts, "b", 200)
    assert execute(settings, f"SELECT pg_relation_size('ragstore.{name}')") == indexed
    ((new, vector),) = execute(settings, "SELECT node_id, embedding::text FROM ragstore.data_docs WHERE text = 'b 0'")
    assert found(parts, [float(x) for x in vector.strip("[]").split(",")], k=1) == [new]
    assert_finds_all(settings, parts)


def test_small_segments_go_into_the_next_and_large_ones_stay(settings: Settings, parts: Parts) -> None:
    for n_nodes, expected in ((8, [16]), (4, [16, 4]), (2, [16, 4, 2]), (3, [16, 9]), (9, [34])):
        index_fresh(parts.pool, parts.collection, min_nodes=1)
        publish(parts, f"{n_nodes}", n_nodes)
        assert index_fresh(parts.pool, parts.collection, min_nodes=1)
        assert sizes(settings) == expected
        assert validity(settings) == [True] * len(expected)
        assert_finds_all(settings, replace(parts, collection=get_collection(parts.pool, "docs")))


def test_a_large_collection_waits_for_more_fresh_nodes(settings: Settings, parts: Parts) -> None:
    index_fresh(parts.pool, parts.collection, min_nodes=1)
    execute(settings, "UPDATE ragstore.collection SET segments = jsonb_set(segments, '{0,2}', '1000')")
    publish(parts, "b", 9)
    assert not index_fresh(parts.pool, parts.collection, min_nodes=1)
    publish(parts, "c", 1)
    assert index_fresh(parts.pool, parts.collection, min_nodes=1)


def test_who_does_not_know_of_a_merge_finds_the_same(settings: Settings, parts: Parts) -> None:
    stale = [parts.collection]
    for name, n_nodes in (("b", 4), ("c", 2), ("d", 30)):
        index_fresh(parts.pool, parts.collection, min_nodes=1)
        stale.append(get_collection(parts.pool, "docs"))
        publish(parts, name, n_nodes)
    index_fresh(parts.pool, parts.collection, min_nodes=1)
    assert sizes(settings) == [44]
    assert [len(collection.segments) for collection in stale] == [0, 1, 2, 3]
    for collection in stale:
        assert_finds_all(settings, replace(parts, collection=collection))


def test_others_write_and_build_no_second_index_while_it_is_built(settings: Settings, parts: Parts) -> None:
    with ThreadPoolExecutor(1) as threads, a_long_writer(settings):
        built = threads.submit(index_fresh, parts.pool, parts.collection, min_nodes=1)
        until(lambda: execute(settings, BUILDING, [0]), what="the build waits for the writer")
        assert not index_fresh(parts.pool, parts.collection, min_nodes=1)
        parts.publisher.publish(parts.collection, [a_revision("b", a_text("b"))])
        assert execute(settings, SEGMENTS) == []
    assert built.result(30)
    assert validity(settings) == [True]


def test_a_build_that_was_ended_leaves_nothing_that_the_next_one_trusts(settings: Settings, parts: Parts) -> None:
    with ThreadPoolExecutor(1) as threads, a_long_writer(settings):
        built = threads.submit(index_fresh, parts.pool, parts.collection, min_nodes=1)
        until(lambda: execute(settings, BUILDING, [0]), what="the build waits for the writer")
        execute(settings, f"SELECT pg_terminate_backend(pid) FROM ({BUILDING}) AS building", [0])
        with pytest.raises(StoreUnavailableError):
            built.result(30)
    assert execute(settings, SEGMENTS) == []
    assert [valid for _, valid in execute(settings, OTHERS)] == [False]
    assert index_fresh(parts.pool, parts.collection, min_nodes=1)
    assert validity(settings) == [True]


def test_an_index_that_was_built_and_not_noted_is_taken_over(settings: Settings, parts: Parts) -> None:
    publish(parts, "b", 4)
    index_fresh(parts.pool, parts.collection, min_nodes=1)
    ((index, _),) = execute(settings, SEGMENTS)
    execute(settings, "UPDATE ragstore.collection SET segments = '[]'")
    assert index_fresh(parts.pool, parts.collection, min_nodes=1_000)
    assert execute(settings, SEGMENTS) == [(index, True)]
    assert sizes(settings) == [12]
    assert execute(settings, OTHERS) == []


def test_a_time_limit_for_statements_does_not_end_a_build(settings: Settings, parts: Parts) -> None:
    pool = PostgresPool(postgres_url(settings), size=1, statement_timeout_s=0.3)
    with ThreadPoolExecutor(1) as threads:
        with a_long_writer(settings):
            built = threads.submit(index_fresh, pool, parts.collection, min_nodes=1)
            until(lambda: built.done() or execute(settings, BUILDING, [0.5]), what="the build outlives the limit")
        assert built.result(30)
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("300ms",)
    pool.close()


def test_nobody_waits_for_a_build_in_the_background(settings: Settings, parts: Parts) -> None:
    indexer = Indexer(parts.pool.another(size=1), min_nodes=4)
    with a_long_writer(settings):
        indexer.added(parts.collection, 4)
        until(lambda: execute(settings, BUILDING, [0]), what="the build waits for the writer")
        publish(parts, "b", 3)
        indexer.added(parts.collection, 3)
    indexer.close()
    assert validity(settings) == [True]
    # What others may have left before is looked for once, then only what was added counts.
    assert sizes(settings) == [8]


def test_readers_see_every_node_once_while_segments_are_built_and_merged(settings: Settings, parts: Parts) -> None:
    done: Counter[str] = Counter()
    pool = PostgresPool(postgres_url(settings), size=6)

    def is_enough() -> bool:
        return done["built"] >= 5 and done["reader 0"] >= 10 and done["reader 9"] >= 10

    def write() -> None:
        for i in range(400):
            publish(parts, f"d{i}", 1 + i % 3)
            if is_enough():
                return

    def build() -> None:
        while not writing.done():
            done["built"] += index_fresh(pool, parts.collection, min_nodes=1)

    def read(seed: int) -> None:
        known, chance = parts.collection, np.random.default_rng(seed)
        connection = psycopg2.connect(postgres_url(settings))
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

    with ThreadPoolExecutor(4) as threads:
        writing = threads.submit(write)
        for working in [threads.submit(build), threads.submit(read, 0), threads.submit(read, 9), writing]:
            working.result(100)
    pool.close()
    assert is_enough()
    index_fresh(parts.pool, parts.collection, min_nodes=1)
    assert all(validity(settings))


def test_who_waits_for_a_build_gets_its_error_whatever_it_is_and_the_next_is_done(
    settings: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bool:
        raise ZeroDivisionError

    indexer = Indexer(parts.pool.another(size=1), min_nodes=4)
    with monkeypatch.context() as patched:
        patched.setattr(indexer, "_build", fail)
        with pytest.raises(ZeroDivisionError):
            indexer.finish(parts.collection)
    assert indexer.finish(parts.collection)
    indexer.close()
    assert validity(settings) == [True]


@pytest.mark.parametrize(
    ("dim", "definition"),
    [
        (1000, "hnsw (embedding vector_cosine_ops)"),
        (1001, "hnsw (((l2_normalize(embedding))::halfvec(1001)) halfvec_cosine_ops)"),
        (4000, "hnsw (((l2_normalize(embedding))::halfvec(4000)) halfvec_cosine_ops)"),
    ],
)
def test_long_vectors_are_indexed_at_half_precision(
    dim: int, definition: str, settings: Settings, parts: Parts
) -> None:
    collection = a_collection(parts.pool, "long", dim)
    vectors = np.ones((1, dim), dtype=np.float32)
    revision = a_revision("a", "only one paragraph")
    parts.publisher.publish(collection, [replace(revision, vectors=vectors)])
    assert index_fresh(parts.pool, collection, min_nodes=1)
    found = execute(settings, "SELECT indexdef FROM pg_indexes WHERE indexname ^@ 'hnsw_'")
    assert definition in found[0][0]


def test_vectors_too_long_for_an_index_are_searched_without_one(parts: Parts) -> None:
    collection = a_collection(parts.pool, "longest", 4001)
    assert not index_fresh(parts.pool, collection, min_nodes=0)
