"""A network between a program and a database, which a test makes slow, silent or broken and mends again."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_READ_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)


class Network:
    """Forwards every connection until told to do something else.

    ``n_made`` counts connections, ``n_given_up`` those that had fallen silent and were then ended by the program.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        head, at, _ = parts.netloc.rpartition("@")
        netloc = f"{head}{at}127.0.0.1:{self._listener.getsockname()[1]}"
        # The driver of MongoDB would find its way to the members of the set, past us.
        query = parts.query.replace("replicaSet=rs0", "directConnection=true")
        self.url = urlunsplit(parts._replace(netloc=netloc, query=query))
        self.n_made = self.n_given_up = 0
        self.swallowed = threading.Event()
        self.was_cut = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._holed: set[socket.socket] = set()
        self._all_holed = False
        self._delay_s = 0.0
        self._silent_at: bytes | None = None
        self._cut_at: bytes | None = None
        self._closing = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def slow_down(self, delay_s: float) -> None:
        """Let each packet take so long, in both directions."""
        self._delay_s = delay_s

    def reset(self) -> None:
        """Break every connection that is there, as a router does that has lost its memory."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    each.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def fall_silent(self) -> None:
        """Swallow what is sent on the connections that are there and on later ones; nobody is told."""
        self.swallowed.clear()
        with self._lock:
            self._holed |= self._open
            self._all_holed = True

    def fall_silent_at(self, message: bytes) -> None:
        """Swallow the next packet that holds this, and all that follows on its connection; the others stay as they are."""
        self.swallowed.clear()
        self._silent_at = message

    def cut_within(self, message: bytes) -> None:
        """Let half of the next packet through that holds this, and break its connection."""
        self.was_cut.clear()
        self._cut_at = message

    def mend(self) -> None:
        """Forward again; what was swallowed is lost, so the connections concerned break."""
        self._delay_s, self._all_holed = 0.0, False
        self._silent_at = self._cut_at = None
        with self._lock:
            lost, self._holed = self._holed, set()
        for each in lost:
            _end(each)

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        for each in list(self._open):
            _end(each)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.n_made += 1
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
                if self._all_holed:
                    self._holed |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            is_of_program = source.getsockname()[1] == self._listener.getsockname()[1]
            while data := source.recv(_READ_BYTES):
                if self._silent_at is not None and self._silent_at in data:
                    self._silent_at = None
                    with self._lock:
                        self._holed |= {source, target}
                if source in self._holed:
                    self.swallowed.set()
                    continue
                if self._delay_s:
                    self._closing.wait(self._delay_s)
                if self._cut_at is not None and self._cut_at in data:
                    self._cut_at = None
                    target.sendall(data[: len(data) // 2])
                    self.was_cut.set()
                    break
                target.sendall(data)
        if source in self._holed and not self._closing.is_set():
            self.n_given_up += is_of_program
            return  # nobody is told of an end either
        with self._lock:
            self._open -= {source, target}
        _end(source)
        _end(target)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def a_network(url: str) -> Iterator[Network]:
    """A network in front of this server until the block ends."""
    network = Network(url)
    try:
        yield network
    finally:
        network.close()
