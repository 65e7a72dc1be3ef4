"""What makes a document's nodes what they are."""

from __future__ import annotations

import hashlib

from ragstore.model.collection import Chunking
from ragstore.model.document import DocumentState, SourceItem, SourceState

READING_VERSION = 1
"""Raise it when readers, splitting or node metadata change: every document is then read again, once."""


def fingerprint(content_hash: str, chunking: Chunking) -> str:
    """Hash of a document's content and of what shapes its nodes."""
    shape = f"{READING_VERSION}/{chunking.chunk_size}/{chunking.chunk_overlap}/{content_hash}"
    return hashlib.blake2b(shape.encode(), digest_size=16).hexdigest()


def is_unread_same(state: SourceState | None, item: SourceItem, chunking: Chunking) -> bool:
    """Whether size and time alone say that this document need not even be read."""
    return (
        state is not None
        and state.size == item.size
        and state.mtime_ns == item.mtime_ns
        and state.etag == item.etag
        and is_same(state, state.content_hash, chunking)
    )


def is_same(state: DocumentState | SourceState | None, content_hash: str | None, chunking: Chunking) -> bool:
    """Whether the live revision was made from this content, in the way it would be made now."""
    return (
        state is not None
        and state.live
        and content_hash is not None
        and state.fingerprint == fingerprint(content_hash, chunking)
    )


def is_overtaken(state: DocumentState, item: SourceItem, now: tuple[int, int] | None) -> bool:
    """Whether the ledger follows the source more closely than what was read of it some time ago.

    Args:
        item: as it was when it was read.
        now: size and time of the source unit after ``state`` was looked up, None where it is gone.
    """
    if now == (item.size, item.mtime_ns):
        return False
    if now is None and state.deleted_at is not None:
        return True
    is_newer = state.mtime_ns is not None and item.mtime_ns is not None and state.mtime_ns > item.mtime_ns
    return state.live and (is_newer or (state.size, state.mtime_ns) == now)
