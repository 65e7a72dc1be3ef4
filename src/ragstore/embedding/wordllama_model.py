"""Default model: the averaged token vectors of WordLlama, and a tokenizer that remembers pieces of text.

The model's two files are read here and not through its own class, because importing that class takes five times as
long as reading the files and configures the root logger, and its average is NaN for a text without tokens.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer, normalizers

from ragstore.embedding.embedder import ModelRequest, embeddable, package_file

_TENSOR = "embedding.weight"
_TEXTS_AT_ONCE = 256
_TOKENS_AT_ONCE = 16_384
"""Limits the memory for a text of any length while its token vectors are added."""

_FEW_TEXTS = 32
"""Up to this many texts are tokenized whole; remembered pieces save time only with more texts."""

_FEW_TOKENS = 512
"""For up to this many tokens, the first question reads single vectors; reading and widening all takes longer."""

TokenIds = list[int] | np.ndarray
Lookup = Callable[[TokenIds], np.ndarray]
"""Returns the vectors of tokens, float32, shape ``(n_tokens, dim)``."""


class WordLlamaEmbedder:
    """Embeds a text of any length as the average of all its token vectors, with unit length.

    Args:
        weights: a safetensors file with a vector for each token of the tokenizer.
    """

    name = "wordllama"

    def __init__(self, weights: Path, tokenizer: Tokenizer) -> None:
        self._file = cast("Any", safe_open(weights, framework="np"))
        self._stored = self._file.get_slice(_TENSOR)
        self._tokenizer = tokenizer
        self._pieces: PieceTokenizer | None = None
        self._table: np.ndarray | None = None
        self._was_asked = False

    @property
    def dim(self) -> int:
        """Length of the vectors: 256."""
        return int(self._stored.get_shape()[1])

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, shape ``(n_texts, 256)``."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = [embeddable(text) for text in texts[begin : begin + _TEXTS_AT_ONCE]]
            for row, token_ids in enumerate(self._token_ids(batch), start=begin):
                vectors[row] = self._sum(token_ids, self._from_memory)
        # Scaling to unit length removes the number of tokens, so that a sum gives the same result as a mean.
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of unit length, shape ``(256,)``."""
        [encoding] = self._tokenizer.encode_batch_fast([embeddable(text)], add_special_tokens=False)
        # A process that answers only one question should not read the whole file for it.
        from_file = self._table is None and not self._was_asked and len(encoding.ids) <= _FEW_TOKENS
        self._was_asked = True
        vector = self._sum(encoding.ids, self._from_file if from_file else self._from_memory)
        vector /= np.linalg.norm(vector)
        return vector

    def _token_ids(self, texts: list[str]) -> Sequence[TokenIds]:
        if len(texts) <= _FEW_TEXTS or not all(map(is_divisible, texts)):
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        if self._pieces is None:
            self._pieces = PieceTokenizer(self._tokenizer)
        return self._pieces.ids(texts)

    def _sum(self, token_ids: TokenIds, lookup: Lookup) -> np.ndarray:
        total = np.zeros(self.dim, dtype=np.float32)
        for begin in range(0, len(token_ids), _TOKENS_AT_ONCE):
            total += lookup(token_ids[begin : begin + _TOKENS_AT_ONCE]).sum(axis=0)
        return total

    def _from_file(self, token_ids: TokenIds) -> np.ndarray:
        vectors = np.concatenate([self._stored[token_id : token_id + 1] for token_id in token_ids])
        return vectors.astype(np.float32)

    def _from_memory(self, token_ids: TokenIds) -> np.ndarray:
        if self._table is None:
            # Two threads at the same time both do it, with the same result.
            self._table = np.ascontiguousarray(self._file.get_tensor(_TENSOR), dtype=np.float32)
        return self._table[token_ids]


def load(_request: ModelRequest) -> WordLlamaEmbedder:
    """Open the files from the package's wheel; raises ImportError if they are missing."""
    tokenizer = Tokenizer.from_file(str(package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return WordLlamaEmbedder(package_file("wordllama", "weights/l2_supercat_256.safetensors"), tokenizer)


MAX_CHARS = 100_000
"""Longest text that is divided into pieces; longer ones would take much memory."""

_MAX_PIECES = 100_000
"""Most pieces that are remembered, some 20 MB."""

_SPACE = "\u2581"  # represents a space in this tokenizer's vocabulary
_PIECE_OF_ASCII = re.compile(r" *[A-Za-z]+| *[^A-Za-z0-9 \n]+|[0-9]| +|\n+")
_PIECE = re.compile(r" *[^ \n]+| +|\n+")
_SPECIAL = re.compile("<s>|</s>|<unk>")


def is_divisible(text: str) -> bool:
    """Whether ``PieceTokenizer`` accepts this text: it is not too long, and contains no special token of the model."""
    return len(text) <= MAX_CHARS and not _SPECIAL.search(text)


class PieceTokenizer:
    """Tokenizes pieces of texts and remembers the results; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # The original replaces each space by the mark and puts one before the text; here this is done with the pieces.
        self._tokenizer.normalizer = normalizers.Sequence([])
        self._known: dict[str, bytes] = {}

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids, one int32 array for each text; the texts must be divisible."""
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
