"""WordLlama, the model of rows with real text, for ragstore's parts and for LlamaIndex."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragstore.embedding import Embedder
from ragstore.errors import ModelMissingError
from tests.support.internals import models_of

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

    from ragstore.app import Ragstore

_MODEL = "wordllama"
_COLLECTION = "model"


def embedder(store: Ragstore) -> Embedder:
    """The model itself.

    Raises:
        ModelMissingError: it is not installed.
    """
    return models_of(store).named(_MODEL)


def has_model(store: Ragstore) -> bool:
    """Whether it is installed."""
    try:
        embedder(store)
    except ModelMissingError:
        return False
    return True


def word_llama_embedding(store: Ragstore) -> BaseEmbedding:
    """The same for LlamaIndex code.

    Raises:
        ModelMissingError: it is not installed.
    """
    store.create_collection(_COLLECTION, model=_MODEL)
    return store.embed_model(_COLLECTION)
