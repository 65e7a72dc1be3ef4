"""One running child process that parses files: its start, the requests to it, and its answers."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ragstore.errors import RagstoreError
from ragstore.ingest.parse_child import LENGTH, frame
from ragstore.model.collection import Chunking
from ragstore.sources import Bounds
from ragstore.sources.raw import Choices

_START_TIMEOUT_S = 120.0
_READ_BYTES = 1024 * 1024
_STDERR_TAIL_BYTES = 1000

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


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """Chunking, bounds and limits that every child is started with."""

    chunking: Chunking
    bounds: Bounds
    choices: Choices
    timeout_s: float
    memory_mb: int
    max_file_mb: int


class NotAskedError(Exception):
    """The child had ended before it received the request."""


class DiedError(Exception):
    """The child ended before it answered."""

    def __init__(self, returncode: int) -> None:
        super().__init__(returncode)
        self.returncode = returncode


class Child:
    """One running child process; used by one thread.

    Attributes:
        popen: its process.
        n_answers: frames that it has sent about files.
    """

    def __init__(self, limits: ParseLimits) -> None:
        options = {
            "parent_pid": os.getpid(),
            "chunk_size": limits.chunking.chunk_size,
            "chunk_overlap": limits.chunking.chunk_overlap,
            "choices": asdict(limits.choices),
            "timeout_s": limits.timeout_s,
            "memory_mb": limits.memory_mb,
            "max_file_mb": limits.max_file_mb,
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
        self._received = bytearray()
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
        except (DiedError, TimeoutError) as error:
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
            raise NotAskedError from error
        return self.next_answer(timeout_s)

    def next_answer(self, timeout_s: float) -> dict[str, Any]:
        """The next frame of the child about the file that it was asked for."""
        answer = self._receive(timeout_s)
        self.n_answers += 1
        return answer

    def tell(self, value: dict[str, Any]) -> None:
        """Answer a question of the child."""
        try:
            self._requests.sendall(frame(value))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise DiedError(self.popen.wait()) from error

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
        buffer = self._received
        while (end := _end_of_frame(buffer)) > len(buffer):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"no answer in {timeout_s:g} s")
            block = os.read(self._replies, _READ_BYTES)
            if not block:
                raise DiedError(self.popen.wait())
            buffer += block
        answer: dict[str, Any] = orjson.loads(bytes(buffer[LENGTH.size : end]))
        # A container's frames follow one another without being asked for.
        del buffer[:end]
        return answer


def _end_of_frame(buffer: bytearray) -> int:
    """Bytes of the frame that begins here; of its length alone while that is not known."""
    if len(buffer) < LENGTH.size:
        return LENGTH.size
    return LENGTH.size + int(LENGTH.unpack_from(buffer)[0])
