"""Runs a listing ahead of its consumer, so that the whole is known early and progress has an end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from ragstore.model.document import SourceItem

T = TypeVar("T")

MAX_AHEAD = 50_000
"""Entries waiting at most: some 15 MB, whatever the size of the corpus."""

_AT_ONCE = 250
_AT_ONCE_S = 0.05
"""Entries are handed over together, which costs a tenth; of a slow listing as many as this time gives."""

_POLL_S = 0.2


class Ahead(Generic[T]):
    """Iterates a listing in a thread of its own; counts what it has seen.

    Args:
        giving_up: ends the iteration soon after it is set, also in the middle of a slow listing.
    """

    def __init__(self, listing: Iterable[T], *, giving_up: threading.Event | None = None) -> None:
        self.listed = 0
        self.bytes_listed = 0
        self.done = False
        self._listing = listing
        self._queue: queue.Queue[list[T] | BaseException | None] = queue.Queue(MAX_AHEAD // _AT_ONCE)
        self._stopped = threading.Event()
        self._giving_up = giving_up or threading.Event()

    def __iter__(self) -> Iterator[T]:
        thread = threading.Thread(target=self._list, name="ragstore-listing", daemon=True)
        thread.start()
        try:
            while (entries := self._get()) is not None:
                if isinstance(entries, BaseException):
                    raise entries
                yield from entries
        finally:
            self._stopped.set()
            thread.join()

    def _get(self) -> list[T] | BaseException | None:
        while True:
            try:
                return self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if self._giving_up.is_set():
                    return None

    def _list(self) -> None:
        entries: list[T] = []
        begun_at = time.monotonic()
        try:
            for entry in self._listing:
                self.listed += 1
                self.bytes_listed += entry.size if isinstance(entry, SourceItem) else 0
                entries.append(entry)
                if len(entries) == _AT_ONCE or time.monotonic() > begun_at + _AT_ONCE_S:
                    if not self._put(entries):
                        return
                    entries, begun_at = [], time.monotonic()
            self.done = True
            self._put(entries)
            self._put(None)
        except BaseException as error:
            # Whatever ends the listing must reach the thread that consumes it.
            self._put(entries)
            self._put(error)

    def _put(self, entries: list[T] | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(entries, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
