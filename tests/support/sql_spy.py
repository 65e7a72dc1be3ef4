"""TCP forwarder before PostgreSQL that records the statements of its clients: each entry is a round trip."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_LENGTH = struct.Struct(">i")
_SIMPLE_QUERY = b"Q"


def can_spy(postgres_url: str) -> bool:
    """Whether the server is reached by TCP at one address, as a spy needs it."""
    parts = urlsplit(postgres_url)
    return bool(parts.hostname) and "," not in parts.netloc


class SqlSpy:
    """Forwards connections and records each statement; without TLS."""

    def __init__(self, postgres_url: str) -> None:
        parts = urlsplit(postgres_url)
        self._target = (parts.hostname or "", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._statements: list[str] = []
        query = dict(parse_qsl(parts.query)) | {"sslmode": "disable", "gssencmode": "disable"}
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        netloc = f"{user}127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=netloc, query=urlencode(query)))
        threading.Thread(target=self._accept, name="sql-spy", daemon=True).start()

    def taken(self) -> list[str]:
        """The statements since the last call, each as it was sent."""
        statements, self._statements = self._statements, []
        return statements

    def close(self) -> None:
        """Accept no more connections."""
        with suppress(OSError):  # wakes the thread that accepts; closing alone would not
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for work in (self._forward, _pass_on):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        unread, is_greeted = b"", False
        with suppress(OSError):
            while data := client.recv(1 << 16):
                unread += data
                if not is_greeted and len(unread) >= 4 and len(unread) >= _LENGTH.unpack_from(unread)[0]:
                    unread, is_greeted = unread[_LENGTH.unpack_from(unread)[0] :], True
                if is_greeted:
                    unread = self._record(unread)
                server.sendall(data)
        _end(client, server)

    def _record(self, unread: bytes) -> bytes:
        """Record the messages that are complete; returns the beginning of the next one."""
        while len(unread) >= 5:
            size = 1 + _LENGTH.unpack_from(unread, 1)[0]
            if len(unread) < size:
                break
            if unread[:1] == _SIMPLE_QUERY:
                self._statements.append(unread[5 : size - 1].decode())
            unread = unread[size:]
        return unread


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    with suppress(OSError):
        while data := server.recv(1 << 16):
            client.sendall(data)
    _end(client, server)


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextmanager
def a_sql_spy(postgres_url: str) -> Iterator[SqlSpy]:
    """A spy before this server until the block ends."""
    spy = SqlSpy(postgres_url)
    try:
        yield spy
    finally:
        spy.close()
