"""Recovery on a schedule, for processes that live long."""

from __future__ import annotations

import threading

from ragstore.errors import RagstoreError
from ragstore.protocol.recover import Recoverer
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)


class Caretaker:
    """One daemon thread that recovers and retires what has become due.

    Args:
        every_s: seconds between two rounds; once per lease finds every run that ran out soon enough.
    """

    def __init__(self, recoverer: Recoverer, *, every_s: float) -> None:
        self._recoverer = recoverer
        self._every_s = every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._go_round, name="ragstore-caretaker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End after the round under way."""
        self._closing.set()
        self._thread.join()

    def _go_round(self) -> None:
        while not self._closing.wait(self._every_s):
            try:
                self._recoverer.recover()
            except RagstoreError as error:
                # The next round does the same; meanwhile only garbage waits.
                _log.warning("recovery put off", action="recover_failed", error=str(error))
