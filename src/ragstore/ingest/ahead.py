"""Runs a listing ahead of its consumer, so that the whole is known early and progress has an end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from ragstore.model.document import SourceItem

T = TypeVar("T")

MAX_AHEAD = 50_000
"""Entries waiting at most: some 15 MB, whatever the size of the corpus."""

_POLL_S = 0.2


class Ahead(Generic[T]):
    """Iterates a listing in a thread of its own; counts what it has seen."""

    def __init__(self, listing: Iterable[T]) -> None:
        self.listed = 0
        self.bytes_listed = 0
        self.done = False
        self._listing = listing
        self._queue: queue.Queue[T | BaseException | None] = queue.Queue(MAX_AHEAD)
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[T]:
        thread = threading.Thread(target=self._list, name="ragstore-listing", daemon=True)
        thread.start()
        try:
            while (entry := self._queue.get()) is not None:
                if isinstance(entry, BaseException):
                    raise entry
                yield entry
        finally:
            self._stopped.set()
            thread.join()

    def _list(self) -> None:
        try:
            for entry in self._listing:
                self.listed += 1
                self.bytes_listed += entry.size if isinstance(entry, SourceItem) else 0
                if not self._put(entry):
                    return
            self.done = True
            self._put(None)
        except BaseException as error:
            # Whatever ends the listing must reach the thread that consumes it.
            self._put(error)

    def _put(self, entry: T | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
