"""A TCP gate in front of a database: open, shut as if nothing listened, or frozen so that nothing gets through."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_READ_BYTES = 65_536


class Gate:
    """Keeps its port while it is shut, so that nobody else gets it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=netloc))
        self._lock = threading.Lock()
        self._open = True
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        """Cut every connection and refuse new ones, until ``open``."""
        with self._lock:
            self._open = False
            for each in self._sockets:
                _end(each)
            self._sockets.clear()

    def open(self) -> None:
        with self._lock:
            self._open = True

    def freeze(self) -> None:
        """Let nothing through any more, and cut nothing."""
        self._flowing.clear()

    def close(self) -> None:
        self.shut()
        self._flowing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    if not self._open:
                        _end(client)
                        continue
                    server = socket.create_connection(self._target)
                    self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                self._flowing.wait(120)
                sink.sendall(data)
        _end(source)
        _end(sink)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def a_gate(url: str) -> Iterator[Gate]:
    """A gate in front of this server until the block ends."""
    gate = Gate(url)
    try:
        yield gate
    finally:
        gate.close()
