"""Asking a store that may never answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ragstore.errors import StoreError, StoreUnavailableError

T = TypeVar("T")


class Impatient(Generic[T]):
    """Asks in a thread of its own, and waits for the answer no longer than it says.

    A database that was stopped in the middle of an answer holds its clients for as long as it stays so; no time-out of
    a statement helps, because it is the server that keeps it.
    """

    def __init__(self, ask: Callable[[], T], *, within_s: float) -> None:
        self._ask = ask
        self._within_s = within_s
        self._asking = threading.Lock()

    def __call__(self) -> T:
        """The answer.

        Raises:
            StoreError: what asking raised, or that there was no answer in time, now or to the question before.
        """
        if not self._asking.acquire(timeout=self._within_s):
            raise self._too_late()
        answers: queue.SimpleQueue[T | StoreError] = queue.SimpleQueue()
        threading.Thread(target=self._put_answer, args=(answers,), name="ragstore-look", daemon=True).start()
        try:
            answer = answers.get(timeout=self._within_s)
        except queue.Empty:
            raise self._too_late() from None
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def _put_answer(self, answers: queue.SimpleQueue[T | StoreError]) -> None:
        try:
            answers.put(self._ask())
        except StoreError as error:
            answers.put(error)
        finally:
            self._asking.release()

    def _too_late(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"no answer within {self._within_s:g} s", hint="see 'ragstore status'; the server may be stopped"
        )
