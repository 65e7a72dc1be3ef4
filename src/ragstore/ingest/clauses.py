"""Cutting a line that is too long for a chunk at its clauses, words and characters.

The same pieces as LlamaIndex's ``SentenceSplitter`` without overlap gives, whose import takes longer than most ingests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Count = Callable[[str], int]

# Up to eight words at once: time goes by the number of parts.
CLAUSE = r"(?:[^\s,;:、，；：]+\s*){1,8}[,;:、，；：]*\s*|[\s,;:、，；：]+"

_CLAUSE = re.compile(CLAUSE)
_WORD = re.compile(r"^[^ ]+| [^ ]*")


def clauses(text: str, size: int, count: Count) -> Iterator[str]:
    """Pieces of at most ``size`` tokens, stripped, as full as their parts allow; blank ones are left out."""
    piece, n_tokens = "", 0
    for part, n_more in _parts(text, size, count):
        if n_tokens and n_tokens + n_more > size:
            if piece.strip():
                yield piece.strip()
            piece, n_tokens = "", 0
        piece += part
        n_tokens += n_more
    if piece.strip():
        yield piece.strip()


def _parts(text: str, size: int, count: Count) -> Iterator[tuple[str, int]]:
    """Parts and their tokens: clauses where they are short enough, else their words, else characters."""
    n_tokens = count(text)
    if n_tokens <= size:
        yield text, n_tokens
        return
    for cut in (_CLAUSE.findall, _WORD.findall, list):
        parts = cut(text)
        if len(parts) > 1:
            for part in parts:
                yield from _parts(part, size, count)
            return
    yield text, n_tokens
