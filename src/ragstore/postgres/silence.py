"""Watch that ends connections whose server no longer answers, so that no statement waits for ever.

TCP notices a peer that has ended, but not one that is stopped, nor a proxy that forwards nothing any more. A time-out
of statements cannot tell either, because building an index may take any time. So the server is asked over a new
connection whether it is still working.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from dataclasses import dataclass

import psycopg2
import psycopg2.extensions

from ragstore.postgres.session import parameters

Connection = psycopg2.extensions.connection

LOOK_EVERY_S = 5.0
_UNREACHABLE = "unreachable"
_STATES = "SELECT pid, state, state_change::text FROM pg_stat_activity WHERE pid = ANY (%s) AND state IS NOT NULL"


@dataclass(slots=True)
class _Lent:
    connection: Connection
    since: float
    seen: str | None = None


class SilenceWatch:
    """A daemon thread that watches the lent connections of a pool.

    A statement that has lasted for some seconds is given up if the server, asked twice, either does not answer, or
    reports that the session has been waiting for the client since the same moment. The waiting thread gets the
    driver's error of a broken connection.
    """

    def __init__(self, url: str, *, answer_within_s: float) -> None:
        self._url = url
        self._answer_within_s = answer_within_s
        self._lock = threading.Lock()
        self._lent: dict[int, _Lent] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def lent(self, connection: Connection) -> None:
        """Begin to watch a connection."""
        with self._lock:
            self._lent[id(connection)] = _Lent(connection, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_round, name="ragstore-silence", daemon=True)
                self._thread.start()

    def returned(self, connection: Connection) -> None:
        """Stop watching a connection; it may be closed only after this."""
        with self._lock:
            self._lent.pop(id(connection), None)

    def close(self) -> None:
        """Stop the thread at its next check."""
        self._closing.set()

    def _go_round(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            waiting = self._waiting()
            if waiting:
                states = self._ask([each.connection.info.backend_pid for each in waiting])
                for each in waiting:
                    self._judge(each, states)

    def _waiting(self) -> list[_Lent]:
        """Connections that have been lent for some time and wait for an answer now."""
        begun_by = time.monotonic() - LOOK_EVERY_S
        with self._lock:
            for each in self._lent.values():
                if each.since > begun_by or not _waits(each.connection):
                    each.seen = None
            return [each for each in self._lent.values() if each.since <= begun_by and _waits(each.connection)]

    def _judge(self, waiting: _Lent, states: dict[int, str] | None) -> None:
        with self._lock:
            if id(waiting.connection) not in self._lent or not _waits(waiting.connection):
                return
            now = _UNREACHABLE if states is None else states.get(waiting.connection.info.backend_pid)
            if now is not None and now == waiting.seen:
                _cut(waiting.connection)
            waiting.seen = now

    def _ask(self, pids: list[int]) -> dict[int, str] | None:
        """For sessions that wait for the client: pid and time since; None if no answer comes in time."""
        deadline = time.monotonic() + self._answer_within_s
        try:
            wanted = parameters(self._url, connect_timeout_s=round(self._answer_within_s) or 1)
            connection = psycopg2.connect(wanted, async_=True)
        except psycopg2.Error:
            return None
        try:
            _complete(connection, deadline)
            with connection.cursor() as cursor:
                cursor.execute(_STATES, (pids,))
                _complete(connection, deadline)
                # A session that is working, or that a pooler hides, may take any time.
                return {pid: since for pid, state, since in cursor.fetchall() if state.startswith("idle")}
        except TimeoutError:
            return None
        except psycopg2.Error as error:
            # A server that refuses the connection, because it is full or starting, does answer.
            return {} if error.pgcode or "FATAL" in str(error) else None
        finally:
            connection.close()


def _waits(connection: Connection) -> bool:
    """Whether a statement was sent whose answer has not arrived."""
    return not connection.closed and (
        connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_ACTIVE
    )


def _cut(connection: Connection) -> None:
    """Shut the socket down while another thread waits for it."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as shared:
            shared.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg2.Error):
        return  # the connection broke by itself


def _complete(connection: Connection, deadline: float) -> None:
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        event = select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        watched = select.poll()
        watched.register(connection.fileno(), event)
        if not watched.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
