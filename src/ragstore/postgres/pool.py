"""One pool of connections for everything in a process, safe across threads, restarts of the server and forks."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import psycopg2
import psycopg2.extensions

from ragstore.errors import StoreUnavailableError, closed
from ragstore.postgres.errors import translation
from ragstore.postgres.prepared import PreparingConnection
from ragstore.postgres.silence import SilenceWatch

T = TypeVar("T")
Connection = psycopg2.extensions.connection
Cursor = psycopg2.extensions.cursor

PING_AFTER_IDLE_S = 1.0
"""A connection idle for longer is tried before it is lent to who may write: the server may have been restarted."""


class PostgresPool:
    """Lends psycopg2 connections, opened when first needed.

    Not SQLAlchemy's pool, because importing that costs a cold query 0.3 s.

    Args:
        url: ``postgresql://user:password@host:port/database``.
        size: connections open at once, at most.
        idle_in_transaction_s: PostgreSQL ends a transaction that is idle for so long, so that a paused process
            cannot hold up the others.
        statement_timeout_s: PostgreSQL gives up a longer statement; 0 for never.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int = 8,
        connect_timeout_s: float = 5.0,
        idle_in_transaction_s: float = 60.0,
        statement_timeout_s: float = 0.0,
    ) -> None:
        self._url = url
        self._size = size
        self._connect_timeout_s = max(1, round(connect_timeout_s))
        self._limits = {"idle_in_transaction_s": idle_in_transaction_s, "statement_timeout_s": statement_timeout_s}
        self._options = (
            f"-c idle_in_transaction_session_timeout={round(idle_in_transaction_s * 1000)} "
            f"-c statement_timeout={round(statement_timeout_s * 1000)}"
        )
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[tuple[Connection, float]] = deque()
        self._places = threading.BoundedSemaphore(self._size)
        self._silence = SilenceWatch(self._url, answer_within_s=self._connect_timeout_s)

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection on which each statement is its own transaction."""
        with translation(), self._lent() as connection:
            connection.autocommit = True
            yield connection

    def read(self, reading: Callable[[Connection], T]) -> T:
        """What a read returns, in its own round trips alone; each of its statements is its own transaction.

        No connection is tried before; where one turns out to have broken while it was idle, all is read again.
        """
        with translation():
            connection, is_untried = self._taken(try_it=False)
            try:
                connection.autocommit = True
                return reading(connection)
            except psycopg2.Error:
                if not (is_untried and connection.closed):
                    raise
            finally:
                self.checkin(connection)
        with self.autocommit() as other:
            return reading(other)

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A cursor in one transaction: committed at the end of the block, rolled back when it raises."""
        with translation(), self._lent() as connection:
            connection.autocommit = False
            try:
                with connection.cursor() as cursor:
                    yield cursor
                connection.commit()
            except BaseException:
                # An interrupt stays one, also where the connection broke with it.
                with suppress(psycopg2.Error):
                    connection.rollback()
                raise

    def another(self, *, size: int) -> PostgresPool:
        """A pool of its own on the same server, for work that must not take connections from others."""
        return PostgresPool(self._url, size=size, connect_timeout_s=self._connect_timeout_s, **self._limits)

    def close(self) -> None:
        """Close the idle connections; lent ones close when they come back, and no other is lent: ClosedError."""
        if self._pid != os.getpid():
            return
        self._size = 0
        self._is_closed = True
        self._silence.close()
        while self._idle:
            self._idle.pop()[0].close()

    @contextmanager
    def _lent(self) -> Iterator[Connection]:
        connection = self.checkout()
        try:
            yield connection
        finally:
            self.checkin(connection)

    def checkout(self) -> Connection:
        """Take a connection; give it back with ``checkin``."""
        return self._taken(try_it=True)[0]

    def _taken(self, *, try_it: bool) -> tuple[Connection, bool]:
        """A connection, and whether it was idle for long and nobody has tried it since."""
        if self._is_closed:
            raise closed()
        if self._pid != os.getpid():
            # After a fork the parent's connections must not be used or ended by the child.
            self._reset()
        if not self._places.acquire(timeout=self._connect_timeout_s * 6):
            raise StoreUnavailableError(
                f"all {self._size} PostgreSQL connections of this process stayed in use",
                hint="raise RAGSTORE_POOL_SIZE or use fewer threads",
            )
        try:
            return self._usable_idle(try_it=try_it) or (self._connect(), False)
        except BaseException:
            self._places.release()
            raise

    def checkin(self, connection: Connection) -> None:
        """Give back what ``checkout`` lent."""
        status = connection.info.transaction_status if not connection.closed else None
        try:
            if status in (None, psycopg2.extensions.TRANSACTION_STATUS_UNKNOWN) or self._size == 0:
                self._end(connection)
                return
            if status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                connection.rollback()
            self._silence.returned(connection)
            self._idle.append((connection, time.monotonic()))
        except psycopg2.Error:
            # It broke while nothing of it was needed any more.
            self._end(connection)
        finally:
            self._places.release()

    def _usable_idle(self, *, try_it: bool) -> tuple[Connection, bool] | None:
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                return None
            self._silence.lent(connection)
            is_old = time.monotonic() - since >= PING_AFTER_IDLE_S
            if not _was_ended(connection) and not (is_old and try_it and not _answers(connection)):
                return connection, is_old and not try_it
            self._end(connection)

    def _connect(self) -> Connection:
        connection = psycopg2.connect(
            self._url,
            connection_factory=PreparingConnection,
            connect_timeout=self._connect_timeout_s,
            application_name="ragstore",
            options=self._options,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            # Keepalives rest while something is on its way; without this a lost network is noticed in 15 minutes.
            tcp_user_timeout=30_000,
        )
        self._silence.lent(connection)
        return connection

    def _end(self, connection: Connection) -> None:
        self._silence.returned(connection)
        connection.close()


def _was_ended(connection: Connection) -> bool:
    """Whether the server has spoken unasked, as it does when it ends a connection; costs no round trip."""
    watched = select.poll()
    watched.register(connection.fileno(), select.POLLIN)
    return bool(watched.poll(0))


def _answers(connection: Connection) -> bool:
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error:
        return False
    return True
