"""Embedding models of a process: one per collection's embedding space, loaded when first needed."""

from __future__ import annotations

import threading

from ragstore.embedding import Embedder, ModelOptions, load
from ragstore.errors import EmbeddingSpaceError
from ragstore.model.collection import Collection
from ragstore.settings import Settings

EXTERNAL = "external"
"""The model of collections whose vectors come with the nodes."""


class Models:
    """Loads each model once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Embedder] = {}
        self._lock = threading.Lock()

    def named(self, model: str) -> Embedder:
        """The model of that setting."""
        with self._lock:
            if model not in self._loaded:
                self._loaded[model] = load(model, self._options(model))
            return self._loaded[model]

    def of(self, collection: Collection) -> Embedder:
        """The model of a collection.

        Raises:
            EmbeddingSpaceError: the model's vectors do not have the length that the collection was made with.
        """
        embedder = self.named(collection.space.model)
        if embedder.dim != collection.space.dim:
            raise EmbeddingSpaceError(
                f"collection {collection.name!r} holds {collection.space}, but {embedder.name} now gives "
                f"{embedder.dim} dimensions",
                hint="set RAGSTORE_MODEL_BASE_URL to the server of the model that the collection was made with",
                collection=collection.name,
            )
        return embedder

    def check(self, collection: Collection) -> None:
        """Refuse a collection that was made with another model than the one somebody asked for.

        Raises:
            EmbeddingSpaceError: names both.
        """
        asked, made = self._settings.model, collection.space.model
        if asked == made or EXTERNAL in (asked, made) or self._settings.origin("model") == "default":
            return
        raise EmbeddingSpaceError(
            f"collection {collection.name!r} was made with {collection.space}, RAGSTORE_MODEL asks for {asked}",
            hint=f"unset RAGSTORE_MODEL or set it to {made}; or use another collection with -c",
            in_python=f"unset RAGSTORE_MODEL or set it to {made}; or give collection= another one",
            collection=collection.name,
            made_with=made,
            asked_for=asked,
        )

    def _options(self, model: str) -> ModelOptions:
        settings = self._settings
        # Address and key belong to the model of the settings: a key must not reach another model's server.
        own = model == settings.model
        return ModelOptions(
            base_url=settings.model_base_url if own else None,
            api_key=settings.model_api_key.get_secret_value() if own and settings.model_api_key else None,
            batch_size=settings.model_batch_size,
            max_retries=settings.model_max_retries,
            timeout_s=settings.model_timeout_s,
            requests_per_minute=settings.model_requests_per_minute,
        )
