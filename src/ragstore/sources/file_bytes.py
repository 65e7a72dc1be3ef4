"""Bytes and content hashes of local files, which may have changed in any way since they were listed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ragstore.errors import ContentError, LimitExceededError, UnreadableError, UnsupportedTypeError
from ragstore.sources.bounds import LEADS_OUT, Bounds, OutOfBoundsError, read_path

NEVER_HINT = "copy what you need into another folder"
_FOLLOW_HINT = "--follow-links reads what links outside of the named folders lead to"
_FOLLOW_IN_PYTHON = "give follow_links=True to read what links outside of the named folders lead to"

_HASH_BYTES = 16
_BLOCK_BYTES = 1024 * 1024


def read_bytes(source_uri: str, bounds: Bounds, *, max_bytes: int) -> bytes:
    """The whole file.

    Raises:
        UnreadableError: missing, no permission, out of bounds, or changed while it was read.
        UnsupportedTypeError: it is not a regular file.
        LimitExceededError: it has more than ``max_bytes``.
    """
    with open_regular(source_uri, bounds) as fd:
        return read_open(fd, max_bytes=max_bytes)


def read_open(fd: int, *, max_bytes: int) -> bytes:
    """All bytes of an open file; raises as ``read_bytes``."""
    blocks = []
    n_bytes = 0
    for block in _blocks(fd):
        n_bytes += len(block)
        if n_bytes > max_bytes:
            raise LimitExceededError(
                f"has more than {max_bytes:,} bytes", hint="raise RAGSTORE_PARSE_MEMORY_MB, or split the file"
            )
        blocks.append(block)
    return b"".join(blocks)


def content_hash(data: bytes) -> str:
    """Blake2b-128 hex of a file's raw bytes."""
    return hashlib.blake2b(data, digest_size=_HASH_BYTES).hexdigest()


def content_hash_of(source_uri: str, bounds: Bounds) -> str:
    """``content_hash`` of a file, computed without keeping its bytes in memory; raises as ``read_bytes``."""
    with open_regular(source_uri, bounds) as fd:
        return hash_open(fd)


def hash_open(fd: int) -> str:
    """``content_hash`` of the rest of an open file; raises as ``read_bytes``."""
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for block in _blocks(fd):
        digest.update(block)
    return digest.hexdigest()


def _blocks(fd: int) -> Iterator[bytes]:
    before = os.fstat(fd)
    while block := _read(fd):
        yield block
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UnreadableError("changed while it was read", hint="run the same command again")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _BLOCK_BYTES)
    except OSError as error:
        raise _unreadable(error) from error


@contextmanager
def open_regular(source_uri: str, bounds: Bounds) -> Iterator[int]:
    """A descriptor of a regular file; raises as ``read_bytes``."""
    with ExitStack() as closing:
        # Only errors of opening concern the file; errors in the caller's block must pass through.
        try:
            fd = closing.enter_context(bounds.open_file(os.fspath(read_path(source_uri))))
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnsupportedTypeError("is no regular file", hint="only regular files are read")
        except OutOfBoundsError as error:
            if str(error) == LEADS_OUT:
                raise UnreadableError(LEADS_OUT, hint=_FOLLOW_HINT, in_python=_FOLLOW_IN_PYTHON) from error
            raise UnreadableError(str(error), hint=NEVER_HINT) from error
        except OSError as error:
            raise _unreadable(error) from error
        yield fd


def _unreadable(cause: OSError) -> ContentError:
    if isinstance(cause, FileNotFoundError):
        return UnreadableError("is gone", hint="run the same command again")
    if isinstance(cause, PermissionError):
        return UnreadableError("may not be read", hint="give this user permission to read it, then retry")
    if cause.errno in {errno.ELOOP, errno.ENOTDIR}:
        became = "became a link while it was opened, or lies behind one"
        return UnreadableError(became, hint=_FOLLOW_HINT, in_python=_FOLLOW_IN_PYTHON)
    return UnreadableError(
        f"cannot be read: {(cause.strerror or str(cause)).lower()}", hint="check the disk, then retry"
    )
