"""Child process that reads and splits files, so that a hostile file can do harm only in this process.

Started as ``python -m ragstore.ingest.parse_child OPTIONS``. Requests arrive on stdin, which is a socket, and replies
leave on stdout. Both are frames: 8 bytes of length, big-endian, then JSON. The first frame sent says that the child
is ready; then it sends one frame for each frame that it receives. With each request comes the descriptor of the
file, opened by the parent: the child opens no file itself.

For a container it sends ``{"container": true}`` once it has listed it whole, and is told which of its members are
known; then ``{"reading": n, "document_id": ...}`` before and one frame after each member, and last, as for every
file, the document that the container itself is.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ragstore.errors import ContentError, LimitExceededError, ParseError, UnreadableError
from ragstore.ingest.splitting import split
from ragstore.model.chunk import Chunk
from ragstore.model.collection import Chunking
from ragstore.sources.bounds import read_path
from ragstore.sources.containers import Leaf, Walk, open_container
from ragstore.sources.file_bytes import content_hash, hash_open, read_open
from ragstore.sources.members import Container, Room
from ragstore.sources.raw import Choices, clean_text
from ragstore.sources.readers import ReadText, load_readers, read

LENGTH = struct.Struct(">Q")
MAX_CHUNKS = 100_000
"""Most chunks of one document: they take some hundred MB on their way to the stores."""

_MIB = 1024 * 1024
_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_MAX_OPEN = 64

# Of linux/landlock.h; the numbers are the same on every machine that Python has wheels for.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_BENEATH = 1
_ALL_RIGHTS = 2**13 - 1
_READ_RIGHTS = 0b1101  # execute, read a file, list a folder
_PR_SET_NO_NEW_PRIVS = 38
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")


def frame(value: Any) -> bytes:
    """Encode one message."""
    body = orjson.dumps(value)
    return LENGTH.pack(len(body)) + body


def main() -> None:
    """Answer requests until stdin ends."""
    options = orjson.loads(sys.argv[1])
    _die_with(options["parent_pid"])
    requests, replies = _own_pipes()
    choices = Choices(**options["choices"])
    load_readers(choices)
    limit = _MemoryLimit(options["memory_mb"])
    _silence()
    _bind()
    replies.write(frame({"ready": True}))
    replies.flush()
    chunking = Chunking(options["chunk_size"], options["chunk_overlap"])
    reader = _Reader(chunking, choices, limit, options["max_file_mb"] * _MIB, requests, replies)
    while request := _next_request(requests):
        # The parent enforces the time limit; this timer only matters if the parent has died.
        reader.timeout_s = options["timeout_s"] + _GRACE_S
        signal.setitimer(signal.ITIMER_REAL, reader.timeout_s)
        try:
            reply = reader.reply(request)
        except MemoryError:
            reply = b""
        finally:
            os.close(request.fd)
        # The reply is made outside of the handler, where the traceback would still hold the memory of the reader.
        replies.write(reply or _out_of_memory(limit))
        replies.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass(frozen=True, slots=True)
class _Request:
    """A file to read.

    Args:
        start: number of the first member to read, where a child before this one died of the member before it.
    """

    source_uri: str
    document_id: str
    start: int
    fd: int


def _next_request(requests: socket.socket) -> _Request | None:
    head, fds, _, _ = socket.recv_fds(requests, LENGTH.size, 1)
    if not fds:
        return None
    head += _exactly(requests, LENGTH.size - len(head))
    return _Request(**orjson.loads(_exactly(requests, LENGTH.unpack(head)[0])), fd=fds[0])


def _exactly(requests: socket.socket, n_bytes: int) -> bytes:
    received = b""
    while len(received) < n_bytes and (part := requests.recv(n_bytes - len(received))):
        received += part
    return received


class _Reader:
    """Reads one file after the other, and answers with what it found."""

    def __init__(
        self,
        chunking: Chunking,
        choices: Choices,
        limit: _MemoryLimit,
        max_bytes: int,
        requests: socket.socket,
        replies: BinaryIO,
    ) -> None:
        self.timeout_s = 0.0
        self._chunking = chunking
        self._choices = choices
        self._limit = limit
        self._max_bytes = max_bytes
        self._requests = requests
        self._replies = replies

    def reply(self, request: _Request) -> bytes:
        """The last frame about a file.

        Raises:
            MemoryError: it, or one of its members, needs too much memory.
        """
        try:
            return frame({"document": self._parsed(request)})
        except ContentError as error:
            return _error(error)
        except MemoryError:
            raise
        except Exception as error:  # edge of the process: a reader's library may raise anything
            return _error(_unexpected(error))

    def _parsed(self, request: _Request) -> dict[str, Any]:
        name = os.fsdecode(Path(read_path(request.source_uri)).name)
        with open(request.fd, "rb", closefd=False) as file:
            container = open_container(file, name, Room(max_member_bytes=self._max_bytes), self._choices)
            if container:
                return self._container(request, container)
        os.lseek(request.fd, 0, os.SEEK_SET)
        data = read_open(request.fd, max_bytes=self._limit.memory_mb * _MIB)
        return self._document(read(data, name, self._choices, path=f"/dev/fd/{request.fd}"), content_hash(data))

    def _container(self, request: _Request, container: Container) -> dict[str, Any]:
        before = os.fstat(request.fd)
        os.lseek(request.fd, 0, os.SEEK_SET)
        hash_of_file = hash_open(request.fd)
        container.check()
        walk = Walk(container, request.document_id)
        self._send({"container": True})
        known = set(self._answer()["known"])
        for n, leaf in enumerate(walk.leaves()):
            if n >= request.start:
                self._member(n, leaf, known)
        after = os.fstat(request.fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise UnreadableError("changed while it was read", hint="run the same command again")
        own = walk.own_text() or ReadText("")
        document = self._document(own, hash_of_file, title=own.metadata.get("title", "") if walk.is_mail else "")
        left_out = {reason: [walk.left_out.counts[reason], names] for reason, names in walk.left_out.examples.items()}
        return document | {"left_out": left_out, "notes": {**own.notes, **walk.notes}}

    def _member(self, n: int, leaf: Leaf, known: set[str]) -> None:
        seen = {"document_id": leaf.document_id, "container": leaf.container_id, "size": leaf.size}
        if member_key(leaf.document_id, leaf.content_hash) in known:
            self._send({"member": seen, "unchanged": True})
            return
        self._send({"reading": n, "document_id": leaf.document_id})
        try:
            if leaf.error or leaf.read is None:
                raise leaf.error or ParseError("cannot be read")
            text = leaf.read()
            title = text.metadata.get("title", "") if leaf.is_mail else ""
            document = self._document(text, leaf.content_hash, title=title)
        except ContentError as error:
            self._send({"member": seen, "error": _facts(error)})
        except MemoryError:
            raise
        except Exception as error:  # as in ``reply``
            self._send({"member": seen, "error": _facts(_unexpected(error))})
        else:
            self._send({"member": seen, "document": document})

    def _document(self, text: ReadText, hash_of_bytes: str, *, title: str = "") -> dict[str, Any]:
        chunks = split(text, self._chunking) if text.text else []
        if title:
            chunks = [replace(chunk, headings=(title, *chunk.headings)) for chunk in chunks]
        if len(chunks) > MAX_CHUNKS:
            raise LimitExceededError(
                f"becomes {len(chunks):,} chunks, more than {MAX_CHUNKS:,}",
                hint="split the file: a document is published as a whole, so it must fit into memory",
            )
        return {
            "content_hash": hash_of_bytes,
            "chunks": [_row(chunk) for chunk in chunks],
            "n_chars": len(text.text),
            "metadata": text.metadata,
            "notes": text.notes,
        }

    def _send(self, value: Any) -> None:
        # The time of each member begins here; it does not run while the parent has no room for what was read.
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._replies.write(frame(value))
        self._replies.flush()
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s)

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = orjson.loads(
            _exactly(self._requests, LENGTH.unpack(_exactly(self._requests, LENGTH.size))[0])
        )
        return answer


def member_key(document_id: str, hash_of_bytes: str) -> str:
    """What the parent and this process call a member with this content."""
    return hashlib.blake2b(f"{hash_of_bytes} {document_id}".encode(), digest_size=12).hexdigest()


def _unexpected(error: Exception) -> ParseError:
    reason = clean_text(f"{type(error).__name__}: {error}"[:500])[0]
    return ParseError(f"cannot be read: {reason}", hint="save it anew, or leave it out")


def _out_of_memory(limit: _MemoryLimit) -> bytes:
    # Reference cycles of the reader still take memory, so that there may be no room even for a message.
    limit.lift()
    return _error(
        LimitExceededError(
            f"needs more than {limit.memory_mb} MB of memory to be read",
            hint="raise RAGSTORE_PARSE_MEMORY_MB, or split the file",
        ),
        spent=True,
    )


def _row(chunk: Chunk) -> tuple[Any, ...]:
    return chunk.text, chunk.start_char, chunk.end_char, chunk.headings, chunk.place


def _error(error: ContentError, *, spent: bool = False) -> bytes:
    """Encode an error; ``spent`` asks for a new process for the next file, because memory may be fragmented."""
    return frame({"error": _facts(error), "spent": spent})


def _facts(error: ContentError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "facts": error.facts}


class _MemoryLimit:
    """Limit of ``memory_mb`` MB of address space beyond what the interpreter and the libraries take."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        _soft_limit(_size_bytes() + memory_mb * _MIB)

    def lift(self) -> None:
        """Remove the limit."""
        _soft_limit(resource.getrlimit(resource.RLIMIT_AS)[1])


def _soft_limit(n_bytes: int) -> None:
    # macOS refuses this limit; on macOS only the time is limited.
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _size_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except FileNotFoundError:  # no Linux
        return 0


def _own_pipes() -> tuple[socket.socket, BinaryIO]:
    """Keep stdin and stdout for the frames: what a library prints must not get into them."""
    requests, replies = socket.socket(fileno=os.dup(0)), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return requests, replies


def _silence() -> None:
    """Discard stderr from now on; before this, it shows why a start failed."""
    os.dup2(1, 2)


def _bind() -> None:
    """Give up all rights that reading and answering do not need: no written files, processes or core dumps."""
    see_little()
    most = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _MAX_OPEN,
    }
    for limit, n in most.items():
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (n, n))


def see_little() -> bool:
    """Allow to open only the files that Python itself may need; returns whether the kernel supports this.

    Uses Landlock, of Linux 5.13 and later. An attack on a reader's library then finds neither passwords nor other
    documents.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    everything = struct.pack("=Q", _ALL_RIGHTS)
    rules = libc.syscall(_LANDLOCK_CREATE, everything, len(everything), 0)
    if rules < 0:
        return False
    for place in {sys.prefix, sys.base_prefix, *sys.path, *_LIBRARIES}:
        with suppress(OSError):
            fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
            libc.syscall(_LANDLOCK_ADD, rules, _BENEATH, struct.pack("=Qi", _READ_RIGHTS, fd), 0)
            os.close(fd)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    is_bound = bool(libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)
    os.close(rules)
    return is_bound


def _die_with(parent_pid: int) -> None:
    """End when the parent ends, even in the middle of a file (Linux; elsewhere stdin's end or the timer does it)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before this call
        sys.exit(0)


if __name__ == "__main__":
    main()
