"""A TCP proxy in front of a database that interferes with one request: it loses it, loses its answer or delays it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Fault = Literal["lost on its way", "answer lost", "arrives late"]
"""The server never gets it; it is done but nobody hears; the server gets it when ``let_through`` is set.

In each case the client's connection is cut, but for a late one whose client is to be killed itself.
"""

COMMIT = b"COMMIT\0"
_READ_BYTES = 65_536


class Proxy:
    """Forwards until it is armed; then interferes with the first request that it is told of."""

    def __init__(self, url: str, mark: bytes) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._mark = mark
        self._listener = socket.create_server(("127.0.0.1", 0))
        user, at, _ = parts.netloc.rpartition("@")
        netloc = f"{user}{at}127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=netloc))
        self.met, self.let_through, self.delivered = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._armed: Fault | None = None
        self._n_spared = 0
        self._cut = True
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, fault: Fault, *, after: int = 0, cut: bool = True) -> None:
        """Interfere once, after so many such requests have passed; ``cut=False`` leaves the client waiting."""
        with self._lock:
            self._armed, self._n_spared, self._cut = fault, after, cut
            self.met.clear()

    def disarm(self) -> bool:
        """Interfere no more; returns whether it had."""
        with self._lock:
            self._armed = None
        return self.met.is_set()

    def close(self) -> None:
        self.let_through.set()
        with suppress(OSError):
            # Wakes the thread that accepts; closing alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                link = _Link(client, socket.create_connection(self._target))
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(link,), daemon=True).start()

    def _requests(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.client.recv(_READ_BYTES):
                fault = self._fault(data)
                if fault is None:
                    link.server.sendall(data)
                    continue
                self._interfere(link, data, fault)
                break
        _end(link.client)
        _end(link.server)

    def _interfere(self, link: _Link, data: bytes, fault: Fault) -> None:
        link.muted.set()
        if fault == "arrives late":
            if self._cut:
                _end(link.client)
            self.met.set()
            self.let_through.wait(60)
        if fault != "lost on its way":
            link.server.sendall(data)
            link.answered.wait(60)
            self.delivered.set()
        self.met.set()

    def _answers(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.server.recv(_READ_BYTES):
                if link.muted.is_set():
                    link.answered.set()
                else:
                    link.client.sendall(data)
        link.answered.set()
        _end(link.client)

    def _fault(self, data: bytes) -> Fault | None:
        with self._lock:
            if self._armed is None or self._mark not in data:
                return None
            if self._n_spared:
                self._n_spared -= 1
                return None
            fault, self._armed = self._armed, None
            return fault


class _Link:
    """One forwarded connection; once muted, the server's answers are thrown away."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.muted, self.answered = threading.Event(), threading.Event()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def running_proxy(url: str, *, mark: bytes = COMMIT) -> Iterator[Proxy]:
    """A proxy in front of this server until the block ends; ``mark`` stands in the requests it may interfere with."""
    proxy = Proxy(url, mark)
    try:
        yield proxy
    finally:
        proxy.close()
