"""Bounds the memory of what is on its way through an ingest, from the first byte read to the commit."""

from __future__ import annotations

import threading

from ragstore.model.chunk import ParsedDocument

_COPIES_OF_TEXT = 4
"""Of a text there are at once: the chunk, the row, the body, and what waits in a buffer."""

_PER_CHUNK_BYTES = 6_000
"""A node without text and vector, as objects and as bytes."""

_COPIES_OF_VECTOR = 4
_VALUE_BYTES = 4
_CHARS_OF_CHUNK = 700
_AT_LEAST_BYTES = 4_096
_MAX_UNREAD = 256
"""Files that wait to be read, at most: what was listed long ago may have changed."""

_POLL_S = 0.2


class MemoryCeiling:
    """Counts what documents under way hold, and lets a reader wait until there is room.

    A document that is larger than the ceiling goes alone.

    Args:
        n_bytes: what they may hold together, about.
        dim: length of the collection's vectors.
        giving_up: ends all waiting.
    """

    def __init__(self, n_bytes: int, *, dim: int, giving_up: threading.Event) -> None:
        self.n_bytes = n_bytes
        self._per_chunk = _PER_CHUNK_BYTES + _COPIES_OF_VECTOR * _VALUE_BYTES * dim
        self.giving_up = giving_up
        self._changed = threading.Condition()
        self._held = 0
        self.most_held = 0

    def of_file(self, size: int) -> int:
        """Bytes to set apart for a file that is still to be read, as if all of it were text."""
        return max(self.n_bytes // _MAX_UNREAD, size * (_COPIES_OF_TEXT + self._per_chunk // _CHARS_OF_CHUNK))

    def of_document(self, document: ParsedDocument) -> int:
        """Bytes that a document takes until it is stored."""
        return _AT_LEAST_BYTES + document.n_chars * _COPIES_OF_TEXT + len(document.chunks) * self._per_chunk

    def take(self, n_bytes: int) -> bool:
        """Wait for room and hold it; False if the ingest gives up."""
        with self._changed:
            while self._held and self._held + n_bytes > self.n_bytes:
                self._changed.wait(_POLL_S)
                if self.giving_up.is_set():
                    return False
            self._add(n_bytes)
        return not self.giving_up.is_set()

    def change(self, held: int, now: int) -> None:
        """Hold another amount for a document, known better by now, without waiting."""
        with self._changed:
            self._add(now - held)

    def give_back(self, n_bytes: int) -> None:
        """Let others have it."""
        with self._changed:
            self._add(-n_bytes)

    def _add(self, n_bytes: int) -> None:
        self._held += n_bytes
        self.most_held = max(self.most_held, self._held)
        if n_bytes < 0:
            self._changed.notify_all()
