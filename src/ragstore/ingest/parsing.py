"""Parsing in child processes, so that no file can hang, crash or fill the program."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from ragstore.errors import ContentError, UsageError
from ragstore.ingest.parse_process import ParseLimits, ParseProcess
from ragstore.model.chunk import ParsedDocument
from ragstore.model.collection import Chunking
from ragstore.model.document import SourceItem
from ragstore.sources.opening import content_hash_of

_MAX_AHEAD = 256
_MAX_AHEAD_BYTES = 32 * 1024 * 1024
_JOIN_S = 10.0


class _Job:
    """One file to parse, and where its result goes."""

    def __init__(self, item: SourceItem) -> None:
        self.item = item
        self.future: Future[ParsedDocument] = Future()
        self.n_bytes = item.size


class ParserPool:
    """Child processes that parse files one at a time each; one that died or was killed is replaced.

    Args:
        timeout_s: seconds one file may take.
        memory_mb: memory one file may take, beyond what the child takes empty.
    """

    def __init__(self, *, chunking: Chunking, timeout_s: float, memory_mb: int, n_children: int = 1) -> None:
        self._limits = ParseLimits(chunking, timeout_s, memory_mb)
        self._n_children = n_children
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._processes: list[ParseProcess] = []
        self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: tuple[type[BaseException], BaseException, TracebackType] | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the children without waiting for them; otherwise the first file does it."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._closed:
            raise UsageError("this parser pool is closed", hint="make a new one")
        for number in range(len(self._threads), self._n_children):
            process = ParseProcess(self._limits)
            self._processes.append(process)
            # The kernel ends a child with the thread that started it, so each thread keeps its own.
            thread = threading.Thread(target=self._work, args=(process,), name=f"ragstore-parse-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the children, also in the middle of a file."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for process in self._processes:
            process.interrupt()
        for thread in threads:
            thread.join(_JOIN_S)

    def parse(self, item: SourceItem) -> ParsedDocument:
        """Read and cut one file.

        Raises:
            UnreadableError: its bytes cannot be had.
            UnsupportedTypeError: no reader for them.
            ParseError: the reader failed on them, or crashed.
            LimitExceededError: it took too long or too much memory.
        """
        return self._submit(item).future.result()

    def parse_all(self, items: Iterable[SourceItem]) -> Iterator[tuple[SourceItem, ParsedDocument | ContentError]]:
        """Outcomes in the order of the items, parsed ahead of their use but never far: 256 files or 32 MB."""
        ahead: deque[_Job] = deque()
        source = iter(items)
        upcoming = next(source, None)
        try:
            while ahead or upcoming:
                upcoming = self._fill(ahead, upcoming, source)
                job = ahead.popleft()
                outcome = _outcome(job)
                # Before the consumer goes to work, so that the children work beside it.
                upcoming = self._fill(ahead, upcoming, source)
                yield job.item, outcome
        finally:
            for job in ahead:
                job.future.cancel()

    def hash_only(self, item: SourceItem) -> str:
        """``content_hash`` of a file without parsing it.

        Raises:
            UnreadableError: its bytes cannot be had.
            UnsupportedTypeError: it is no regular file any more.
        """
        try:
            return content_hash_of(item.source_uri)
        except ContentError as error:
            raise type(error)(f"{item.document_id} {error.message}", hint=error.hint, **error.facts) from error

    def _fill(self, ahead: deque[_Job], upcoming: SourceItem | None, source: Iterator[SourceItem]) -> SourceItem | None:
        """Submit while there is room, at least one; returns the first that did not fit."""
        n_bytes = sum(job.n_bytes for job in ahead)
        while upcoming and (not ahead or (len(ahead) < _MAX_AHEAD and n_bytes + upcoming.size <= _MAX_AHEAD_BYTES)):
            ahead.append(self._submit(upcoming))
            n_bytes += upcoming.size
            upcoming = next(source, None)
        return upcoming

    def _submit(self, item: SourceItem) -> _Job:
        job = _Job(item)
        with self._lock:
            self._start()
            self._jobs.put(job)
        return job

    def _work(self, process: ParseProcess) -> None:
        """Body of one thread."""
        process.start()
        while job := self._jobs.get():
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                document, n_bytes = process.parse(job.item)
            except BaseException as error:  # edge of the thread: whoever waits gets it
                job.future.set_exception(error)
            else:
                job.n_bytes = max(job.n_bytes, n_bytes)
                job.future.set_result(document)
        process.close()


def _outcome(job: _Job) -> ParsedDocument | ContentError:
    try:
        return job.future.result()
    except ContentError as error:
        return error
