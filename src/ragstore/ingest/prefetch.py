"""Prefetching of listings and of parsed files in threads, within a memory budget."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ragstore.errors import ContentError
from ragstore.ingest.container_reading import ContainerReading, Emit
from ragstore.ingest.parse_process import ParserPool
from ragstore.model.chunk import ParsedDocument
from ragstore.model.document import SourceItem

T = TypeVar("T")
MAX_PREFETCHED = 50_000
"""Most entries that wait: some 15 MB, independent of the size of the corpus."""

_AT_ONCE = 250
_AT_ONCE_S = 0.05
"""Entries are handed over in groups, which takes a tenth of the time; a slow listing hands over after this time."""

_POLL_S = 0.2


class PrefetchedListing(Generic[T]):
    """A listing that is iterated in a thread of its own, and counted.

    Args:
        giving_up: ends the iteration soon after it is set, also in the middle of a slow listing.
    """

    def __init__(self, listing: Iterable[T], *, giving_up: threading.Event | None = None) -> None:
        self.listed = 0
        self.bytes_listed = 0
        self.done = False
        self._listing = listing
        self._queue: queue.Queue[list[T] | BaseException | None] = queue.Queue(MAX_PREFETCHED // _AT_ONCE)
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
            # Any error of the listing must reach the thread that consumes it.
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


TICK_S = 0.25
_STARVED_S = 0.5
"""One more child is started after this much time was spent waiting for files to be read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A file or a member that was read, or the reason why it could not be.

    Args:
        n_bytes: bytes acquired from the memory budget; the receiver must release them.
        container: the reading that it belongs to, for a member, or that it ends, for the container itself.
    """

    item: SourceItem
    result: ParsedDocument | ContentError
    n_bytes: int
    container: ContainerReading | None = None

    @property
    def is_member(self) -> bool:
        return self.item.within is not None


ReadingOf = Callable[[SourceItem, Emit], ContainerReading]


def read_all(
    items: Iterable[SourceItem], parsers: ParserPool, budget: MemoryBudget, reading_of: ReadingOf | None = None
) -> Generator[Outcome | None, None, None]:
    """Outcomes in the order in which files are finished, so that a slow file delays no other one.

    None means that nothing came for a moment. The items are iterated in a thread of their own; closing this generator
    before its end stops the reading.

    Members of a container come before it, while it is being read.

    Args:
        reading_of: makes the reading of a file that may be a container; without it members are not handed on.

    Raises:
        any error of the items, and errors of the parsers that no file has caused.
    """
    feeder = _Feeder(items, parsers, budget, reading_of)
    starved_s = 0.0
    try:
        while not feeder.is_empty:
            begun_at = time.monotonic()
            outcome = feeder.next()
            starved_s += time.monotonic() - begun_at
            if starved_s > _STARVED_S:
                starved_s = 0.0
                parsers.add_child()
            yield outcome
    finally:
        feeder.close()


class _Feeder:
    """Thread that submits files to the parsers while the budget has room; ``next`` returns the outcomes."""

    def __init__(
        self,
        items: Iterable[SourceItem],
        parsers: ParserPool,
        budget: MemoryBudget,
        reading_of: ReadingOf | None = None,
    ) -> None:
        self._items = items
        self._parsers = parsers
        self._budget = budget
        self._reading_of = reading_of
        self._waiting: dict[Future[ParsedDocument], None] = {}
        self._reserved: dict[str, int] = {}
        self._n_fed: int | None = None
        self._n_got = 0
        self._done: SimpleQueue[Outcome | BaseException | int] = SimpleQueue()
        self._thread = threading.Thread(target=self._feed, name="ragstore-feeder", daemon=True)
        self._thread.start()

    @property
    def is_empty(self) -> bool:
        """Whether all outcomes were returned."""
        return self._n_got == self._n_fed

    def next(self) -> Outcome | None:
        """The next outcome, None if there was none for a moment."""
        try:
            done = self._done.get(timeout=TICK_S)
        except Empty:
            return None
        if isinstance(done, BaseException):
            raise done
        if isinstance(done, Outcome):
            self._n_got += not done.is_member
            return done
        self._n_fed = done
        return None

    def close(self) -> None:
        """End the thread, and cancel the files that the parsers have not begun."""
        if self._n_fed is None:
            self._budget.giving_up.set()
        for future in list(self._waiting):
            future.cancel()
        self._thread.join()

    def _feed(self) -> None:
        n_fed = 0
        try:
            for item in self._items:
                acquired = self._budget.bytes_of_file(item.size)
                if not self._budget.acquire(acquired):
                    break
                self._reserved[item.document_id] = acquired
                reading = self._reading_of(item, self._emit) if self._reading_of else None
                future = self._parsers.submit(item, reading)
                self._waiting[future] = None
                n_fed += 1
                future.add_done_callback(partial(self._finish, item, reading))
            self._done.put(n_fed)
        except BaseException as error:
            # Any error of the listing or the planner must reach the thread that consumes the outcomes.
            self._done.put(error)
        finally:
            if isinstance(self._items, Generator):
                self._items.close()

    def _emit(self, reading: ContainerReading, member: SourceItem, read: ParsedDocument | ContentError) -> bool:
        """Called in the thread that reads the container; waits until there is room for the member."""
        # Its members are held one by one, the container itself is not.
        self._budget.resize(self._unreserved(reading.item), 0)
        n_bytes = self._budget.bytes_of_document(read) if isinstance(read, ParsedDocument) else 0
        if not self._budget.acquire_read(n_bytes):
            return False
        self._done.put(Outcome(member, read, n_bytes, reading))
        return True

    def _unreserved(self, item: SourceItem) -> int:
        """Bytes that were acquired for a file before it was read and that it has no more, the first time."""
        return self._reserved.pop(item.document_id, 0)

    def _finish(self, item: SourceItem, reading: ContainerReading | None, future: Future[ParsedDocument]) -> None:
        """Called in the thread that read the file."""
        acquired = self._unreserved(item)
        self._waiting.pop(future, None)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, ContentError):
            self._done.put(error)
            return
        result = future.result() if error is None else error
        now = self._budget.bytes_of_document(result) if isinstance(result, ParsedDocument) else 0
        self._budget.resize(acquired, now)
        self._done.put(Outcome(item, result, now, reading if reading and reading.is_container else None))


_COPIES_OF_TEXT = 4
"""Copies of a text at the same time: in the chunk, the row, MongoDB's document and a buffer."""

_PER_CHUNK_BYTES = 6_000
"""Size of a node without text and vector, as Python objects and as bytes."""

_COPIES_OF_VECTOR = 4
_VALUE_BYTES = 4
_CHARS_OF_CHUNK = 700
_AT_LEAST_BYTES = 4_096
_MAX_UNREAD = 256
"""Most files that wait to be read: a file that was listed long ago may have changed."""


class MemoryBudget:
    """Budget of memory for documents that are read and not yet stored; a reader waits until there is room.

    A document that is larger than the budget is processed alone.

    Args:
        n_bytes: memory of all these documents together, about.
        dim: length of the collection's vectors.
        giving_up: ends all waiting.
    """

    def __init__(self, n_bytes: int, *, dim: int, giving_up: threading.Event) -> None:
        self.n_bytes = n_bytes
        self._per_chunk = _PER_CHUNK_BYTES + _COPIES_OF_VECTOR * _VALUE_BYTES * dim
        self.giving_up = giving_up
        self._changed = threading.Condition()
        self._acquired = 0
        self._read = 0
        self.peak_bytes = 0

    def bytes_of_file(self, size: int) -> int:
        """Bytes to acquire for a file that is not yet read, as if all of it were text."""
        return max(self.n_bytes // _MAX_UNREAD, size * (_COPIES_OF_TEXT + self._per_chunk // _CHARS_OF_CHUNK))

    def bytes_of_document(self, document: ParsedDocument) -> int:
        """Bytes that a document takes until it is stored."""
        return _AT_LEAST_BYTES + document.n_chars * _COPIES_OF_TEXT + len(document.chunks) * self._per_chunk

    def acquire(self, n_bytes: int) -> bool:
        """Wait for room and acquire it; False if the ingest gives up."""
        with self._changed:
            while self._acquired and self._acquired + n_bytes > self.n_bytes:
                self._changed.wait(_POLL_S)
                if self.giving_up.is_set():
                    return False
            self._add(n_bytes)
        return not self.giving_up.is_set()

    def acquire_read(self, n_bytes: int) -> bool:
        """Wait for room for a member that was read and acquire it; False if the ingest gives up.

        Only what was read counts: files that wait for the reader of the container would wait for ever.
        """
        with self._changed:
            while self._read and self._read + n_bytes > self.n_bytes:
                self._changed.wait(_POLL_S)
                if self.giving_up.is_set():
                    return False
            self._read += n_bytes
            self._add(n_bytes)
        return not self.giving_up.is_set()

    def resize(self, acquired: int, now: int) -> None:
        """Change the amount of a document to its size ``now``, which is known once it is read, without waiting."""
        with self._changed:
            self._read += now
            self._add(now - acquired)

    def release(self, n_bytes: int) -> None:
        with self._changed:
            self._read -= n_bytes
            self._add(-n_bytes)

    def _add(self, n_bytes: int) -> None:
        self._acquired += n_bytes
        self.peak_bytes = max(self.peak_bytes, self._acquired)
        if n_bytes < 0:
            self._changed.notify_all()
