"""The default model: token vectors of WordLlama, averaged.

Its two files are read here and not through its own class, because importing that takes five times as
long as reading them, configures the root logger, and its average makes NaN of a text without tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from ragstore.embedding.embedder import ModelRequest, embeddable
from ragstore.embedding.model_file import package_file
from ragstore.embedding.wordllama_tokens import PieceTokenizer, is_divisible

_TENSOR = "embedding.weight"
_TEXTS_AT_ONCE = 256
_TOKENS_AT_ONCE = 16_384
"""Bounds the memory that a text of any length takes while its tokens are added up."""

_FEW_TEXTS = 32
"""Up to so many at once are tokenized as they are; it takes more of them until remembered pieces spare time."""

_FEW_TOKENS = 512
"""Up to so many, the first question's vectors are read one by one; reading and widening all takes longer."""

TokenIds = list[int] | np.ndarray
Lookup = Callable[[TokenIds], np.ndarray]
"""The vectors of tokens, float32, shape ``(n_tokens, dim)``."""


class WordLlamaEmbedder:
    """Averages over all tokens, however long the text is; unit length.

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
        """256."""
        return int(self._stored.get_shape()[1])

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, shape ``(n_texts, 256)``."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = [embeddable(text) for text in texts[begin : begin + _TEXTS_AT_ONCE]]
            for row, token_ids in enumerate(self._token_ids(batch), start=begin):
                vectors[row] = self._sum(token_ids, self._from_memory)
        # The length takes the number of tokens out again, so that a sum serves as well as a mean.
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of unit length, shape ``(256,)``."""
        [encoding] = self._tokenizer.encode_batch_fast([embeddable(text)], add_special_tokens=False)
        # A process that answers one question and ends should not read all of the file for it.
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
            # Threads that come here at once do it twice, with the same result.
            self._table = np.ascontiguousarray(self._file.get_tensor(_TENSOR), dtype=np.float32)
        return self._table[token_ids]


def load(_request: ModelRequest) -> WordLlamaEmbedder:
    """Open the files that come in the package's wheel; raises ImportError where they are missing."""
    tokenizer = Tokenizer.from_file(str(package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return WordLlamaEmbedder(package_file("wordllama", "weights/l2_supercat_256.safetensors"), tokenizer)
