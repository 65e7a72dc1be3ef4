"""What a collection may be made with, and whether that is what one was made with."""

from __future__ import annotations

from ragstore.app.models import EXTERNAL, Models
from ragstore.errors import EmbeddingSpaceError, UsageError
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace, VectorType
from ragstore.postgres.vectors import MAX_INDEXED_DIM


def checked_dim(dim: int) -> int:
    """The length, where an index takes vectors of it.

    Raises:
        UsageError: it does not.
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
    """Check what somebody asks for against what there is; None asks for nothing.

    Raises:
        EmbeddingSpaceError: it was made with another; both are named.
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
    """As ``check_space``."""
    if asked in (None, collection.vector_type):
        return
    raise EmbeddingSpaceError(
        f"collection {collection.name!r} stores vectors as {collection.vector_type}, not as {asked}",
        hint="use another collection name",
        collection=collection.name,
    )


def check_chunking(chunking: Chunking) -> None:
    """Check that chunks get on.

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
