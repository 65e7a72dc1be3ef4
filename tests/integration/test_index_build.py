"""Building the vector index while others read and write, and after builds that ended badly."""

from __future__ import annotations

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
from ragstore.postgres.vectors import ensure_index
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.corpus import a_text
from tests.support.parts import Parts, a_revision, execute, open_parts, postgres_url

pytestmark = pytest.mark.on_both

INDEX = """
SELECT c.index_state, i.indisvalid FROM ragstore.collection c LEFT JOIN pg_class r
    ON r.relname = 'data_' || c.name || '_embedding_idx' LEFT JOIN pg_index i ON i.indexrelid = r.oid WHERE c.name = %s
"""
BUILDING = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%%'
AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > %s * interval '1 second'
"""


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    with open_parts(settings) as parts:
        parts.publisher.publish(parts.collection, [a_revision("a", a_text("a"))])
        yield parts


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


def state(settings: Settings, name: str = "docs") -> tuple[Any, ...]:
    return execute(settings, INDEX, [name])[0]


def a_collection(pool: PostgresPool, name: str, dim: int) -> Collection:
    return create_collection(
        pool, name, space=EmbeddingSpace("external", dim), chunking=Chunking(32, 0), text_search_config="english"
    )


def test_a_small_collection_gets_no_index(settings: Settings, parts: Parts) -> None:
    n_nodes = len(parts.oracle.snapshot().rows)
    assert not ensure_index(parts.pool, parts.collection, min_nodes=n_nodes + 1)
    assert state(settings) == ("none", None)
    assert ensure_index(parts.pool, parts.collection, min_nodes=n_nodes)
    assert state(settings) == ("ready", True)


def test_others_write_and_build_no_second_index_while_it_is_built(settings: Settings, parts: Parts) -> None:
    with ThreadPoolExecutor(1) as threads, a_long_writer(settings):
        built = threads.submit(ensure_index, parts.pool, parts.collection, min_nodes=1)
        until(lambda: execute(settings, BUILDING, [0]), what="the build waits for the writer")
        assert not ensure_index(parts.pool, parts.collection, min_nodes=1)
        parts.publisher.publish(parts.collection, [a_revision("b", a_text("b"))])
        assert state(settings)[0] == "building"
    assert built.result(30)
    assert state(settings) == ("ready", True)


def test_a_build_that_was_ended_leaves_nothing_that_the_next_one_trusts(settings: Settings, parts: Parts) -> None:
    with ThreadPoolExecutor(1) as threads, a_long_writer(settings):
        built = threads.submit(ensure_index, parts.pool, parts.collection, min_nodes=1)
        until(lambda: execute(settings, BUILDING, [0]), what="the build waits for the writer")
        execute(settings, f"SELECT pg_terminate_backend(pid) FROM ({BUILDING}) AS building", [0])
        with pytest.raises(StoreUnavailableError):
            built.result(30)
    assert state(settings) == ("building", False)
    assert ensure_index(parts.pool, get_collection(parts.pool, "docs"), min_nodes=1)
    assert state(settings) == ("ready", True)


def test_a_time_limit_for_statements_does_not_end_a_build(settings: Settings, parts: Parts) -> None:
    pool = PostgresPool(postgres_url(settings), size=1, statement_timeout_s=0.3)
    with ThreadPoolExecutor(1) as threads:
        with a_long_writer(settings):
            built = threads.submit(ensure_index, pool, parts.collection, min_nodes=1)
            until(lambda: built.done() or execute(settings, BUILDING, [0.5]), what="the build outlives the limit")
        assert built.result(30)
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("300ms",)
    pool.close()


@pytest.mark.parametrize(
    ("dim", "definition"),
    [(2000, "hnsw (embedding vector_cosine_ops)"), (2001, "hnsw (((embedding)::halfvec(2001)) halfvec_cosine_ops)")],
)
def test_long_vectors_are_indexed_at_half_precision(
    dim: int, definition: str, settings: Settings, parts: Parts
) -> None:
    collection = a_collection(parts.pool, "long", dim)
    vectors = np.ones((1, dim), dtype=np.float32)
    revision = a_revision("a", "only one paragraph")
    parts.publisher.publish(collection, [replace(revision, vectors=vectors)])
    assert ensure_index(parts.pool, collection, min_nodes=1)
    found = execute(settings, "SELECT indexdef FROM pg_indexes WHERE indexname = 'data_long_embedding_idx'")
    assert definition in found[0][0]


def test_vectors_too_long_for_an_index_are_searched_without_one(settings: Settings, parts: Parts) -> None:
    collection = a_collection(parts.pool, "longest", 4001)
    assert not ensure_index(parts.pool, collection, min_nodes=0)
    assert state(settings, "longest") == ("none", None)
