"""Embedder that uses a LlamaIndex embedding class: with batches, retries and a check of every vector."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from ragstore.embedding.embedder import ModelRequest, checked_vectors, embeddable
from ragstore.embedding.service import Caller, CallPolicy, Service

_PROBE = "dimension"


class RemoteEmbedder:
    """Requests vectors from a server.

    Args:
        model: must not retry by itself; sends ``embed_batch_size`` texts in a request.
        close: closes its connections when the embedder is no longer used.
    """

    def __init__(self, service: Service, model: BaseEmbedding, caller: Caller, close: Callable[[], None]) -> None:
        self._service = service
        self._model = model
        self._caller = caller
        self._dim: int | None = None
        weakref.finalize(self, close)

    @property
    def name(self) -> str:
        """The setting that names the model."""
        return self._service.name

    @property
    def dim(self) -> int:
        """Length of the vectors; needs a request if none was made yet."""
        if self._dim is None:
            self._dim = self.embed_query(_PROBE).shape[0]
        return self._dim

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of shape ``(n_texts, dim)``.

        Raises:
            ModelUnavailableError: the server did not answer, after all retries.
            ModelError: it refused, or its answer is not one finite vector of the usual length for each text.
        """
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        size = self._model.embed_batch_size
        return np.concatenate([self._batch(texts[begin : begin + size]) for begin in range(0, len(texts), size)])

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of shape ``(dim,)``; raises as ``embed_documents`` does."""
        storable = embeddable(text)
        row = self._caller.call(lambda: self._model.get_query_embedding(storable))
        vector: np.ndarray = self._checked([row], 1)[0]
        return vector

    def _batch(self, texts: Sequence[str]) -> np.ndarray:
        batch = [embeddable(text) for text in texts]
        return self._checked(self._caller.call(lambda: self._model.get_text_embedding_batch(batch)), len(batch))

    def _checked(self, rows: Sequence[Sequence[float]], n_texts: int) -> np.ndarray:
        vectors = checked_vectors(rows, n_texts, self._dim, self._service.unusable_answer)
        self._dim = vectors.shape[1]
        return vectors


def call_policy(request: ModelRequest) -> CallPolicy:
    """The policy of calls that the options ask for."""
    return CallPolicy(request.options.max_retries, request.options.requests_per_minute, request.sleep)
