"""Chunks, the spans of a document's text that are embedded, and the parsed document that they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

PLACE_KEYS = ("page", "sheet", "row", "slide", "cell", "line", "part", "time")
"""Metadata of a node that says where in its document it begins; a document's own metadata has none of these."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document's cleaned text.

    Args:
        text: the span itself; before it, the header of the table in which it begins, if it begins below one.
        start_char: offset of the span's first character in the document's cleaned text, 0-based.
        end_char: offset after its last character.
        headings: titles of the sections that contain it, outermost first.
        place: where in the document it begins, as its node's metadata says it, e.g. ``{"page": 3}``, 1-based.
    """

    text: str
    start_char: int
    end_char: int
    headings: tuple[str, ...] = ()
    place: dict[str, Any] = field(default_factory=dict)

    @property
    def n_repeated(self) -> int:
        """Characters at the head of the text that stand elsewhere in the document: a table's header."""
        return n_repeated(self.text, self.start_char, self.end_char)

    @property
    def embed_text(self) -> str:
        """The text that is embedded: without the headings above it, so that a changed title changes no vector."""
        return self.text

    @property
    def chunk_hash(self) -> bytes:
        """16 bytes that are equal when the embedded text is equal."""
        return hashlib.blake2b(self.embed_text.encode(), digest_size=16).digest()


def n_repeated(text: str, start_char: int, end_char: int) -> int:
    """Characters at the head of a chunk's text that are not part of its span."""
    return len(text) - (end_char - start_char)


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """Result of reading and splitting one source unit.

    Args:
        content_hash: blake2b-128 hex of the raw bytes.
        metadata: facts found in the document itself (``title``, ``pages``), JSON values only.
        notes: what a person would want to know about this reading: counts of what was replaced, left out or guessed,
            and names of guesses, e.g. ``{"nul_bytes": 3, "decoded_as": "shift_jis"}``.
        left_out: for a container, how many of its members are not read and the first of their ids, by reason.
    """

    content_hash: str
    chunks: list[Chunk]
    n_chars: int
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, int | str] = field(default_factory=dict)
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
