"""Health of a long-running process, and the HTTP server for ``/health`` and ``/metrics``."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ragstore.errors import UsageError
from ragstore.telemetry.logging import get_logger

SLACK_S = 60.0


class Health:
    """Health of the process, from its signs of life and failures; safe to use from several threads.

    Args:
        every_s: seconds between two rounds. Unhealthy after 3 intervals + 60 s without a sign of life or a success.
    """

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = 3 * every_s + SLACK_S
        self._clock = clock
        self._lock = threading.Lock()
        self._alive_at = clock()
        self._failing_since: float | None = None
        self._reason = ""
        self._n_long = 0

    def alive(self) -> None:
        """Note a sign of life."""
        with self._lock:
            self._alive_at = self._clock()

    def succeeded(self) -> None:
        """Note a round that succeeded."""
        with self._lock:
            self._alive_at = self._clock()
            self._failing_since = None

    def failed(self, reason: str) -> None:
        """Note a round that failed; the process goes on."""
        with self._lock:
            self._alive_at = self._clock()
            self._reason = reason
            if self._failing_since is None:
                self._failing_since = self._alive_at

    @contextmanager
    def long_step(self) -> Iterator[None]:
        """A step that may take any time without a sign of life: the process is not unhealthy because of it."""
        with self._lock:
            self._n_long += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_long -= 1
                self._alive_at = self._clock()

    def unhealthy_reason(self) -> str | None:
        """One line with the reason why the process is unhealthy; None if it is healthy."""
        with self._lock:
            now = self._clock()
            if self._failing_since is not None and now - self._failing_since > self._limit_s:
                return f"failing for {now - self._failing_since:.0f} s: {' '.join(self._reason.split())}"
            if not self._n_long and now - self._alive_at > self._limit_s:
                return f"no sign of life for {now - self._alive_at:.0f} s"
            return None


_log = get_logger(__name__)

_SLOW_CLIENT_S = 5.0
_TEXT = "text/plain; charset=utf-8"


def parsed_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` as host and port; an IPv6 host is in brackets, port 0 takes any free port.

    Raises:
        UsageError: the address has not this form.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare and (":" not in bare or bare != host) and port.isascii() and port.isdigit() and int(port) <= 65_535:
        return bare, int(port)
    raise UsageError(f"{address!r} is no address to serve metrics at", hint="say HOST:PORT, for example 127.0.0.1:9464")


@contextmanager
def serving(address: str | None, registry: CollectorRegistry, health: Health) -> Iterator[int | None]:
    """Serve metrics and health until the block ends; gives the port, or None if there is no address.

    Raises:
        UsageError: the server cannot listen at this address.
    """
    if address is None:
        yield None
        return
    server = _listening(*parsed_address(address), registry, health)
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="ragstore-metrics", daemon=True)
    thread.start()
    port = int(server.server_address[1])
    _log.info("serving metrics and health", action="serving", host=str(server.server_address[0]), port=port)
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """HTTP server that answers each request in a thread; the threads end with the process."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, health: Health) -> None:
        self.registry = registry
        self.health = health
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        super().__init__(address, _Handler)

    def handle_error(self, *_of_whom: object) -> None:
        """Log a client that broke off at level debug: it is no error."""
        _log.debug("a request for metrics broke off", action="serving", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers ``/metrics`` and ``/health``; 404 for all others."""

    server: _Server
    server_version = "ragstore"
    sys_version = ""
    timeout = _SLOW_CLIENT_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, generate_latest(self.server.registry), CONTENT_TYPE_PLAIN_0_0_4)
        elif path == "/health":
            reason = self.server.health.unhealthy_reason()
            self._answer(503 if reason else 200, f"{reason or 'ok'}\n".encode(errors="replace"), _TEXT)
        else:
            self._answer(404, b"see /metrics and /health\n", _TEXT)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        """Logs nothing: a line for each scrape would hide the others."""

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _listening(host: str, port: int, registry: CollectorRegistry, health: Health) -> _Server:
    try:
        return _Server((host, port), registry, health)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}:{port}: {(error.strerror or str(error)).lower()}",
            hint="say another HOST:PORT after --metrics",
        ) from error
