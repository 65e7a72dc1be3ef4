"""What is sent to the two servers, heard on the way: statements, to send them again, and how many there are."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pymongo import monitoring

_LENGTH = struct.Struct(">i")
_SIMPLE_QUERY = b"Q"


def can_overhear(postgres_url: str) -> bool:
    """Whether the server is reached by TCP at one address."""
    parts = urlsplit(postgres_url)
    return bool(parts.hostname) and "," not in parts.netloc


class Overheard:
    """A way to PostgreSQL on which each statement is written down; without TLS."""

    def __init__(self, postgres_url: str) -> None:
        parts = urlsplit(postgres_url)
        self._target = (parts.hostname or "", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.statements: list[str] = []
        query = dict(parse_qsl(parts.query)) | {"sslmode": "disable", "gssencmode": "disable"}
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        netloc = f"{user}127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=netloc, query=urlencode(query)))
        threading.Thread(target=self._accept, name="ragstore-bench-overhear", daemon=True).start()

    def close(self) -> None:
        """Let no more connections through."""
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
                    unread = self._write_down(unread)
                server.sendall(data)
        _end(client, server)

    def _write_down(self, unread: bytes) -> bytes:
        """Note the whole messages; returns the beginning of the next one."""
        while len(unread) >= 5:
            size = 1 + _LENGTH.unpack_from(unread, 1)[0]
            if len(unread) < size:
                break
            if unread[:1] == _SIMPLE_QUERY:
                self.statements.append(unread[5 : size - 1].decode())
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
def overhearing(postgres_url: str) -> Iterator[Overheard]:
    """That way, open for the length of the block."""
    overheard = Overheard(postgres_url)
    try:
        yield overheard
    finally:
        overheard.close()


class _Commands(monitoring.CommandListener):
    def __init__(self) -> None:
        self.n_sent = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.n_sent += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Of no interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Of no interest."""


@cache
def mongo_commands() -> _Commands:
    """Counts the commands of all MongoDB clients made after the first call."""
    commands = _Commands()
    monitoring.register(commands)
    return commands
