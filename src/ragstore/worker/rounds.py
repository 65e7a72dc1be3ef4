"""Endless loop of rounds that survives database failures, with its pauses and its logging of repeated errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ragstore.errors import ContentError, MassDeletionError, RagstoreError, Retry
from ragstore.telemetry.logging import get_logger
from ragstore.worker.health import Health

_log = get_logger(__name__)

Outcome = Literal["changed", "idle", "refused", "failed", "standing_by"]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The outcome of a round, and the seconds until the next one."""

    outcome: Outcome
    pause_s: float


class Watcher(Protocol):
    """Counter of rounds."""

    def passed(self, outcome: Outcome, seconds: float) -> None:
        """Count a round."""


class Rounds:
    """Runs rounds; a round is tried again if its error may pass by itself or can be repaired from outside.

    Args:
        every_s: seconds between two rounds.
        wait: sleeps; a signal that stops the process must be able to end it.
    """

    def __init__(
        self, *, every_s: float, health: Health, watcher: Watcher, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._every_s = every_s
        self._health = health
        self._watcher = watcher
        self._wait = wait
        self._backoff = Backoff()
        self._log_once = LogOnce()

    def run(self, go_round: Callable[[], RoundResult]) -> None:
        """Run rounds for ever.

        Raises:
            RagstoreError: an error that would come back in every round.
        """
        while True:
            self._wait(self.one(go_round))

    def one(self, go_round: Callable[[], RoundResult]) -> float:
        """Run one round; returns the seconds until the next. Raises as ``run``."""
        begun_at = time.monotonic()
        try:
            done = go_round()
        except MassDeletionError as error:
            # Added and updated documents stay, so the worker is useful until a person decides about the deletion.
            self._tell("deleted nothing", "sync_refused", error)
            done = RoundResult("refused", self._every_s)
        except RagstoreError as error:
            if error.retry is Retry.NEVER and not isinstance(error, ContentError):
                _log.error("gave up", action="gave_up", code=error.code, error=error.message, hint=error.hint)
                raise
            done = RoundResult("failed", self._backoff.next_s())
            self._health.failed(error.message)
            self._tell("failed, will try again", "failed", error)
        if done.outcome != "failed":
            self._backoff.reset()
            self._health.succeeded()
            if done.outcome != "refused":
                self._log_once.reset()
        self._watcher.passed(done.outcome, time.monotonic() - begun_at)
        return done.pause_s

    def _tell(self, message: str, action: str, error: RagstoreError) -> None:
        if self._log_once.is_new(f"{action} {error.code} {error.message}"):
            _log.warning(message, action=action, code=error.code, error=error.message, hint=error.hint)


FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
LOG_AGAIN_S = 300.0


class Backoff:
    """Growing pauses after failures: 1 s, 2 s, 4 s … 30 s; 1 s again after a success."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def next_s(self) -> float:
        """The pause after one more failure."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_PAUSE_S)
        return pause_s

    def reset(self) -> None:
        self._next_s = FIRST_PAUSE_S


class LogOnce:
    """Filter of log messages: a repeated message passes again only after ``LOG_AGAIN_S`` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._message = ""
        self._logged_at = 0.0

    def is_new(self, message: str) -> bool:
        """Whether the message differs from the last one, or that is old."""
        now = self._clock()
        if message == self._message and now - self._logged_at < LOG_AGAIN_S:
            return False
        self._message, self._logged_at = message, now
        return True

    def reset(self) -> None:
        """Forget the last message, because its cause is over."""
        self._message = ""
