"""Embedding models of a process, loaded when first needed; and checks of a collection against what is asked for."""

from __future__ import annotations

import threading

from ragstore.embedding import Embedder, ModelOptions, load
from ragstore.errors import EmbeddingSpaceError, UsageError
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace, VectorType
from ragstore.postgres.vectors import MAX_INDEXED_DIM
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
        """The model that this setting names."""
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
        """Refuse a collection whose model is not the one that the settings explicitly ask for.

        Raises:
            EmbeddingSpaceError: the models differ; it names both.
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
        # Address and key belong to the model of the settings: a key must not be sent to the server of another model.
        own = model == settings.model
        return ModelOptions(
            base_url=settings.model_base_url if own else None,
            api_key=settings.model_api_key.get_secret_value() if own and settings.model_api_key else None,
            batch_size=settings.model_batch_size,
            max_retries=settings.model_max_retries,
            timeout_s=settings.model_timeout_s,
            requests_per_minute=settings.model_requests_per_minute,
        )


def checked_dim(dim: int) -> int:
    """The length of vectors, if an index can hold vectors of that length.

    Raises:
        UsageError: it cannot.
    """
    if not 1 <= dim <= MAX_INDEXED_DIM:
        raise UsageError(
            f"vectors of {dim:,} dimensions cannot be stored",
            hint=f"use 1 to {MAX_INDEXED_DIM:,}, the most that an index takes; many models give shorter vectors when "
            "asked (dimensions=), and of those trained for it the first values of a long one are a good short one",
            dim=dim,
        )
    return dim


def check_space(collection: Collection, model: str | None, dim: int | None) -> None:
    """Refuse a collection whose model or length is not the requested one; None requests nothing.

    Raises:
        EmbeddingSpaceError: they differ; it names both.
    """
    made = collection.space
    if (model is None or model == made.model) and (dim is None or dim == made.dim):
        return
    asked = EmbeddingSpace(model or made.model, dim or made.dim)
    raise EmbeddingSpaceError(
        f"collection {collection.name!r} was made with {made}, not with {asked}",
        hint="use another collection name",
        collection=collection.name,
    )


def check_vector_type(collection: Collection, asked: VectorType | None) -> None:
    """Refuse a collection whose vector type is not the requested one, as ``check_space`` does."""
    if asked in (None, collection.vector_type):
        return
    raise EmbeddingSpaceError(
        f"collection {collection.name!r} stores vectors as {collection.vector_type}, not as {asked}",
        hint="use another collection name",
        collection=collection.name,
    )


def check_chunking(chunking: Chunking) -> None:
    """Check that chunks advance through a text.

    Raises:
        UsageError: they would not.
    """
    if not 0 <= chunking.chunk_overlap < chunking.chunk_size:
        raise UsageError(
            f"chunk_overlap {chunking.chunk_overlap} must be below chunk_size {chunking.chunk_size}",
            hint="see RAGSTORE_CHUNK_SIZE and RAGSTORE_CHUNK_OVERLAP",
        )


def chosen_space(models: Models, model: str, dim: int | None) -> EmbeddingSpace:
    """The space of a new collection.

    Raises:
        UsageError: a length is missing, or is not the model's.
    """
    if model == EXTERNAL:
        if dim is None:
            raise UsageError(
                "a collection whose vectors come with the nodes needs their length",
                hint="set RAGSTORE_MODEL to a model that embeds; vectors come by 'ragstore import' or from Python",
                in_python="give dim=, for example create_collection(name, model='external', dim=256)",
            )
        return EmbeddingSpace(model, checked_dim(dim))
    own = models.named(model).dim
    if dim is not None and dim != own:
        raise UsageError(f"model {model} gives {own} dimensions, not {dim}", hint="leave dim out")
    return EmbeddingSpace(model, checked_dim(own))
