"""Models of the Hugging Face hub, run in this process by torch: ``huggingface:MODEL``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ragstore.embedding.embedder import ModelRequest, checked_vectors, embeddable
from ragstore.errors import ModelError, ModelMissingError


class HuggingFaceEmbedder:
    """A model in this process, without retries or a limit of requests."""

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self._model = model
        self._dim: int | None = None

    @property
    def dim(self) -> int:
        """Length of the vectors; the first use embeds a text to find it."""
        if self._dim is None:
            self._dim = self.embed_query("").shape[0]
        return self._dim

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of shape ``(n_texts, dim)``."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        batch = [embeddable(text) for text in texts]
        return self._checked(lambda: self._model.get_text_embedding_batch(batch), len(batch))

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of shape ``(dim,)``."""
        storable = embeddable(text)
        vector: np.ndarray = self._checked(lambda: [self._model.get_query_embedding(storable)], 1)[0]
        return vector

    def _checked(self, embed: Callable[[], Sequence[Sequence[float]]], n_texts: int) -> np.ndarray:
        try:
            rows = embed()
        except RuntimeError as error:  # torch's own, e.g. out of memory
            raise self._refused(str(error)) from error
        vectors = checked_vectors(rows, n_texts, self._dim, self._refused)
        self._dim = vectors.shape[1]
        return vectors

    def _refused(self, what: str) -> ModelError:
        return ModelError(
            f"model {self.name} failed: {what}", hint="set RAGSTORE_MODEL_BATCH_SIZE lower", model=self.name
        )


def load(request: ModelRequest) -> HuggingFaceEmbedder:
    """Load the model, from the hub if it is not on disk yet; raises ImportError if torch is missing."""
    library = importlib.import_module("llama_index.embeddings.huggingface")
    try:
        model = library.HuggingFaceEmbedding(model_name=request.argument, embed_batch_size=request.options.batch_size)
    except (OSError, ValueError) as error:
        raise ModelMissingError(
            f"model {request.name} cannot be loaded: {error}",
            hint="check its name in RAGSTORE_MODEL and that the hub can be reached, or download it before",
            model=request.name,
        ) from error
    return HuggingFaceEmbedder(request.name, model)
