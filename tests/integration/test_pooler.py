"""Everything through a transaction pooler: PgBouncer as it comes, in transaction mode, which lends sessions by turns."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
from pymongo.database import Database

import ragstore
from ragstore.app.migrations import apply_postgres
from ragstore.errors import RefusedError, StoreSetupError, StoreUnavailableError
from ragstore.migrate import versions
from ragstore.migrate.versions import steps
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.turn import Turn, exclusive
from ragstore.settings import Settings
from tests.support import children
from tests.support.children import until
from tests.support.corpus import a_text, write_documents
from tests.support.oracle import Oracle
from tests.support.parts import execute, postgres_url
from tests.support.pooler import Pooler, a_pooler
from tests.support.workers import HERE, living

KEY = (0x5445_5354, 1)  # "TEST"
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"

HOLDER = """
SELECT a.xact_start, a.state_change FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def pooler(settings: Settings) -> Iterator[Pooler]:
    with a_pooler(postgres_url(settings), default_pool_size=4) as found:
        yield found


@pytest.fixture
def pooled(settings: Settings, pooler: Pooler) -> Settings:
    return Settings(**{**_values(settings), "postgres_url": pooler.url})


@pytest.fixture
def pool(pooler: Pooler) -> Iterator[PostgresPool]:
    opened = PostgresPool(pooler.url, size=2, connect_timeout_s=2)
    yield opened
    opened.close()


def _values(settings: Settings) -> dict[str, Any]:
    assert settings.mongo_url is not None
    return {
        "mongo_url": settings.mongo_url.get_secret_value(),
        "mongo_database": settings.mongo_database,
        "grace_s": 0,
        "lease_ttl_s": 5,
        "env": "test",
    }


def shown(cursor: Any, name: str) -> str:
    cursor.execute(f"SHOW {name}")
    return str(cursor.fetchone()[0])


def test_a_pooler_is_noticed_and_a_plain_way_is_not_taken_for_one(settings: Settings, pool: PostgresPool) -> None:
    with pool.autocommit() as connection:
        assert connection.is_pooled
    direct = PostgresPool(postgres_url(settings))
    with direct.autocommit() as connection:
        assert not connection.is_pooled
    direct.close()


def test_documents_are_ingested_found_changed_verified_repaired_and_dropped(
    pooled: Settings, settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    state = dict(write_documents(folder, {f"{i}.txt": a_text(i) for i in range(12)}))
    with ragstore.open(pooled) as rs:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0, filter_keys=["year"])
        assert rs.ingest(str(folder), collection="docs").added == 12
        for question in [a_text(i).split(".")[0] for i in range(12)] * 3:
            assert rs.query(question, collection="docs", top_k=3)
            assert rs.query(question, collection="docs", top_k=3, mode="vector")
        (folder / "3.txt").unlink()
        del state[str(folder / "3.txt")]
        rs.sync(str(folder), collection="docs")
        assert rs.verify(deep=True).ok
        rs.repair()
        rs.upkeep().go_round()
        assert not Oracle(postgres_url(settings), mongo_database).settled_violations(state)
        rs.drop_collection("docs")


def test_a_vector_index_is_built_and_used(pooled: Settings, settings: Settings) -> None:
    with ragstore.open(pooled.model_copy(update={"index_min_nodes": 100})) as rs:
        rs.create_collection("docs", model="external", dim=8)
        from llama_index.core.schema import TextNode

        chance = np.random.default_rng(1)
        nodes = [TextNode(text=f"node {i}", embedding=chance.normal(size=8).tolist()) for i in range(300)]
        rs.storage_context("docs").vector_store.add(nodes)
        rs.upkeep().go_round()
        assert rs.query("", collection="docs", embedding=nodes[7].embedding, mode="vector")[0].text == "node 7"
    sealed = "SELECT sum((segment->>3)::int) FROM ragstore.collection, jsonb_array_elements(segments) AS segment"
    assert execute(settings, sealed) == [(300,)]


def test_limits_hold_in_each_transaction_and_leave_nothing_with_the_session(pooler: Pooler) -> None:
    with closing(psycopg2.connect(pooler.url)) as before, before.cursor() as cursor:
        own = [shown(cursor, limit) for limit in ("statement_timeout", "idle_in_transaction_session_timeout")]
    pool = PostgresPool(pooler.url, size=2, idle_in_transaction_s=7, statement_timeout_s=3)
    with closing(psycopg2.connect(pooler.url)) as other:
        other.autocommit = True
        for _ in range(5):
            with pool.transaction() as cursor:
                assert shown(cursor, "idle_in_transaction_session_timeout") == "7s"
                assert shown(cursor, "statement_timeout") == "3s"
            with pool.autocommit() as connection, connection.cursor() as cursor:
                assert shown(cursor, "statement_timeout") == "3s"
            with other.cursor() as cursor:
                assert shown(cursor, "statement_timeout") == own[0] != "3s"
                assert shown(cursor, "idle_in_transaction_session_timeout") == own[1] != "7s"
    pool.close()


def test_another_clients_session_settings_do_no_harm(pooler: Pooler) -> None:
    pool = PostgresPool(pooler.url, size=1)
    with closing(psycopg2.connect(pooler.url)) as other:
        other.autocommit = True
        with other.cursor() as cursor:
            cursor.execute("SET array_nulls = off; SET search_path = pg_catalog; SET transform_null_equals = on")
    for _ in range(8):
        with pool.transaction() as cursor:
            cursor.execute("SELECT ('{NULL}'::text[])[1] IS NULL, '[1]'::vector IS NOT NULL, (1 = NULL) IS NULL")
            assert cursor.fetchone() == (True, True, True)
        with pool.autocommit() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT ('{NULL}'::text[])[1] IS NULL, '[1]'::vector IS NOT NULL, (1 = NULL) IS NULL")
            assert cursor.fetchone() == (True, True, True)
    pool.close()


def test_a_lock_is_one_process_s_at_a_time(pool: PostgresPool, settings: Settings) -> None:
    with exclusive(pool, KEY) as mine:
        assert mine
        with exclusive(pool, KEY) as again:
            assert not again
        with exclusive(pool, (KEY[0], 2)) as other:
            assert other
    with exclusive(pool, KEY) as after:
        assert after
    until(lambda: execute(settings, LOCKS) == [(0,)], what="no lock is left in the database")


def is_renewed(settings: Settings, since: Any) -> bool:
    return bool(execute(settings, HOLDER)[0][1] > since)


def test_a_lock_stays_one_transaction_s_while_it_is_renewed(
    pool: PostgresPool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragstore.postgres.turn._RENEW_EVERY_S", 0.02)
    with exclusive(pool, KEY) as mine:
        assert mine
        [(began, renewed)] = execute(settings, HOLDER)
        for _ in range(3):
            until(partial(is_renewed, settings, renewed), what="the lock is renewed")
            [(still, renewed)] = execute(settings, HOLDER)
            assert still == began


def test_a_turn_stays_one_transaction_s_while_it_is_asked_for(pool: PostgresPool, settings: Settings) -> None:
    mine = Turn(pool, collection="docs", paths=["/a"])
    try:
        assert mine.mine()
        [(began, _)] = execute(settings, HOLDER)
        assert mine.mine()
        assert [held for held, _ in execute(settings, HOLDER)] == [began]
    finally:
        mine.close()


def test_a_migration_with_nothing_to_do_leaves_no_lock_behind(pooler: Pooler, settings: Settings) -> None:
    for _ in range(3):
        assert apply_postgres(pooler.url, wait_s=1) == []
        until(lambda: execute(settings, LOCKS) == [(0,)], what="no lock is left in the database")
    # The other sessions of the pool are in use, whichever had served the migration.
    busy = [psycopg2.connect(pooler.url) for _ in range(2)]
    for connection in busy:
        connection.cursor().execute("SELECT 1")
    assert apply_postgres(pooler.url, wait_s=1) == []
    for connection in busy:
        connection.close()


def test_a_fresh_database_is_migrated_through_a_pooler(pooler: Pooler, settings: Settings) -> None:
    execute(settings, "DROP SCHEMA ragstore CASCADE")
    assert len(apply_postgres(pooler.url)) == len(steps("postgres"))
    assert apply_postgres(pooler.url) == []


def test_a_step_without_a_transaction_is_run_through_a_pooler(
    pooler: Pooler, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(versions.folder(), tmp_path / "migrations")
    monkeypatch.setattr(versions, "folder", lambda: copy)
    (copy / "postgres" / "9999_post_index_event.sql").write_text(
        "-- Why: a test\n-- transaction: none\nCREATE INDEX CONCURRENTLY event_at_idx ON ragstore.event (at);\n"
    )
    assert [step.version for step in apply_postgres(pooler.url)] == ["9999"]
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ragstore.event_at_idx'::regclass"
    assert execute(settings, valid) == [(True,)]


def test_of_two_turns_one_has_it(pooler: Pooler) -> None:
    turns = [Turn(PostgresPool(pooler.url), collection="docs", paths=["/a"]) for _ in range(2)]
    try:
        for _ in range(5):
            assert [turn.mine() for turn in turns] == [True, False]
        turns[0].close()
        until(turns[1].mine, what="the other has the turn")
    finally:
        for turn in turns:
            turn.close()


def test_the_turn_of_a_killed_worker_is_free_at_once(
    pooled: Settings, settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    state = dict(write_documents(folder, {"a.txt": a_text("a")}))
    with ragstore.open(pooled) as rs:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
    oracle = Oracle(postgres_url(settings), mongo_database)
    arguments = ["worker", folder, "-c", "docs", "--every", 600, "--metrics", HERE]
    env = children.environment(pooled)
    with living(*arguments, env=env, folder=tmp_path) as first, living(*arguments, env=env, folder=tmp_path) as second:
        until(lambda: first.turns() + second.turns() != [], what="one is at work")
        until(lambda: sorted(first.turns() + second.turns()) == ["at work", "standing by"], what="the other stands by")
        for worker in (first, second):
            assert worker.ended(signal.SIGKILL) == -signal.SIGKILL
    state |= write_documents(folder, {"b.txt": a_text("b")})
    with living(*arguments, env=env, folder=tmp_path) as third:
        until(lambda: not oracle.settled_violations(state), what="the third has done the work", timeout_s=20)
        assert third.turns()[-1] == "at work"


def test_two_repairs_keep_out_of_each_other_s_way(pooled: Settings, pool: PostgresPool) -> None:
    from ragstore.postgres.rebuild import exclusive_repair

    with ragstore.open(pooled) as rs:
        with exclusive_repair(pool), pytest.raises(RefusedError, match="another repair"):
            rs.repair()
        rs.repair()


def test_many_threads_ask_while_nodes_are_added(pooled: Settings) -> None:
    with ragstore.open(pooled) as rs:
        rs.create_collection("docs", model="external", dim=4)
        from llama_index.core.schema import TextNode

        store = rs.storage_context("docs").vector_store
        store.add([TextNode(text="first", embedding=[1.0, 0.0, 0.0, 0.0])])

        def ask(_: int) -> str:
            return rs.query("first", collection="docs", embedding=[1.0, 0.0, 0.0, 0.0], top_k=1)[0].text

        with ThreadPoolExecutor(6) as threads:
            answers = [threads.submit(ask, i) for i in range(60)]
            for i in range(20):
                store.add([TextNode(text=f"other {i}", embedding=[0.0, 1.0, float(i), 0.0])])
            assert {answer.result() for answer in answers} == {"first"}


def test_options_in_the_url_that_a_pooler_refuses_are_a_matter_of_setup(pooler: Pooler) -> None:
    pool = PostgresPool(f"{pooler.url}?options=-c%20lock_timeout%3D1234")
    with pytest.raises(StoreSetupError, match="unsupported startup parameter") as raised, pool.autocommit():
        pass
    assert "ignore_startup_parameters" in raised.value.hint
    pool.close()


def test_a_pooler_with_all_its_clients_says_whom_to_ask(settings: Settings) -> None:
    with a_pooler(postgres_url(settings), max_client_conn=2) as full:
        taken = [psycopg2.connect(full.url) for _ in range(2)]
        pool = PostgresPool(full.url, connect_timeout_s=1)
        with pytest.raises(StoreUnavailableError) as raised, pool.autocommit():
            pass
        assert "max_client_conn" in raised.value.hint and "RAGSTORE_POOL_SIZE" in raised.value.hint
        for connection in taken:
            connection.close()
        with pool.autocommit():
            pass
        pool.close()


def test_strings_whose_backslashes_a_pooler_would_misread_are_refused(settings: Settings) -> None:
    execute(settings, f'ALTER DATABASE "{_name(settings)}" SET standard_conforming_strings = off')
    for options in ({}, {"ignore_startup_parameters": "options"}):
        with a_pooler(postgres_url(settings), **options) as pooler:
            pool = PostgresPool(pooler.url)
            with pytest.raises(StoreSetupError, match="standard_conforming_strings is off") as raised:
                with pool.autocommit():
                    pass
            assert "ALTER DATABASE" in raised.value.hint
            pool.close()


def _name(settings: Settings) -> str:
    return postgres_url(settings).rpartition("/")[2]
