"""Calls of a remote model: at a limited rate, and tried again while the cause may pass by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random,
    wait_random_exponential,
)

from ragstore.embedding.service import BadStatusError, Service
from ragstore.errors import ModelUnavailableError

T = TypeVar("T")

MAX_RETRY_AFTER_S = 120.0
"""A server that asks for more patience is given up on here; whoever holds the work tries it later."""

_SECONDS_PER_MINUTE = 60.0
_jitter = wait_random(0, 0.5)
_back_off = wait_random_exponential(multiplier=0.5, max=30)

_FAILURES = (httpx.HTTPError, httpx.InvalidURL, BadStatusError, OSError)
# What the client libraries stumble over when an answer is not of the shape they expect; all of them
# read it unchecked, some even take an error page for an answer.
_MISREADINGS = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How often a call is made.

    Args:
        max_retries: tries after the first.
        requests_per_minute: None is unlimited; retries count.
        sleep: waits so many seconds; a stop event's ``wait`` cuts the waiting short.
    """

    max_retries: int = 5
    requests_per_minute: int | None = None
    sleep: Callable[[float], object] = time.sleep


class Caller:
    """Makes calls of one service, from any number of threads.

    Args:
        failures: the client library's own exceptions.
    """

    def __init__(self, service: Service, policy: CallPolicy, failures: tuple[type[Exception], ...] = ()) -> None:
        self._service = service
        self._policy = policy
        self._failures = failures + _FAILURES + _MISREADINGS
        self._pace = _Pace(policy.requests_per_minute, policy.sleep)

    def call(self, request: Callable[[], T]) -> T:
        """What the request returns.

        Raises:
            ModelUnavailableError: still failing after the last retry, or the server asks for more patience
                than ``MAX_RETRY_AFTER_S``; ``facts`` has ``retry_after_s`` where it said so.
            ModelError: the same request would fail the same way.
        """
        retrying = Retrying(
            stop=stop_after_attempt(self._policy.max_retries + 1),
            wait=_wait_s,
            retry=retry_if_exception(_may_pass),
            sleep=self._sleep,
            reraise=True,
        )
        result: T = retrying(self._once, request)
        return result

    def _sleep(self, seconds: float) -> None:
        self._policy.sleep(seconds)

    def _once(self, request: Callable[[], T]) -> T:
        self._pace.wait_turn()
        try:
            return request()
        except self._failures as error:
            raise self._service.failure(error) from error


class _Pace:
    """Turns at an even distance, handed out to threads in the order they ask."""

    def __init__(self, requests_per_minute: int | None, sleep: Callable[[float], object]) -> None:
        self._distance_s = _SECONDS_PER_MINUTE / requests_per_minute if requests_per_minute else 0.0
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_turn = 0.0

    def wait_turn(self) -> None:
        if not self._distance_s:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + self._distance_s
        if turn > now:
            self._sleep(turn - now)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ModelUnavailableError) and (error.facts.get("retry_after_s") or 0) <= MAX_RETRY_AFTER_S


def _wait_s(state: RetryCallState) -> float:
    """What the server asked for and a little more, so that not all clients come back at once; else backs off."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ModelUnavailableError) and error.facts.get("retry_after_s") is not None:
        return float(error.facts["retry_after_s"]) + _jitter(state)
    return _back_off(state)
