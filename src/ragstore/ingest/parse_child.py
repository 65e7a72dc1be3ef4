"""The child process that reads and cuts files: whatever a hostile file does, it does here.

Started as ``python -m ragstore.ingest.parse_child OPTIONS``. On stdin and stdout go frames: 8 bytes of length,
big-endian, then JSON. The first frame out says that it is ready; then one frame in, one frame out.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ragstore.errors import ContentError, LimitExceededError, ParseError
from ragstore.ingest.splitting import split
from ragstore.model.chunk import Chunk
from ragstore.model.collection import Chunking
from ragstore.sources.bounds import Bounds
from ragstore.sources.cleaning import clean_text
from ragstore.sources.location import read_path
from ragstore.sources.opening import content_hash, read_bytes
from ragstore.sources.reading import load_readers, read

LENGTH = struct.Struct(">Q")
MAX_CHUNKS = 100_000
"""Of one document: some hundred MB on their way to the stores."""

_MIB = 1024 * 1024
_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_MAX_OPEN = 64


def frame(value: Any) -> bytes:
    """One message as it goes through a pipe."""
    body = orjson.dumps(value)
    return LENGTH.pack(len(body)) + body


def main() -> None:
    """Answer requests until stdin ends."""
    options = orjson.loads(sys.argv[1])
    _die_with(options["parent_pid"])
    requests, replies = _own_pipes()
    load_readers()
    limit = _MemoryLimit(options["memory_mb"])
    _silence()
    _bind()
    replies.write(frame({"ready": True}))
    replies.flush()
    chunking = Chunking(options["chunk_size"], options["chunk_overlap"])
    bounds = Bounds(frozenset(), frozenset(map(_path, options["never"])), options["follow_links"])
    while request := _next_request(requests):
        # The parent keeps the time; this one counts only where the parent is gone.
        signal.setitimer(signal.ITIMER_REAL, options["timeout_s"] + _GRACE_S)
        try:
            roots = frozenset(map(_path, request["roots"]))
            reply = _reply(request["source_uri"], replace(bounds, roots=roots), chunking, limit)
        except MemoryError:
            reply = b""
        # The answer is made outside of the handler: there the traceback still holds all that the reader held.
        replies.write(reply or _out_of_memory(limit))
        replies.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _next_request(requests: BinaryIO) -> dict[str, Any] | None:
    head = requests.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body: dict[str, Any] = orjson.loads(requests.read(LENGTH.unpack(head)[0]))
    return body


def _path(uri: str) -> str:
    return os.fspath(read_path(uri))


def _reply(source_uri: str, bounds: Bounds, chunking: Chunking, limit: _MemoryLimit) -> bytes:
    try:
        return frame({"document": _parsed(source_uri, bounds, chunking, limit)})
    except ContentError as error:
        return _error(error)
    except MemoryError:
        raise
    except Exception as error:  # edge of the process: a reader's library may raise anything
        reason = clean_text(f"{type(error).__name__}: {error}"[:500])[0]
        return _error(ParseError(f"cannot be read: {reason}", hint="save it anew, or leave it out"))


def _out_of_memory(limit: _MemoryLimit) -> bytes:
    # Trees whose parts know each other are still there, and with them not even a message may fit.
    limit.lift()
    return _error(
        LimitExceededError(
            f"needs more than {limit.memory_mb} MB of memory to be read",
            hint="raise RAGSTORE_PARSE_MEMORY_MB, or split the file",
        ),
        spent=True,
    )


def _parsed(source_uri: str, bounds: Bounds, chunking: Chunking, limit: _MemoryLimit) -> dict[str, Any]:
    data = read_bytes(source_uri, bounds, max_bytes=limit.memory_mb * _MIB)
    document = read(data, os.fsdecode(Path(read_path(source_uri)).name))
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
        "cleaned": document.cleaned,
    }


def _row(chunk: Chunk) -> tuple[Any, ...]:
    return chunk.text, chunk.start_char, chunk.end_char, chunk.headings, chunk.page


def _error(error: ContentError, *, spent: bool = False) -> bytes:
    """Args: spent: the heap may be in pieces, and the next file deserves a fresh process."""
    facts = {"code": error.code, "message": error.message, "hint": error.hint, "facts": error.facts}
    return frame({"error": facts, "spent": spent})


class _MemoryLimit:
    """At most ``memory_mb`` of address space beyond what the interpreter and the libraries take."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        _soft_limit(_size_bytes() + memory_mb * _MIB)

    def lift(self) -> None:
        """No limit from here on."""
        _soft_limit(resource.getrlimit(resource.RLIMIT_AS)[1])


def _soft_limit(n_bytes: int) -> None:
    # macOS refuses this limit; there only the time is limited.
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _size_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except FileNotFoundError:  # no Linux
        return 0


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout for us alone: a library that prints must not write into the frames."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return requests, replies


def _silence() -> None:
    """From here on only frames speak; until here stderr tells why the start failed."""
    os.dup2(1, 2)


def _bind() -> None:
    """Nothing is left to do but to read and to answer: no file is written, no process started, no memory dumped."""
    for limit, most in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _MAX_OPEN),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


def _die_with(parent_pid: int) -> None:
    """End with the parent also in the middle of a file (Linux; elsewhere the end of stdin or the timer does it)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before we asked
        sys.exit(0)


if __name__ == "__main__":
    main()
