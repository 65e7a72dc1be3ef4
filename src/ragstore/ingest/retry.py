"""Retry of work that fails for a passing cause, so that a restart of a database does not end a long ingest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from ragstore.errors import ProtocolError, Retry, StoreError

T = TypeVar("T")

WAIT_FOR_STORES_S = 60.0
"""A database that restarts is back within seconds; after this time the ingest ends, and a later one continues."""


def retry_transient(work: Callable[[], T], *, giving_up: threading.Event | None = None) -> T:
    """Call ``work`` again, for a minute, while it fails with a retryable error; then raise the last error.

    Args:
        giving_up: ends the waiting at once when it is set; for a thread that other threads wait for.
    """
    ending = giving_up or threading.Event()
    retrying = Retrying(
        retry=retry_if_exception(_passes_by_itself),
        wait=wait_random_exponential(multiplier=0.2, max=5.0),
        stop=stop_after_delay(WAIT_FOR_STORES_S) | stop_when_event_set(ending),
        sleep=sleep_using_event(ending),
        reraise=True,
    )
    return retrying(work)


def _passes_by_itself(error: BaseException) -> bool:
    return isinstance(error, (StoreError, ProtocolError)) and error.retry is Retry.LATER
