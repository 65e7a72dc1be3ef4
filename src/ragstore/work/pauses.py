"""How long to wait after a failure, and how often to speak of it."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
TELL_AGAIN_S = 300.0


class Pauses:
    """Growing pauses: 1 s, 2 s, 4 s … 30 s, from the start again after a success."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def next_s(self) -> float:
        """The pause after one more failure."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_PAUSE_S)
        return pause_s

    def reset(self) -> None:
        """It works again."""
        self._next_s = FIRST_PAUSE_S


class Once:
    """Lets a message through when it is another one than the last, or that was long ago."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._message = ""
        self._told_at = 0.0

    def is_new(self, message: str) -> bool:
        """Whether this is worth a line."""
        now = self._clock()
        if message == self._message and now - self._told_at < TELL_AGAIN_S:
            return False
        self._message, self._told_at = message, now
        return True

    def reset(self) -> None:
        """What was told is over."""
        self._message = ""
