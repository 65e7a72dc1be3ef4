"""Whether a process that lives long is well: what ``/health`` answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLACK_S = 60.0


class Health:
    """Hears of every sign of life and every failure; used from several threads.

    Args:
        every_s: pause between two rounds. A process is ill that was silent, or has failed, for longer than three of
            these and a minute.
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
        """Something moves."""
        with self._lock:
            self._alive_at = self._clock()

    def succeeded(self) -> None:
        """A round ended well."""
        with self._lock:
            self._alive_at = self._clock()
            self._failing_since = None

    def failed(self, reason: str) -> None:
        """A round failed; the process goes on."""
        with self._lock:
            self._alive_at = self._clock()
            self._reason = reason
            if self._failing_since is None:
                self._failing_since = self._alive_at

    @contextmanager
    def long_step(self) -> Iterator[None]:
        """Something that takes as long as it takes, and gives no sign meanwhile."""
        with self._lock:
            self._n_long += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_long -= 1
                self._alive_at = self._clock()

    def ill(self) -> str | None:
        """One line that says why, None for a process that is well."""
        with self._lock:
            now = self._clock()
            if self._failing_since is not None and now - self._failing_since > self._limit_s:
                return f"failing for {now - self._failing_since:.0f} s: {' '.join(self._reason.split())}"
            if not self._n_long and now - self._alive_at > self._limit_s:
                return f"no sign of life for {now - self._alive_at:.0f} s"
            return None
