"""Connection pool of a process, safe across threads, forks and restarts of the server."""

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
from ragstore.postgres.errors import is_full, is_starting, translation
from ragstore.postgres.prepared import PreparingConnection
from ragstore.postgres.session import SCHEMA, connect, set_up
from ragstore.postgres.silence import SilenceWatch

T = TypeVar("T")
Connection = PreparingConnection
Cursor = psycopg2.extensions.cursor

PING_AFTER_IDLE_S = 1.0
"""A connection that was idle for longer is tested before it is lent to a writer: the server may have been restarted."""

_TRY_AGAIN_S = 0.25
"""Seconds between two attempts to connect to a server that is full or starting."""


class PostgresPool:
    """Lends psycopg2 connections, opened when first needed.

    Not SQLAlchemy's pool, because importing that costs a cold query 0.3 s.

    Args:
        url: ``postgresql://user:password@host:port/database``.
        size: connections open at once, at most.
        idle_in_transaction_s: PostgreSQL ends a transaction that is idle for longer, so that a paused process
            cannot block others; a shorter limit of the server stays.
        statement_timeout_s: PostgreSQL cancels a longer statement; 0 for the server's limit.
        schema: the name of ragstore's schema in that database.

    Options in the URL have priority over these limits.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int = 8,
        connect_timeout_s: float = 5.0,
        idle_in_transaction_s: float = 60.0,
        statement_timeout_s: float = 0.0,
        schema: str = SCHEMA,
    ) -> None:
        self._url = url
        self._size = size
        self._connect_timeout_s = max(1, round(connect_timeout_s))
        self.schema = schema
        self._limits = {"idle_in_transaction_s": idle_in_transaction_s, "statement_timeout_s": statement_timeout_s}
        self._is_closed = False
        self._reset()

    @property
    def url(self) -> str:
        """URL of the server, with the password."""
        return self._url

    def _reset(self) -> None:
        self._pid = os.getpid()
        self.n_connected = getattr(self, "n_connected", 0)
        self._idle: deque[tuple[Connection, float]] = deque()
        self._places = threading.BoundedSemaphore(self._size)
        self._n_open = 0
        self._returned = threading.Condition()
        self._silence = SilenceWatch(self._url, answer_within_s=self._connect_timeout_s)

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection on which each statement is its own transaction."""
        with translation(), self._lent() as connection:
            connection.autocommit = True
            yield connection

    def read(self, reading: Callable[[Connection], T]) -> T:
        """Run ``reading`` in autocommit mode without testing the connection first, which saves a round trip.

        It is run again if the connection turns out to have broken while it was idle.
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
                # An interrupt is raised as it is, also if the connection broke with it.
                with suppress(psycopg2.Error):
                    connection.rollback()
                raise

    def unlent(self) -> Connection:
        """A new connection outside the pool, which the caller closes."""
        made = connect(self._url, factory=PreparingConnection, connect_timeout_s=self._connect_timeout_s)
        try:
            set_up(made, self._url, schema=self.schema, **self._limits)
        except BaseException:
            made.close()
            raise
        made.autocommit = False
        return made

    def another(self, *, size: int) -> PostgresPool:
        """A separate pool for the same server, for work that must not take connections from others."""
        return PostgresPool(
            self._url, size=size, connect_timeout_s=self._connect_timeout_s, schema=self.schema, **self._limits
        )

    def close(self) -> None:
        """Close the idle connections; lent ones are closed when they come back. Later calls raise ClosedError."""
        if self._pid != os.getpid():
            return
        self._size = 0
        self._is_closed = True
        self._silence.close()
        while self._idle:
            self._end(self._idle.pop()[0])

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
        """A connection, and whether it was idle for long and is not tested."""
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
            return self._usable_or_new(try_it=try_it)
        except BaseException:
            self._places.release()
            raise

    def _usable_or_new(self, *, try_it: bool) -> tuple[Connection, bool]:
        """An idle connection or a new one; waits while the server is full or starting.

        For a full server the wait is as long as for a pool in full use if connections of this pool are open, because
        these come back. Otherwise, and for a server that starts or recovers, it is some seconds.
        """
        begun_at = time.monotonic()
        while True:
            found = self._usable_idle(try_it=try_it)
            if found is not None:
                return found
            try:
                return self._connect(), False
            except psycopg2.OperationalError as error:
                patience_s = 2.0 * self._connect_timeout_s
                if is_full(error) and self._n_open:
                    patience_s = 6.0 * self._connect_timeout_s
                elif not (is_full(error) or is_starting(error)):
                    raise
                if time.monotonic() - begun_at >= patience_s:
                    raise
            with self._returned:
                if not self._idle:
                    self._returned.wait(_TRY_AGAIN_S)

    def checkin(self, connection: Connection) -> None:
        """Give back a connection of ``checkout``."""
        status = connection.info.transaction_status if not connection.closed else None
        try:
            if status in (None, psycopg2.extensions.TRANSACTION_STATUS_UNKNOWN) or self._size == 0:
                self._end(connection)
                return
            if status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                connection.rollback()
            self._silence.returned(connection)
            with self._returned:
                self._idle.append((connection, time.monotonic()))
                self._returned.notify()
        except psycopg2.Error:
            # The connection broke after its last use.
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
        connection = connect(self._url, factory=PreparingConnection, connect_timeout_s=self._connect_timeout_s)
        with self._returned:
            self._n_open += 1
        # From now on the server may stop answering during a statement.
        self._silence.lent(connection)
        try:
            set_up(connection, self._url, schema=self.schema, **self._limits)
        except BaseException:
            self._end(connection)
            raise
        return connection

    def _end(self, connection: Connection) -> None:
        self._silence.returned(connection)
        connection.close()
        with self._returned:
            self._n_open -= 1


def _was_ended(connection: Connection) -> bool:
    """Whether the server sent something unasked, as it does when it ends a connection; costs no round trip."""
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
