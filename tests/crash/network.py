"""A way to a database that can be cut, or fall silent for a while, under everybody who uses it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

_READ_BYTES = 65_536


class Network:
    """Forwards TCP connections to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=netloc))
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._speaks = threading.Event()
        self._speaks.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End all connections at once; returns how many there were."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            _end(connection)
        return len(connections) // 2

    def fall_silent(self) -> int:
        """Hold back whatever is sent from now on, in both directions; returns on how many connections."""
        self._speaks.clear()
        with self._lock:
            return len(self._connections) // 2

    def speak(self) -> None:
        """Deliver what was held back."""
        self._speaks.set()

    def close(self) -> None:
        """Forward nothing more."""
        self.speak()
        with suppress(OSError):
            # Wakes the thread that accepts; closing alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target, timeout=2)
                except OSError:
                    # The server is away, and so it looks from here.
                    _end(client)
                    continue
                server.settimeout(None)
                with self._lock:
                    self._connections |= {client, server}
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                self._speaks.wait()
                sink.sendall(data)
        with self._lock:
            self._connections -= {source, sink}
        _end(source)
        _end(sink)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
