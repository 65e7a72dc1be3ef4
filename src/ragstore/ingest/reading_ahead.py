"""Reads files ahead of their use, as far as memory allows, and hands each document over as soon as it is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from ragstore.errors import ContentError
from ragstore.ingest.memory import MemoryCeiling
from ragstore.ingest.parsing import ParserPool
from ragstore.model.chunk import ParsedDocument
from ragstore.model.document import SourceItem

TICK_S = 0.25
_STARVED_S = 0.5
"""Time spent waiting for files to be read after which one more child reads them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A file that was read, or why not.

    Args:
        n_bytes: what it holds of the ceiling, to be given back by whoever takes it.
    """

    item: SourceItem
    result: ParsedDocument | ContentError
    n_bytes: int


def read_all(
    items: Iterable[SourceItem], parsers: ParserPool, ceiling: MemoryCeiling
) -> Generator[Outcome | None, None, None]:
    """Outcomes as they come, whatever the order of the items, so that a slow file holds up none but itself.

    None says that nothing came for a moment. The items are iterated in a thread of their own; closing this generator
    before its end gives up.

    Raises:
        whatever the items raise, and errors of the parsers that no file is to blame for.
    """
    feeder = _Feeder(items, parsers, ceiling)
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
    """One thread that gives the parsers files as there is room; what they make of them comes out of ``get``."""

    def __init__(self, items: Iterable[SourceItem], parsers: ParserPool, ceiling: MemoryCeiling) -> None:
        self._items = items
        self._parsers = parsers
        self._ceiling = ceiling
        self._waiting: dict[Future[ParsedDocument], None] = {}
        self._n_fed: int | None = None
        self._n_got = 0
        self._done: SimpleQueue[Outcome | BaseException | int] = SimpleQueue()
        self._thread = threading.Thread(target=self._feed, name="ragstore-feeder", daemon=True)
        self._thread.start()

    @property
    def is_empty(self) -> bool:
        """Whether nothing more will come."""
        return self._n_got == self._n_fed

    def next(self) -> Outcome | None:
        """The next outcome, None where there was none for a moment."""
        try:
            done = self._done.get(timeout=TICK_S)
        except Empty:
            return None
        if isinstance(done, BaseException):
            raise done
        if isinstance(done, Outcome):
            self._n_got += 1
            return done
        self._n_fed = done
        return None

    def close(self) -> None:
        """End the thread, and let the parsers forget what they have not begun."""
        if self._n_fed is None:
            self._ceiling.giving_up.set()
        for future in list(self._waiting):
            future.cancel()
        self._thread.join()

    def _feed(self) -> None:
        n_fed = 0
        try:
            for item in self._items:
                held = self._ceiling.of_file(item.size)
                if not self._ceiling.take(held):
                    break
                future = self._parsers.submit(item)
                self._waiting[future] = None
                n_fed += 1
                future.add_done_callback(partial(self._finish, item, held))
            self._done.put(n_fed)
        except BaseException as error:
            # Whatever ends the listing or the planning must reach the thread that consumes it.
            self._done.put(error)
        finally:
            if isinstance(self._items, Generator):
                self._items.close()

    def _finish(self, item: SourceItem, held: int, future: Future[ParsedDocument]) -> None:
        """Called in the thread that read the file."""
        self._waiting.pop(future, None)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, ContentError):
            self._done.put(error)
            return
        result = future.result() if error is None else error
        now = self._ceiling.of_document(result) if isinstance(result, ParsedDocument) else 0
        self._ceiling.change(held, now)
        self._done.put(Outcome(item, result, now))
