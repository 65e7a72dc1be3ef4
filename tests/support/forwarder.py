"""A TCP forwarder before a database, which a test shuts, holds, slows, cuts or silences, and which loses single requests."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Fault = Literal["lost on its way", "answer lost", "arrives late"]
"""The server never gets it; it is done but nobody hears; the server gets it when ``let_through`` is set.

In each case the client's connection is cut, but for a late one whose client is to be killed itself.
"""

COMMIT = b"COMMIT\0"
_READ_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Link:
    """One forwarded connection; once muted, the server's answers are thrown away."""

    client: socket.socket
    server: socket.socket
    is_silent: bool = False
    is_asking: bool = False
    muted: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """Break it, as a router does that has lost its memory."""
        for each in (self.client, self.server):
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        _end(self.client)
        _end(self.server)


class Forwarder:
    """Forwards every connection until told to do something else; keeps its port while it is shut.

    ``n_made`` counts connections, ``n_given_up`` those that had fallen silent and were then ended by the program, and
    ``n_trips`` how often a program waited for an answer.

    Args:
        mark: stands in the requests that ``arm`` is about.
    """

    def __init__(self, url: str, *, mark: bytes = COMMIT) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._mark = mark
        self._listener = socket.create_server(("127.0.0.1", 0))
        user, at, _ = parts.netloc.rpartition("@")
        netloc = f"{user}{at}127.0.0.1:{self._listener.getsockname()[1]}"
        # The driver of MongoDB would find its way to the members of the set, past us.
        query = parts.query.replace("replicaSet=rs0", "directConnection=true")
        self.url = urlunsplit(parts._replace(netloc=netloc, query=query))
        self.n_made = self.n_given_up = self.n_trips = 0
        self.swallowed, self.was_cut = threading.Event(), threading.Event()
        self.met, self.let_through, self.delivered = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._closing, self._flows = threading.Event(), threading.Event()
        self._flows.set()
        self._is_open, self._all_silent, self._delay_s = True, False, 0.0
        self._silent_at: bytes | None = None
        self._cut_at: bytes | None = None
        self._armed: Fault | None = None
        self._n_spared, self._cuts = 0, True
        threading.Thread(target=self._accept, daemon=True).start()

    # All connections

    def cut(self) -> int:
        """End all connections at once; returns how many there were."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.end()
        return len(links)

    def reset(self) -> None:
        """Break all connections that are there."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.reset()

    def shut(self) -> None:
        """Cut every connection and refuse new ones, until ``open``."""
        with self._lock:
            self._is_open = False
        self.cut()

    def open(self) -> None:
        """The end of ``shut``."""
        with self._lock:
            self._is_open = True

    def hold(self) -> int:
        """Hold back whatever is sent from now on, in both directions; returns on how many connections."""
        self._flows.clear()
        with self._lock:
            return len(self._links)

    def release(self) -> None:
        """Deliver what was held back."""
        self._flows.set()

    def slow_down(self, delay_s: float) -> None:
        """Let each packet take so long, in both directions."""
        self._delay_s = delay_s

    def fall_silent(self) -> None:
        """Swallow what is sent on the connections that are there and on later ones; nobody is told."""
        self.swallowed.clear()
        with self._lock:
            self._all_silent = True
            for link in self._links:
                link.is_silent = True

    # One connection

    def fall_silent_at(self, message: bytes) -> None:
        """Swallow the next packet that holds this, and all that follows on its connection; the others stay as they are."""
        self.swallowed.clear()
        self._silent_at = message

    def cut_within(self, message: bytes) -> None:
        """Let half of the next packet through that holds this, and break its connection."""
        self.was_cut.clear()
        self._cut_at = message

    def arm(self, fault: Fault, *, after: int = 0, cut: bool = True) -> None:
        """Interfere with one marked request, after so many have passed; ``cut=False`` leaves the client waiting."""
        with self._lock:
            self._armed, self._n_spared, self._cuts = fault, after, cut
            self.met.clear()

    def disarm(self) -> bool:
        """Interfere no more; returns whether it had."""
        with self._lock:
            self._armed = None
        return self.met.is_set()

    def mend(self) -> None:
        """Forward again; what was swallowed is lost, so the connections concerned break."""
        self._delay_s = 0.0
        self._silent_at = self._cut_at = None
        with self._lock:
            self._all_silent = False
            lost = {link for link in self._links if link.is_silent}
            self._links -= lost
        for link in lost:
            link.is_silent = False
            link.end()

    def close(self) -> None:
        """Forward nothing more."""
        self._closing.set()
        self._flows.set()
        self.let_through.set()
        with suppress(OSError):
            # Wakes the thread that accepts; closing alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    # Its threads: one accepts, and each connection has two

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
                # The server is away, and so it looks from here.
                _end(client)
                continue
            server.settimeout(None)
            link = _Link(client, server)
            with self._lock:
                link.is_silent = self._all_silent
                if is_let_in := self._is_open:
                    self._links.add(link)
            if not is_let_in:
                link.end()
                continue
            for pump in (self._requests, self._answers):
                threading.Thread(target=pump, args=(link,), daemon=True).start()

    def _requests(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.client.recv(_READ_BYTES):
                self.n_trips += not link.is_asking
                link.is_asking = True
                fault = self._fault(data)
                if fault is not None:
                    self._interfere(link, data, fault)
                    break
                if not self._forward(link, link.server, data):
                    break
        if link.is_silent and not self._closing.is_set():
            self.n_given_up += 1
            return  # nobody is told of an end either
        self._end(link)

    def _answers(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.server.recv(_READ_BYTES):
                link.is_asking = False
                if link.muted.is_set():
                    link.answered.set()
                elif not self._forward(link, link.client, data):
                    break
        link.answered.set()
        if not link.is_silent or self._closing.is_set():
            self._end(link)

    def _forward(self, link: _Link, target: socket.socket, data: bytes) -> bool:
        """Pass it on, or swallow it; returns whether the connection goes on."""
        self._flows.wait()
        if self._silent_at is not None and self._silent_at in data:
            self._silent_at = None
            link.is_silent = True
        if link.is_silent:
            self.swallowed.set()
            return True
        if self._delay_s:
            self._closing.wait(self._delay_s)
        if self._cut_at is not None and self._cut_at in data:
            self._cut_at = None
            target.sendall(data[: len(data) // 2])
            self.was_cut.set()
            return False
        target.sendall(data)
        return True

    def _fault(self, data: bytes) -> Fault | None:
        with self._lock:
            if self._armed is None or self._mark not in data:
                return None
            if self._n_spared:
                self._n_spared -= 1
                return None
            fault, self._armed = self._armed, None
            return fault

    def _interfere(self, link: _Link, data: bytes, fault: Fault) -> None:
        link.muted.set()
        if fault == "arrives late":
            if self._cuts:
                _end(link.client)
            self.met.set()
            self.let_through.wait(60)
        if fault != "lost on its way":
            link.server.sendall(data)
            link.answered.wait(60)
            self.delivered.set()
        self.met.set()

    def _end(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
        link.end()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def a_forwarder(url: str, *, mark: bytes = COMMIT) -> Iterator[Forwarder]:
    """A forwarder before this server until the block ends."""
    forwarder = Forwarder(url, mark=mark)
    try:
        yield forwarder
    finally:
        forwarder.close()
