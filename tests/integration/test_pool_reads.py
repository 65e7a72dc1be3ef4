"""Reads on pooled connections: without a round trip to try them first, and done again where one had broken."""

from __future__ import annotations

import pytest

from ragstore.errors import StoreError, StoreUnavailableError
from ragstore.postgres import pool as pools
from ragstore.postgres.pool import Connection, PostgresPool
from ragstore.settings import Settings
from tests.support.forwarder import a_forwarder
from tests.support.parts import postgres_url
from tests.support.sql_spy import a_sql_spy

READING = "SELECT 'a read'"


def a_read(connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute(READING)
        row = cursor.fetchone()
        assert row is not None
        return str(row[0])


def test_a_read_on_a_connection_that_was_idle_for_long_asks_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PING_AFTER_IDLE_S", 0.0)
    with a_sql_spy(postgres_url(settings)) as spy:
        pool = PostgresPool(spy.url)
        pool.read(a_read)
        spy.taken()
        assert pool.read(a_read) == "a read"
        assert spy.taken() == [READING]
        with pool.autocommit() as connection:
            a_read(connection)
        assert spy.taken() == ["SELECT 1", READING]
        pool.close()


def test_a_read_on_a_connection_that_broke_while_it_was_idle_is_done_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PING_AFTER_IDLE_S", 0.0)
    with a_forwarder(postgres_url(settings), mark=READING.encode()) as proxy:
        pool = PostgresPool(proxy.url)
        pool.read(a_read)
        proxy.arm("lost on its way")
        assert pool.read(a_read) == "a read"
        assert proxy.met.is_set()
        pool.close()


@pytest.mark.parametrize("idle_s", [0.0, 1000.0])
def test_a_read_that_breaks_a_second_time_or_on_a_connection_used_just_now_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, idle_s: float
) -> None:
    monkeypatch.setattr(pools, "PING_AFTER_IDLE_S", idle_s)
    n_read = 0

    def breaking_read(connection: Connection) -> str:
        nonlocal n_read
        n_read += 1
        proxy.arm("lost on its way")
        return a_read(connection)

    with a_forwarder(postgres_url(settings), mark=READING.encode()) as proxy:
        pool = PostgresPool(proxy.url)
        pool.read(a_read)
        with pytest.raises(StoreUnavailableError):
            pool.read(breaking_read)
        assert n_read == (1 if idle_s else 2)
        assert pool.read(a_read) == "a read"
        pool.close()


def test_a_read_that_fails_for_another_reason_is_not_done_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PING_AFTER_IDLE_S", 0.0)
    n_read = 0

    def failing_read(connection: Connection) -> None:
        nonlocal n_read
        n_read += 1
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    pool = PostgresPool(postgres_url(settings), size=1)
    pool.read(a_read)
    with pytest.raises(StoreError, match="division by zero"):
        pool.read(failing_read)
    assert n_read == 1
    assert pool.read(a_read) == "a read"
    pool.close()
