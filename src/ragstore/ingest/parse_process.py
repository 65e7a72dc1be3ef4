"""Pool of child processes that parse files: who parses what, limits of time and memory, causes of death."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self

from ragstore.errors import (
    ContentError,
    LimitExceededError,
    ParseError,
    RagstoreError,
    UnreadableError,
    UnsupportedTypeError,
    UsageError,
)
from ragstore.ingest.parse_connection import Child, DiedError, NotAskedError, ParseLimits
from ragstore.model.chunk import Chunk, ParsedDocument
from ragstore.model.collection import Chunking
from ragstore.model.document import SourceItem
from ragstore.sources import Bounds
from ragstore.sources.file_bytes import content_hash_of, open_regular
from ragstore.sources.formats import CHOSEN, format_named
from ragstore.sources.raw import DETECTED, Choices

_JOIN_S = 10.0
_READ_BYTES = 1024 * 1024
_ERRORS = {error.code: error for error in ContentError.__subclasses__()}

MAX_LOST_MEMBERS = 20
"""A container is set aside after so many of its members took too long, or made the reader crash."""


class Members(Protocol):
    """Receiver of the members of one container, as they are read."""

    def known(self) -> list[str]:
        """The keys (``member_key``) of members that need not be read again."""

    def add(self, member: SourceItem, container_id: str, read: ParsedDocument | ContentError | None) -> None:
        """Take a member, or why it could not be read, or None for one that is known; waits for room."""


class NoMembers:
    """Receiver of a reading that only concerns a file itself."""

    def known(self) -> list[str]:
        return []

    def add(self, member: SourceItem, container_id: str, read: ParsedDocument | ContentError | None) -> None:
        pass


_Job = tuple[SourceItem, Members, Future[ParsedDocument]]


class ParserPool:
    """Child processes, each parsing one file at a time; a child that died or was killed is replaced.

    The first child starts with the first file, further ones by ``add_child``.

    Args:
        bounds: files that may be read.
        choices: what the deployment has decided about reading.
        timeout_s: seconds one file, or one member of a container, may take.
        memory_mb: memory that one file may take, in addition to the memory of an idle child.
        max_file_mb: largest member of a container that is read.
        n_children: most children that run at the same time.
    """

    def __init__(  # noqa: PLR0913 - one argument per limit
        self,
        *,
        chunking: Chunking,
        bounds: Bounds,
        timeout_s: float,
        memory_mb: int,
        max_file_mb: int = 64,
        choices: Choices = DETECTED,
        n_children: int = 1,
    ) -> None:
        self._limits = ParseLimits(chunking, bounds, choices, timeout_s, memory_mb, max_file_mb)
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
        """Start one more child if files are waiting and the pool is not full."""
        with self._lock:
            if not self._closed and not self._jobs.empty():
                self._start()

    def _start(self) -> None:
        if len(self._threads) == self._n_children:
            return
        process = ParseProcess(self._limits)
        self._processes.append(process)
        # The kernel ends a child when the thread that started it ends, so each thread keeps its own child.
        name = f"ragstore-parse-{len(self._threads)}"
        thread = threading.Thread(target=self._work, args=(process,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """End the children, even in the middle of a file."""
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
        """Read and split one file.

        Raises:
            UnreadableError: its bytes cannot be read.
            UnsupportedTypeError: there is no reader for them.
            ParseError: the reader failed on them, or crashed.
            LimitExceededError: it took too long or too much memory.
        """
        return self.submit(item).result()

    def submit(self, item: SourceItem, members: Members | None = None) -> Future[ParsedDocument]:
        """Read and split one file in the background; the future raises what ``parse`` raises.

        Args:
            members: is given the members of a container, from the thread that reads, before the future has a result.
        """
        future: Future[ParsedDocument] = Future()
        with self._lock:
            if self._closed:
                raise UsageError("this parser pool is closed", hint="make a new one")
            if not self._threads:
                self._start()
            self._jobs.put((item, members or NoMembers(), future))
        return future

    def hash_only(self, item: SourceItem) -> str:
        """``content_hash`` of a file without parsing it.

        Raises:
            UnreadableError: its bytes cannot be read.
            UnsupportedTypeError: it is not a regular file any more.
        """
        try:
            return content_hash_of(item.source_uri, self._limits.bounds)
        except ContentError as error:
            raise type(error)(f"{item.document_id} {error.message}", hint=error.hint, **error.facts) from error

    def _work(self, process: ParseProcess) -> None:
        """Parse files in one thread until the pool is closed."""
        process.start()
        while job := self._jobs.get():
            item, members, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                document = process.parse(item, members)
            except BaseException as error:  # edge of the thread: the waiting thread gets the error
                future.set_exception(error)
            else:
                future.set_result(document)
        process.close()


class ParseProcess:
    """One child process, replaced when it dies; used by one thread, may be closed by any thread."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the current child, None before the first start."""
        child = self._child
        return child.popen.pid if child else None

    def start(self) -> None:
        """Start a child if none is running, without waiting for it."""
        with self._lock:
            if self._closed or (self._child and self._child.popen.poll() is None):
                return
            if self._child:
                self._child.close()
            self._child = Child(self._limits)

    def interrupt(self) -> None:
        """End the child now and start no other one; any thread may call it."""
        with self._lock:
            self._closed = True
            if self._child:
                self._child.popen.kill()

    def close(self) -> None:
        """End the child as ``interrupt`` does and free its pipes; only for the thread that uses it."""
        self.interrupt()
        if self._child:
            self._child.close()

    def parse(self, item: SourceItem, members: Members) -> ParsedDocument:
        """Read and split one file and its members; raises as ``ParserPool.parse``."""
        start = n_lost = 0
        while True:
            try:
                answer = self._ask(item, members, start)
            except (UnreadableError, UnsupportedTypeError) as refused:
                raise type(refused)(
                    f"{item.document_id} {refused.message}", hint=refused.hint, **refused.facts
                ) from refused
            except _MemberLostError as lost:
                # The others go on, in a new child.
                start, n_lost = lost.n + 1, n_lost + 1
                members.add(
                    SourceItem(lost.document_id, item.source_uri, 0, item.mtime_ns, within=item), "", lost.error
                )
                if n_lost < MAX_LOST_MEMBERS:
                    continue
                raise LimitExceededError(
                    f"{item.document_id}: {n_lost} of its members took too long, or crashed the reader",
                    hint="unpack it, and name the folder instead",
                ) from lost
            if error := answer.get("error"):
                raise _told(item.document_id, error)
            return _document(answer["document"])

    def _ask(self, item: SourceItem, members: Members, start: int) -> dict[str, Any]:
        """The child's last answer; asks a new child again if files before this one may be the cause of a failure.

        Raises:
            _MemberLostError: a member of the container ended the child.
        """
        child = self._ready_child()
        used = child.n_answers > 0
        reading = _Reading(item, members)
        try:
            with open_regular(item.source_uri, self._limits.bounds) as file, self._openable(item, file) as fd:
                request = {"source_uri": item.source_uri, "document_id": item.document_id, "start": start}
                answer = child.ask(request, fd, self._limits.timeout_s)
                while not ("document" in answer and "member" not in answer) and (
                    "member" in answer or "error" not in answer
                ):
                    reading.take(answer, child)
                    answer = child.next_answer(self._limits.timeout_s)
        except NotAskedError:
            self._replace()
            return self._ask(item, members, start)
        except TimeoutError as error:
            self._replace()
            raise reading.blamed(self._too_slow(reading.document_id)) from error
        except DiedError as error:
            self._replace()
            raise reading.blamed(self._cause_of_death(reading.document_id, error)) from error
        if answer.get("spent"):
            self._replace()
            if reading.n is not None:
                raise reading.blamed(_told(reading.document_id, answer["error"]))
            return self._ask(item, members, start) if used and not reading.is_container else answer
        return answer

    @contextmanager
    def _openable(self, item: SourceItem, fd: int) -> Iterator[int]:
        """The open file; for a reader of the deployment's choice a copy in memory, which alone the child can open."""
        if format_named(item.source_uri, self._limits.choices) != CHOSEN or not hasattr(os, "memfd_create"):
            yield fd
            return
        copy = os.memfd_create("document", os.MFD_CLOEXEC)
        try:
            while block := os.read(fd, _READ_BYTES):
                os.write(copy, block)
            os.lseek(copy, 0, os.SEEK_SET)
            yield copy
        finally:
            os.close(copy)

    def _ready_child(self) -> Child:
        """A child that is ready for a request, started if needed."""
        self.start()
        child = self._child
        if child is None or self._closed:
            raise RagstoreError("the parser was closed", hint="run the same command again")
        child.await_ready()
        return child

    def _replace(self) -> None:
        if self._child:
            self._child.popen.kill()
            self._child.popen.wait()
        self.start()

    def _too_slow(self, document_id: str) -> LimitExceededError:
        return LimitExceededError(
            f"{document_id} took longer than {self._limits.timeout_s:g} s to be read",
            hint="raise RAGSTORE_PARSE_TIMEOUT_S, or split the file",
            timeout_s=self._limits.timeout_s,
        )

    def _cause_of_death(self, document_id: str, death: DiedError) -> ContentError:
        by = _signal_name(death.returncode)
        if death.returncode == -signal.SIGALRM:
            return self._too_slow(document_id)
        if death.returncode == -signal.SIGKILL:
            return LimitExceededError(
                f"{document_id}: its reader was killed, as the system does when memory runs out",
                hint="lower RAGSTORE_PARSE_MEMORY_MB below what the machine has free, or split the file",
                signal=by,
            )
        return ParseError(
            f"{document_id}: its reader crashed ({by})",
            hint="save the file anew, or raise RAGSTORE_PARSE_MEMORY_MB if it is large",
            signal=by,
        )


class _Reading:
    """What a child has said of one file so far, and which of its members it is reading."""

    def __init__(self, item: SourceItem, members: Members) -> None:
        self._item = item
        self._members = members
        self.document_id = item.document_id
        self.n: int | None = None
        self.is_container = False

    def take(self, answer: dict[str, Any], child: Child) -> None:
        """Pass a member on, or answer the child's question."""
        if answer.get("container"):
            self.is_container = True
            child.tell({"known": self._members.known()})
        elif "reading" in answer:
            self.n, self.document_id = answer["reading"], answer["document_id"]
        else:
            self.n, self.document_id = None, self._item.document_id
            self._pass_on(answer)

    def _pass_on(self, answer: dict[str, Any]) -> None:
        told = answer["member"]
        item = SourceItem(
            told["document_id"], self._item.source_uri, told["size"], self._item.mtime_ns, within=self._item
        )
        read: ParsedDocument | ContentError | None = None
        if "error" in answer:
            read = _told(item.document_id, answer["error"])
        elif "document" in answer:
            read = _document(answer["document"])
        self._members.add(item, told["container"], read)

    def blamed(self, error: ContentError) -> Exception:
        """The error itself, or if a member is its cause, one that names the member."""
        return error if self.n is None else _MemberLostError(self.n, self.document_id, error)


class _MemberLostError(Exception):
    """A member of a container ended the child that read it."""

    def __init__(self, n: int, document_id: str, error: ContentError) -> None:
        super().__init__(n, document_id, error)
        self.n = n
        self.document_id = document_id
        self.error = error


def _told(document_id: str, error: dict[str, Any]) -> ContentError:
    kind = _ERRORS[error["code"]]
    return kind(f"{document_id} {error['message']}", hint=error["hint"], **error["facts"])


def _document(told: dict[str, Any]) -> ParsedDocument:
    chunks = [Chunk(text, start, end, tuple(titles), place) for text, start, end, titles, place in told["chunks"]]
    return ParsedDocument(**{**told, "chunks": chunks})


def _signal_name(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
