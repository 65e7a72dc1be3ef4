"""The default model: token vectors of WordLlama, averaged.

Its two files are read here and not through its own class, because importing that takes five times as
long as reading them, configures the root logger, and its average makes NaN of a text without tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from ragstore.embedding.embedder import ModelRequest, embeddable
from ragstore.embedding.model_file import package_file

_TEXTS_AT_ONCE = 256
_TOKENS_AT_ONCE = 16_384
"""Bounds the memory that a text of any length takes while its tokens are added up."""


class WordLlamaEmbedder:
    """Averages over all tokens, however long the text is; unit length."""

    name = "wordllama"

    def __init__(self, vectors: np.ndarray, tokenizer: Tokenizer) -> None:
        self._vectors = vectors
        self._tokenizer = tokenizer

    @property
    def dim(self) -> int:
        """256."""
        return int(self._vectors.shape[1])

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, shape ``(n_texts, 256)``."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = [embeddable(text) for text in texts[begin : begin + _TEXTS_AT_ONCE]]
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            for row, encoding in enumerate(encodings, start=begin):
                vectors[row] = self._sum(encoding.ids)
        # The length takes the number of tokens out again, so that a sum serves as well as a mean.
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of unit length, shape ``(256,)``."""
        vector: np.ndarray = self.embed_documents([text])[0]
        return vector

    def _sum(self, token_ids: list[int]) -> np.ndarray:
        total = np.zeros(self.dim, dtype=np.float32)
        for begin in range(0, len(token_ids), _TOKENS_AT_ONCE):
            total += self._vectors[token_ids[begin : begin + _TOKENS_AT_ONCE]].sum(axis=0)
        return total


def load(_request: ModelRequest) -> WordLlamaEmbedder:
    """Read the files that come in the package's wheel; raises ImportError where they are missing."""
    tokenizer = Tokenizer.from_file(str(package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with safe_open(package_file("wordllama", "weights/l2_supercat_256.safetensors"), framework="np") as weights:
        vectors = weights.get_tensor("embedding.weight")
    return WordLlamaEmbedder(np.ascontiguousarray(vectors, dtype=np.float32), tokenizer)
