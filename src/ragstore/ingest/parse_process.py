"""Pool of child processes that parse files: start, requests, limits of time and memory, causes of death."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NoReturn, Self

import orjson

from ragstore.errors import (
    ContentError,
    LimitExceededError,
    ParseError,
    RagstoreError,
    UnreadableError,
    UnsupportedTypeError,
    UsageError,
)
from ragstore.ingest.parse_child import LENGTH, frame
from ragstore.model.chunk import Chunk, ParsedDocument
from ragstore.model.collection import Chunking
from ragstore.model.document import SourceItem
from ragstore.sources import Bounds
from ragstore.sources.file_bytes import content_hash_of, open_regular
from ragstore.sources.formats import CHOSEN, format_named
from ragstore.sources.raw import DETECTED, Choices

_START_TIMEOUT_S = 120.0
_JOIN_S = 10.0
_READ_BYTES = 1024 * 1024
_STDERR_TAIL_BYTES = 1000
_ERRORS = {error.code: error for error in ContentError.__subclasses__()}

# Variables that a parser needs to run; the passwords of the databases are not among them.
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
)

_Job = tuple[SourceItem, Future[ParsedDocument]]


class ParserPool:
    """Child processes, each parsing one file at a time; a child that died or was killed is replaced.

    The first child starts with the first file, further ones by ``add_child``.

    Args:
        bounds: files that may be read.
        choices: what the deployment has decided about reading.
        timeout_s: seconds one file may take.
        memory_mb: memory that one file may take, in addition to the memory of an idle child.
        n_children: most children that run at the same time.
    """

    def __init__(
        self,
        *,
        chunking: Chunking,
        bounds: Bounds,
        timeout_s: float,
        memory_mb: int,
        choices: Choices = DETECTED,
        n_children: int = 1,
    ) -> None:
        self._limits = ParseLimits(chunking, bounds, choices, timeout_s, memory_mb)
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

    def submit(self, item: SourceItem) -> Future[ParsedDocument]:
        """Read and split one file in the background; the future raises what ``parse`` raises."""
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
            item, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                document = process.parse(item)
            except BaseException as error:  # edge of the thread: the waiting thread gets the error
                future.set_exception(error)
            else:
                future.set_result(document)
        process.close()


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """Chunking, bounds and limits that every child is started with."""

    chunking: Chunking
    bounds: Bounds
    choices: Choices
    timeout_s: float
    memory_mb: int


class ParseProcess:
    """One child process, replaced when it dies; used by one thread, may be closed by any thread."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._child: _Child | None = None
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
            self._child = _Child(self._limits)

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

    def parse(self, item: SourceItem) -> ParsedDocument:
        """Read and split one file; raises as ``ParserPool.parse``."""
        try:
            answer = self._ask(item)
        except (UnreadableError, UnsupportedTypeError) as refused:
            raise type(refused)(
                f"{item.document_id} {refused.message}", hint=refused.hint, **refused.facts
            ) from refused
        if error := answer.get("error"):
            kind = _ERRORS[error["code"]]
            raise kind(f"{item.document_id} {error['message']}", hint=error["hint"], **error["facts"])
        document = answer["document"]
        chunks = [
            Chunk(text, start, end, tuple(titles), place) for text, start, end, titles, place in document["chunks"]
        ]
        return ParsedDocument(**{**document, "chunks": chunks})

    def _ask(self, item: SourceItem) -> dict[str, Any]:
        """The child's answer; asks a new child again if files before this one may be the cause of a failure."""
        child = self._ready_child()
        used = child.n_answers > 0
        try:
            with open_regular(item.source_uri, self._limits.bounds) as file, self._openable(item, file) as fd:
                answer = child.ask({"source_uri": item.source_uri}, fd, self._limits.timeout_s)
        except _NotAskedError:
            self._replace()
            return self._ask(item)
        except TimeoutError as error:
            self._replace()
            raise self._too_slow(item) from error
        except _DiedError as error:
            self._replace()
            self._raise_death(item, error)
        if answer.get("spent"):
            self._replace()
            return self._ask(item) if used else answer
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

    def _ready_child(self) -> _Child:
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

    def _too_slow(self, item: SourceItem) -> LimitExceededError:
        return LimitExceededError(
            f"{item.document_id} took longer than {self._limits.timeout_s:g} s to be read",
            hint="raise RAGSTORE_PARSE_TIMEOUT_S, or split the file",
            timeout_s=self._limits.timeout_s,
        )

    def _raise_death(self, item: SourceItem, death: _DiedError) -> NoReturn:
        by = _signal_name(death.returncode)
        if death.returncode == -signal.SIGALRM:
            raise self._too_slow(item) from death
        if death.returncode == -signal.SIGKILL:
            raise LimitExceededError(
                f"{item.document_id}: its reader was killed, as the system does when memory runs out",
                hint="lower RAGSTORE_PARSE_MEMORY_MB below what the machine has free, or split the file",
                signal=by,
            ) from death
        raise ParseError(
            f"{item.document_id}: its reader crashed ({by})",
            hint="save the file anew, or raise RAGSTORE_PARSE_MEMORY_MB if it is large",
            signal=by,
        ) from death


class _Child:
    """One running child process."""

    def __init__(self, limits: ParseLimits) -> None:
        options = {
            "parent_pid": os.getpid(),
            "chunk_size": limits.chunking.chunk_size,
            "chunk_overlap": limits.chunking.chunk_overlap,
            "choices": asdict(limits.choices),
            "timeout_s": limits.timeout_s,
            "memory_mb": limits.memory_mb,
        }
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._requests, theirs = socket.socketpair()
        self.popen = subprocess.Popen(
            # -P: a module in the working folder, perhaps one of the documents, must not be imported.
            [sys.executable, "-P", "-m", "ragstore.ingest.parse_child", orjson.dumps(options).decode()],
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,
            bufsize=0,
        )
        theirs.close()
        assert self.popen.stdout
        self._replies = self.popen.stdout.fileno()
        os.set_blocking(self._replies, False)
        self._ready = False
        self.n_answers = 0

    def await_ready(self) -> None:
        """Wait until the child has imported its libraries.

        Raises:
            RagstoreError: it cannot start on this machine; no file is the cause.
        """
        if self._ready:
            return
        try:
            self._receive(_START_TIMEOUT_S)
        except (_DiedError, TimeoutError) as error:
            self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
            reason = self._stderr.read().decode(errors="replace").strip() or str(error)
            self.popen.kill()
            raise RagstoreError(
                f"the parser process does not start: {reason}", hint="check the installation with pip check"
            ) from error
        self._ready = True

    def ask(self, request: dict[str, Any], fd: int, timeout_s: float) -> dict[str, Any]:
        """Send a request with the descriptor of an open file and return the answer."""
        try:
            socket.send_fds(self._requests, [frame(request)], [fd])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _NotAskedError from error
        answer = self._receive(timeout_s)
        self.n_answers += 1
        return answer

    def close(self) -> None:
        """End the child at once and free its pipes; may be called more than once."""
        self.popen.kill()
        self.popen.wait()
        for stream in (self._requests, self.popen.stdout, self._stderr):
            if stream:
                stream.close()

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        buffer = bytearray()
        missing = LENGTH.size
        while missing > 0:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"no answer in {timeout_s:g} s")
            block = os.read(self._replies, _READ_BYTES)
            if not block:
                raise _DiedError(self.popen.wait())
            buffer += block
            if len(buffer) >= LENGTH.size:
                missing = LENGTH.size + LENGTH.unpack_from(buffer)[0] - len(buffer)
        answer: dict[str, Any] = orjson.loads(memoryview(buffer)[LENGTH.size :])
        return answer


class _NotAskedError(Exception):
    """The child had ended before it received the request."""


class _DiedError(Exception):
    """The child ended before it answered."""

    def __init__(self, returncode: int) -> None:
        super().__init__(returncode)
        self.returncode = returncode


def _signal_name(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
