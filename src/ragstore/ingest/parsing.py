"""Parsing in child processes, so that no file can hang, crash or fill the program."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from ragstore.errors import ContentError, UsageError
from ragstore.ingest.parse_process import ParseLimits, ParseProcess
from ragstore.model.chunk import ParsedDocument
from ragstore.model.collection import Chunking
from ragstore.model.document import SourceItem
from ragstore.sources import Bounds
from ragstore.sources.opening import content_hash_of

_JOIN_S = 10.0

_Job = tuple[SourceItem, Future[ParsedDocument]]


class ParserPool:
    """Child processes that parse files one at a time each; one that died or was killed is replaced.

    The first starts with the first file, further ones when they are asked for.

    Args:
        bounds: what may be read; the children check it again.
        timeout_s: seconds one file may take.
        memory_mb: memory one file may take, beyond what the child takes empty.
        n_children: at most.
    """

    def __init__(
        self, *, chunking: Chunking, bounds: Bounds, timeout_s: float, memory_mb: int, n_children: int = 1
    ) -> None:
        self._limits = ParseLimits(chunking, bounds, timeout_s, memory_mb)
        self._n_children = n_children
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._processes: list[ParseProcess] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: tuple[type[BaseException], BaseException, TracebackType] | None) -> None:
        self.close()

    def add_child(self) -> None:
        """Start one more child where files wait to be parsed and there may be one more."""
        with self._lock:
            if not self._closed and not self._jobs.empty():
                self._start()

    def _start(self) -> None:
        if len(self._threads) == self._n_children:
            return
        process = ParseProcess(self._limits)
        self._processes.append(process)
        # The kernel ends a child with the thread that started it, so each thread keeps its own.
        name = f"ragstore-parse-{len(self._threads)}"
        thread = threading.Thread(target=self._work, args=(process,), name=name, daemon=True)
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
        return self.submit(item).result()

    def submit(self, item: SourceItem) -> Future[ParsedDocument]:
        """The same, later: the future raises what ``parse`` raises."""
        future: Future[ParsedDocument] = Future()
        with self._lock:
            if self._closed:
                raise UsageError("this parser pool is closed", hint="make a new one")
            if not self._threads:
                self._start()
            self._jobs.put((item, future))
        return future

    def hash_only(self, item: SourceItem) -> str:
        """``content_hash`` of a file without parsing it.

        Raises:
            UnreadableError: its bytes cannot be had.
            UnsupportedTypeError: it is no regular file any more.
        """
        try:
            return content_hash_of(item.source_uri, self._limits.bounds)
        except ContentError as error:
            raise type(error)(f"{item.document_id} {error.message}", hint=error.hint, **error.facts) from error

    def _work(self, process: ParseProcess) -> None:
        """Body of one thread."""
        process.start()
        while job := self._jobs.get():
            item, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                document = process.parse(item)
            except BaseException as error:  # edge of the thread: whoever waits gets it
                future.set_exception(error)
            else:
                future.set_result(document)
        process.close()
