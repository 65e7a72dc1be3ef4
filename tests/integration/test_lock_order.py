"""What changes a table while an index of it is being built: nobody waits for each other in a circle, and nobody is ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import psycopg2
import pytest

from ragstore.errors import Retry, StoreBusyError
from ragstore.model.run import Run, new_run_id
from ragstore.postgres import filter_keys, rebuild, vectors
from ragstore.postgres.drop import dropping, finish
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.parts import Parts, a_revision, execute, open_parts, postgres_url

pytestmark = pytest.mark.on_both

WAITING_BUILD = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ~ 'INDEX CONCURRENTLY'
AND wait_event_type = 'Lock'
"""
INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
TEXT_INDEX = "data_docs_text_idx"
N_TEXT_INDEXES = f"SELECT count(*) FROM pg_indexes WHERE indexname = '{TEXT_INDEX}'"


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    with open_parts(settings) as parts:
        text = "\n\n".join(f"a {i}" for i in range(8))
        parts.publisher.publish(parts.collection, [a_revision("a", text)])
        yield parts


@contextmanager
def a_build_that_waits(
    settings: Settings, building: Callable[[PostgresPool], object]
) -> Iterator[Callable[[], Future[object]]]:
    """An index build, behind the transaction of a writer; calling what is given ends that and lets the build go on."""
    writer = psycopg2.connect(postgres_url(settings))
    pool = PostgresPool(postgres_url(settings), size=2)
    with ThreadPoolExecutor(1) as thread:
        try:
            with writer.cursor() as cursor:
                cursor.execute("UPDATE ragstore.data_docs SET ordinal = ordinal")
            build = thread.submit(building, pool)
            until(lambda: execute(settings, WAITING_BUILD), what="the build waits")

            def let_go() -> Future[object]:
                writer.rollback()
                return build

            yield let_go
        finally:
            writer.close()
            build.result(timeout=60)
            pool.close()


def of_filter_keys(parts: Parts) -> Callable[[PostgresPool], object]:
    """Builds the indexes of a key that was just declared."""
    declared = filter_keys.declare(parts.pool, parts.collection, ["built"])
    return partial(filter_keys.build_missing, collection=declared)


def test_a_repair_of_a_table_that_lacks_nothing_does_not_wait_for_a_build(parts: Parts, settings: Settings) -> None:
    building = partial(rebuild.reindex, collection=parts.collection, index=TEXT_INDEX)
    with ThreadPoolExecutor(1) as thread, a_build_that_waits(settings, building) as let_go:
        thread.submit(rebuild.ensure_table, parts.pool, parts.collection).result(timeout=20)
        let_go().result(timeout=60)
    assert execute(settings, INVALID) == []


@pytest.mark.parametrize("step", ["table", "reindex", "statistics", "keys"])
def test_what_needs_the_table_follows_the_build_and_ends_it_not(parts: Parts, settings: Settings, step: str) -> None:
    if step == "table":
        execute(settings, f"DROP INDEX ragstore.{TEXT_INDEX}")
    elif step == "keys":
        parts = replace(parts, collection=filter_keys.declare(parts.pool, parts.collection, ["year"]))
    with ThreadPoolExecutor(1) as thread, a_build_that_waits(settings, of_filter_keys(parts)) as let_go:
        done = thread.submit(STEPS[step], parts)
        if step in {"statistics", "keys"}:  # these leave it to the next look
            done.result(timeout=20)
        assert let_go().result(timeout=60)
        done.result(timeout=60)
    assert execute(settings, INVALID) == []
    assert execute(settings, N_TEXT_INDEXES) == [(1,)]


STEPS: dict[str, Callable[[Parts], object]] = {
    "table": lambda parts: rebuild.ensure_table(parts.pool, parts.collection),
    "reindex": lambda parts: rebuild.reindex(parts.pool, parts.collection, TEXT_INDEX),
    "statistics": lambda parts: vectors.refresh_statistics(parts.pool, parts.collection),
    "keys": lambda parts: filter_keys.build_missing(parts.pool, parts.collection),
}


def test_a_drop_ends_no_build(parts: Parts, settings: Settings) -> None:
    def drop() -> None:
        with dropping(parts.pool, parts.collection, Run(new_run_id(), "w", [])) as begun:
            finish(begun)

    with ThreadPoolExecutor(1) as thread, a_build_that_waits(settings, of_filter_keys(parts)) as let_go:
        with pytest.raises(StoreBusyError):
            thread.submit(drop).result(timeout=20)
        assert let_go().result(timeout=60)
    assert execute(settings, INVALID) == []


def test_a_deadlock_says_that_another_was_in_the_way_and_that_it_passes(parts: Parts, settings: Settings) -> None:
    first = "UPDATE ragstore.document SET size = 1 WHERE document_id = 'a'"
    second = "UPDATE ragstore.collection SET chunk_size = chunk_size WHERE name = 'docs'"
    other = psycopg2.connect(postgres_url(settings))
    try:
        with ThreadPoolExecutor(1) as thread, other.cursor() as cursor:
            cursor.execute(first)
            with pytest.raises(StoreBusyError) as raised, parts.pool.transaction() as ours:
                ours.execute("SET LOCAL deadlock_timeout = '10ms'")
                ours.execute(second)
                waiting = thread.submit(cursor.execute, second)
                until(lambda: execute(settings, "SELECT 1 FROM pg_locks WHERE NOT granted"), what="the other waits")
                ours.execute(first)
            waiting.result(timeout=30)
    finally:
        other.close()
    assert (raised.value.code, raised.value.retry) == ("store.busy", Retry.LATER)
    assert raised.value.facts["sqlstate"] == "40P01"
    assert "in the way" in raised.value.message
    assert "unavailable" not in raised.value.message
