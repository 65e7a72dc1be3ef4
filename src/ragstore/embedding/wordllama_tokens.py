"""Token ids of many texts, a piece of text at a time: most pieces of a corpus were met before.

The model's tokenizer merges characters over a whole text, which takes most of the time of an embedding. No token of
its vocabulary has a letter beside a mark, a digit beside anything, a space after anything but a space, or a line end,
so a text can be cut there and its pieces tokenized apart, once each, with the same result.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, normalizers

MAX_CHARS = 100_000
"""Of a text; longer ones would take much memory in pieces."""

_MAX_PIECES = 100_000
"""Remembered at most, some 20 MB."""

_SPACE = "\u2581"  # what stands for a space in this tokenizer's vocabulary
_PIECE_OF_ASCII = re.compile(r" *[A-Za-z]+| *[^A-Za-z0-9 \n]+|[0-9]| +|\n+")
_PIECE = re.compile(r" *[^ \n]+| +|\n+")
_SPECIAL = re.compile("<s>|</s>|<unk>")


def is_divisible(text: str) -> bool:
    """Whether ``PieceTokenizer`` takes this text: it is not too long, and names no token that the model itself uses."""
    return len(text) <= MAX_CHARS and not _SPECIAL.search(text)


class PieceTokenizer:
    """Tokenizes the pieces of texts and remembers them; for one tokenizer, and safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # The original writes each space as the mark and puts one in front of the text; here that is done to pieces.
        self._tokenizer.normalizer = normalizers.Sequence([])
        self._known: dict[str, bytes] = {}

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of texts that are divisible, int32, an array each."""
        if len(self._known) > _MAX_PIECES:
            # Another thread may be using the old one.
            self._known = {}
        known = self._known
        cut = [_pieces(text) for text in texts]
        new = [piece for piece in set().union(*cut) if piece not in known]
        marked = [piece.replace(" ", _SPACE) for piece in new]
        for piece, encoding in zip(
            new, self._tokenizer.encode_batch_fast(marked, add_special_tokens=False), strict=True
        ):
            known[piece] = array("i", encoding.ids).tobytes()
        find = known.__getitem__
        return [np.frombuffer(b"".join(map(find, pieces)), dtype=np.intc) for pieces in cut]


def _pieces(text: str) -> list[str]:
    pieces: list[str] = (_PIECE_OF_ASCII if text.isascii() else _PIECE).findall(" " + text.replace(_SPACE, " "))
    return pieces
