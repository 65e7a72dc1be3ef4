"""Locks between processes, each held by an open transaction on its own connection and renewed while it is held.

An advisory lock that ends with its transaction is released when its holder dies. This also works behind a transaction
pooler, where a lock of the session would pass to the next client. The transaction holds no snapshot and no other lock,
so neither VACUUM nor CREATE INDEX CONCURRENTLY waits for it. PostgreSQL ends it after a lease without a message, when
the holder is paused or cut off from the network.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg2

from ragstore.postgres.errors import translation
from ragstore.postgres.pool import Connection, PostgresPool
from ragstore.postgres.session import SCHEMA

LEASE_S = 30.0
_RENEW_EVERY_S = 5.0
_TRY_EVERY_S = 0.1

Key = int | tuple[int, int]
"""One number of 64 bits or two of 32, as PostgreSQL has them."""

# Other limits on transactions must not end it; transaction_timeout exists from PostgreSQL 17 on.
_TAKE = """
SELECT pg_try_advisory_xact_lock({key}),
    set_config('idle_in_transaction_session_timeout', %(lease_ms)s, true),
    (SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout')
"""


class Lock:
    """A lock that one process at a time can hold.

    Args:
        pool: names the server; the lock uses none of its connections.
    """

    def __init__(self, pool: PostgresPool, key: Key) -> None:
        self._pool = pool
        numbers = key if isinstance(key, tuple) else (_in_schema(pool.schema, key),)
        self._statement = _TAKE.replace("{key}", ", ".join(f"%(key{i})s" for i in range(len(numbers))))
        self._values = {f"key{i}": number for i, number in enumerate(numbers)}
        self._using = threading.Lock()
        self._lent: tuple[PostgresPool, Connection] | None = None
        self._is_held = False
        self._released = threading.Event()

    def take(self) -> bool:
        """Take the lock if it is free, without waiting; returns whether this process holds it now.

        Raises:
            StoreUnavailableError: PostgreSQL does not answer.
        """
        with self._using, translation():
            if self._is_held and self._is_alive():
                return True
            if self._is_held:
                self._give_back()
            return self._try()

    def release(self) -> None:
        with self._using:
            self._give_back()

    def _try(self) -> bool:
        try:
            connection = self._connection()
            with connection.cursor() as cursor:
                cursor.execute(self._statement, {**self._values, "lease_ms": str(round(LEASE_S * 1000))})
                row = cursor.fetchone()
            self._is_held = bool(row and row[0])
            if not self._is_held:
                connection.rollback()
        except BaseException:
            self._give_back()
            raise
        if self._is_held:
            self._released = threading.Event()
            threading.Thread(target=self._renew, args=(self._released,), name="ragstore-lock", daemon=True).start()
        return self._is_held

    def _connection(self) -> Connection:
        if self._lent is None:
            own = self._pool.another(size=1)
            self._lent = (own, own.checkout())
            self._lent[1].autocommit = False
        return self._lent[1]

    def _renew(self, released: threading.Event) -> None:
        while not released.wait(_RENEW_EVERY_S):
            with self._using:
                if not released.is_set() and not self._is_alive():
                    self._give_back()

    def _is_alive(self) -> bool:
        """Whether the transaction is still open, which renews the lease."""
        try:
            with self._connection().cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            return False
        return True

    def _give_back(self) -> None:
        self._released.set()
        self._is_held = False
        if self._lent is not None:
            (own, connection), self._lent = self._lent, None
            # In this order the connection is closed, and not kept as idle.
            own.close()
            own.checkin(connection)


@contextmanager
def exclusive(pool: PostgresPool, key: Key, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold a lock for the length of the block; yields False if another process holds it.

    The lock is released at once when its holder dies, and one lease after the holder was paused or cut off. So the
    block must be correct without the lock too. A thread that holds it must not take it again.

    Args:
        pool: names the server; the lock has its own connection.
        wait_s: seconds to try if another process holds the lock.

    Raises:
        StoreUnavailableError: PostgreSQL does not answer.
    """
    lock = Lock(pool, key)
    deadline = time.monotonic() + wait_s
    try:
        # Waiting inside a statement would hold a snapshot that CREATE INDEX CONCURRENTLY in turn waits for.
        while not (is_mine := lock.take()) and time.monotonic() < deadline:
            time.sleep(_TRY_EVERY_S)
        yield is_mine
    finally:
        lock.release()


class Turn:
    """The turn to work: of several workers on the same paths one works and the others wait.

    It only saves work; correctness never depends on it.
    """

    def __init__(self, pool: PostgresPool, *, collection: str, paths: Sequence[str]) -> None:
        self._lock = Lock(pool, _key(collection, paths))

    def mine(self) -> bool:
        """Take or keep the turn; returns whether this process has it.

        Raises:
            StoreUnavailableError: PostgreSQL does not answer.
        """
        return self._lock.take()

    def close(self) -> None:
        """Give the turn to another worker."""
        self._lock.release()


def _in_schema(schema: str, key: int) -> int:
    """The key for a schema, so that deployments in one database do not exclude each other."""
    if schema == SCHEMA:
        return key
    digest = hashlib.blake2b(f"{schema}\0{key}".encode(), digest_size=8, person=b"ragstore-schema")
    return int.from_bytes(digest.digest(), "big", signed=True)


def _key(collection: str, paths: Sequence[str]) -> int:
    # Each part ends in a byte that no path or name can contain, so that different lists give different texts.
    text = "\0".join([collection, *sorted(set(paths)), ""])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8, person=b"ragstore-turn")
    return int.from_bytes(digest.digest(), "big", signed=True)
