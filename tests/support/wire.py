"""A TCP proxy in front of PostgreSQL that writes down what clients ask of it: each entry is a round trip."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_READ_BYTES = 65_536
_QUERY = b"Q"


class Wire:
    """Forwards everything, and remembers the statements."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        user, at, _ = parts.netloc.rpartition("@")
        netloc = f"{user}{at}127.0.0.1:{self._listener.getsockname()[1]}"
        # Without encryption the first message that a client sends says who it is, and all others begin with their kind.
        self.url = urlunsplit(parts._replace(netloc=netloc, query="sslmode=disable&gssencmode=disable"))
        self._lock = threading.Lock()
        self._asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def taken(self) -> list[str]:
        """What was asked since the last call, each as it was sent."""
        with self._lock:
            asked, self._asked = self._asked, []
            return asked

    def close(self) -> None:
        with suppress(OSError):
            # Wakes the thread that accepts; closing alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        unread, is_first = b"", True
        with suppress(OSError):
            while data := client.recv(_READ_BYTES):
                unread += data
                while (message := _first_message(unread, is_first)) is not None:
                    unread = unread[len(message) :]
                    if not is_first:
                        self._note(message)
                    is_first = False
                server.sendall(data)
        _end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(_READ_BYTES):
                client.sendall(data)
        _end(client, server)

    def _note(self, message: bytes) -> None:
        if message[:1] == _QUERY:
            with self._lock:
                self._asked.append(message[5:-1].decode())


def _first_message(data: bytes, is_first: bool) -> bytes | None:
    """The first whole message; the very first of a connection has no byte for its kind."""
    begin = 0 if is_first else 1
    if len(data) < begin + 4:
        return None
    length = begin + int.from_bytes(data[begin : begin + 4], "big")
    return data[:length] if len(data) >= length else None


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextmanager
def a_wire(url: str) -> Iterator[Wire]:
    """A wire to this server until the block ends."""
    wire = Wire(url)
    try:
        yield wire
    finally:
        wire.close()
