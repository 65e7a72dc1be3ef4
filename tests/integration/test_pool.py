"""The pool of connections against a real server that ends them, and against threads, forks and limits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest

from ragstore.errors import StoreError, StoreSetupError, StoreUnavailableError
from ragstore.postgres import silence
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.forwarder import a_forwarder
from tests.support.parts import execute, postgres_url

END_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'ragstore'"
)
N_OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ragstore'"


@pytest.fixture
def pool(settings: Settings) -> Iterator[PostgresPool]:
    pool = PostgresPool(postgres_url(settings), size=2, connect_timeout_s=1)
    yield pool
    pool.close()


def one(pool: PostgresPool) -> int:
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


def pid(pool: PostgresPool) -> int:
    with pool.transaction() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


def end_all(settings: Settings) -> None:
    execute(settings, END_ALL)
    until(lambda: execute(settings, N_OPEN) == [(0,)], what="the connections are gone")


def test_a_connection_is_used_again(pool: PostgresPool) -> None:
    assert pid(pool) == pid(pool)


def test_the_first_query_after_the_server_ended_all_connections_succeeds(
    settings: Settings, pool: PostgresPool
) -> None:
    for _ in range(5):
        assert one(pool) == 1
        end_all(settings)


def test_connections_that_break_in_use_take_no_place_away(settings: Settings, pool: PostgresPool) -> None:
    for _ in range(5):
        with pytest.raises(StoreUnavailableError), pool.transaction() as cursor:
            end_all(settings)
            cursor.execute("SELECT 1")
        with pytest.raises(StoreUnavailableError), pool.autocommit() as connection, connection.cursor() as other:
            end_all(settings)
            other.execute("SELECT 1")
    assert one(pool) == 1


def test_a_block_that_raises_is_rolled_back_and_leaves_a_clean_connection(pool: PostgresPool) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), pool.transaction() as cursor:
            cursor.execute("CREATE TABLE half_done (x int)")
            raise ZeroDivisionError
    with pool.transaction() as cursor:
        cursor.execute("SELECT to_regclass('half_done')")
        assert cursor.fetchone() == (None,)


def test_an_interrupt_in_a_transaction_whose_connection_breaks_stays_an_interrupt(
    settings: Settings, pool: PostgresPool
) -> None:
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), pool.transaction() as cursor:
            cursor.execute("SELECT 1")
            end_all(settings)
            raise KeyboardInterrupt
    assert one(pool) == 1


def test_a_statement_that_fails_leaves_a_usable_connection(pool: PostgresPool) -> None:
    for _ in range(5):
        with pytest.raises(StoreError), pool.autocommit() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
        with pytest.raises(StoreError), pool.transaction() as cursor:
            cursor.execute("SELECT no_such_column")
    assert one(pool) == 1


def test_no_more_connections_are_open_than_the_pool_may_have(settings: Settings, pool: PostgresPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(one, pool) for _ in range(100)]
        assert sum(result.result() for result in results) == 100
    assert execute(settings, N_OPEN)[0][0] <= 2


def test_a_pool_in_use_throughout_says_so_in_time(pool: PostgresPool) -> None:
    with pool.autocommit(), pool.autocommit():
        with pytest.raises(StoreUnavailableError) as raised, pool.autocommit():
            pass
    assert "RAGSTORE_POOL_SIZE" in raised.value.hint


def test_a_transaction_left_idle_is_ended_by_the_server(settings: Settings) -> None:
    pool = PostgresPool(postgres_url(settings), size=1, idle_in_transaction_s=0.2)
    with pytest.raises(StoreUnavailableError), pool.transaction() as cursor:
        cursor.execute("CREATE TABLE held (x int)")
        until(lambda: execute(settings, N_OPEN) == [(0,)], what="the server has ended the idle transaction")
        cursor.execute("SELECT 1")
    pool.close()


def test_a_statement_that_takes_too_long_can_be_tried_again_later(settings: Settings) -> None:
    pool = PostgresPool(postgres_url(settings), statement_timeout_s=0.1)
    with pytest.raises(StoreUnavailableError), pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(30)")
    pool.close()


def test_a_wrong_password_or_database_is_a_matter_of_setup(settings: Settings) -> None:
    url = postgres_url(settings)
    for wrong in (url.replace("://", "://nobody-", 1), f"{url}-absent"):
        pool = PostgresPool(wrong)
        with pytest.raises(StoreSetupError):
            one(pool)
        pool.close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    pool = PostgresPool("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(StoreUnavailableError):
        one(pool)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_parent_and_child_do_not_share_a_connection(settings: Settings, pool: PostgresPool) -> None:
    parent = pid(pool)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of the test session may run on in the child, whatever happens.
        try:
            os.write(writing, str(pid(pool)).encode())
            pool.close()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        in_child = int(pipe.read())
    os.waitpid(child, 0)
    assert in_child != parent
    assert pid(pool) == parent


def test_threads_do_not_share_a_transaction(pool: PostgresPool) -> None:
    inside, seen = threading.Event(), threading.Event()
    found: list[object] = []

    def look() -> None:
        assert inside.wait(30)
        with pool.autocommit() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('of_other_thread')")
            found.append(cursor.fetchone())
        seen.set()

    thread = threading.Thread(target=look)
    thread.start()
    with pool.transaction() as cursor:
        cursor.execute("CREATE TABLE of_other_thread (x int)")
        inside.set()
        assert seen.wait(30)
    thread.join()
    assert found == [(None,)]


def test_a_closed_pool_leaves_no_connection_open(settings: Settings, pool: PostgresPool) -> None:
    one(pool)
    pool.close()
    until(lambda: execute(settings, N_OPEN) == [(0,)], what="the connections are gone")


def test_a_server_that_takes_no_writes_for_now_may_be_asked_again(pool: PostgresPool) -> None:
    with pytest.raises(StoreUnavailableError), pool.transaction() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
        cursor.execute("CREATE TABLE ragstore.mine (id int)")


def test_a_server_that_falls_silent_while_a_connection_is_set_up_is_given_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "LOOK_EVERY_S", 0.2)
    with a_forwarder(postgres_url(settings)) as network:
        pool = PostgresPool(network.url, size=1, connect_timeout_s=1)
        network.fall_silent_at(b"pg_backend_pid")
        with pytest.raises(StoreUnavailableError):
            one(pool)
        assert network.swallowed.is_set()
        assert one(pool) == 1
        pool.close()


def test_what_runs_outside_of_a_transaction_leaves_the_limits_of_the_connection(settings: Settings) -> None:
    pool = PostgresPool(postgres_url(settings), size=1, statement_timeout_s=9)
    with pool.autocommit() as connection, connection.cursor() as cursor:
        connection.outside("VACUUM ragstore.document", statement_timeout="0", maintenance_work_mem="64MB")
        with pytest.raises(psycopg2.errors.UndefinedTable):
            connection.outside("VACUUM ragstore.no_such_table", statement_timeout="0")
        cursor.execute("SELECT current_setting('statement_timeout'), current_setting('maintenance_work_mem') <> '64MB'")
        assert cursor.fetchone() == ("9s", True)
    pool.close()
