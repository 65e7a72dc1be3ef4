"""Work in a thread of its own, so that the main thread does nothing but wait and hear signals.

A signal is heard by the main thread between two steps of Python: not while a driver waits for a database, and what it
raises is lost where a callback of the garbage collector happens to run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Answer = TypeVar("Answer")

_ENDS_WITHIN_S = 20.0


class Beside:
    """One piece of work at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], Answer]) -> Answer:
        """What the work returns or raises; an interrupt leaves it alone, see ``wait``."""
        done: Future[Answer] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # edge of the thread: whoever waits gets it
                done.set_exception(error)

        self._thread = threading.Thread(target=run, name="ragstore-bench", daemon=True)
        self._thread.start()
        return done.result()

    def wait(self) -> None:
        """Until work that was left alone has failed, because what it works with was taken away."""
        if self._thread is not None:
            self._thread.join(_ENDS_WITHIN_S)
