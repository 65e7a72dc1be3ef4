"""Child process that reads and splits files, so that a hostile file can do harm only in this process.

Started as ``python -m ragstore.ingest.parse_child OPTIONS``. Requests arrive on stdin, which is a socket, and replies
leave on stdout. Both are frames: 8 bytes of length, big-endian, then JSON. The first frame sent says that the child
is ready; then it sends one frame for each frame that it receives. With each request comes the descriptor of the
file, opened by the parent: the child opens no file itself.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ragstore.errors import ContentError, LimitExceededError, ParseError
from ragstore.ingest.splitting import split
from ragstore.model.chunk import Chunk
from ragstore.model.collection import Chunking
from ragstore.sources.bounds import read_path
from ragstore.sources.file_bytes import content_hash, read_open
from ragstore.sources.raw import Choices, clean_text
from ragstore.sources.readers import load_readers, read

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
    while request := _next_request(requests):
        source_uri, fd = request
        # The parent enforces the time limit; this timer only matters if the parent has died.
        signal.setitimer(signal.ITIMER_REAL, options["timeout_s"] + _GRACE_S)
        try:
            reply = _reply(source_uri, fd, chunking, choices, limit)
        except MemoryError:
            reply = b""
        finally:
            os.close(fd)
        # The reply is made outside of the handler, where the traceback would still hold the memory of the reader.
        replies.write(reply or _out_of_memory(limit))
        replies.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _next_request(requests: socket.socket) -> tuple[str, int] | None:
    head, fds, _, _ = socket.recv_fds(requests, LENGTH.size, 1)
    if not fds:
        return None
    head += _exactly(requests, LENGTH.size - len(head))
    body: dict[str, str] = orjson.loads(_exactly(requests, LENGTH.unpack(head)[0]))
    return body["source_uri"], fds[0]


def _exactly(requests: socket.socket, n_bytes: int) -> bytes:
    received = b""
    while len(received) < n_bytes and (part := requests.recv(n_bytes - len(received))):
        received += part
    return received


def _reply(source_uri: str, fd: int, chunking: Chunking, choices: Choices, limit: _MemoryLimit) -> bytes:
    try:
        return frame({"document": _parsed(source_uri, fd, chunking, choices, limit)})
    except ContentError as error:
        return _error(error)
    except MemoryError:
        raise
    except Exception as error:  # edge of the process: a reader's library may raise anything
        reason = clean_text(f"{type(error).__name__}: {error}"[:500])[0]
        return _error(ParseError(f"cannot be read: {reason}", hint="save it anew, or leave it out"))


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


def _parsed(source_uri: str, fd: int, chunking: Chunking, choices: Choices, limit: _MemoryLimit) -> dict[str, Any]:
    data = read_open(fd, max_bytes=limit.memory_mb * _MIB)
    name = os.fsdecode(Path(read_path(source_uri)).name)
    document = read(data, name, choices, path=f"/dev/fd/{fd}")
    chunks = split(document, chunking)
    if len(chunks) > MAX_CHUNKS:
        raise LimitExceededError(
            f"becomes {len(chunks):,} chunks, more than {MAX_CHUNKS:,}",
            hint="split the file: a document is published as a whole, so it must fit into memory",
        )
    return {
        "content_hash": content_hash(data),
        "chunks": [_row(chunk) for chunk in chunks],
        "n_chars": len(document.text),
        "metadata": document.metadata,
        "notes": document.notes,
    }


def _row(chunk: Chunk) -> tuple[Any, ...]:
    return chunk.text, chunk.start_char, chunk.end_char, chunk.headings, chunk.place


def _error(error: ContentError, *, spent: bool = False) -> bytes:
    """Encode an error; ``spent`` asks for a new process for the next file, because memory may be fragmented."""
    facts = {"code": error.code, "message": error.message, "hint": error.hint, "facts": error.facts}
    return frame({"error": facts, "spent": spent})


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
