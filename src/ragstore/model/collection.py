"""A collection: a named set of documents with one embedding space and one chunking."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

from ragstore.errors import UsageError

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,39}")
MAX_DIM = 16_000

IndexState = Literal["none", "building", "ready"]


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """What makes two vectors comparable.

    Args:
        model: the setting that named the model, e.g. ``wordllama`` or ``openai:text-embedding-3-small``;
            ``external`` when callers bring the vectors.
        dim: length of each vector, 1 to 16,000.
    """

    model: str
    dim: int
    metric: Literal["cosine"] = "cosine"

    def __str__(self) -> str:
        return f"{self.model} ({self.dim} dimensions, {self.metric})"


@dataclass(frozen=True, slots=True)
class Chunking:
    """How text is cut, in tokens of the splitter's tokenizer."""

    chunk_size: int
    chunk_overlap: int


@dataclass(frozen=True, slots=True)
class Collection:
    """One row of ``ragstore.collection``."""

    collection_id: int
    name: str
    space: EmbeddingSpace
    chunking: Chunking
    text_search_config: str
    index_state: IndexState

    @property
    def table(self) -> str:
        """Name of its vector table in schema ``ragstore``, unquoted."""
        return table_name(self.name)


@dataclass(frozen=True, slots=True)
class CollectionSummary:
    """A collection and how much is live in it, as ``status`` shows it."""

    name: str
    documents: int
    nodes: int
    model: str
    dim: int
    index_state: IndexState

    def as_dict(self) -> dict[str, str | int]:
        """One entry of ``collections`` in ``status --json``."""
        return asdict(self)


def table_name(collection: str) -> str:
    """The name PGVectorStore gives the table of ``table_name=collection``."""
    return f"data_{collection}"


def checked_name(name: str) -> str:
    """Return the name, or raise UsageError when both databases could not carry it."""
    if NAME_PATTERN.fullmatch(name):
        return name
    raise UsageError(
        f"collection name {name!r} cannot be used",
        hint="use 1 to 40 of the characters a-z, 0-9, '_' and '-', starting with a letter",
        name=name,
    )
