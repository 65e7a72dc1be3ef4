"""What a property graph consists of, without LlamaIndex's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ragstore.errors import InvalidNodeError

MAX_NAME_BYTES = 1024
"""Of a subject, an object, a node's id."""

MAX_RELATION_BYTES = 512


@dataclass(frozen=True, slots=True)
class GraphNode:
    """An entity, which has a name, or a chunk of text, which has a text.

    Args:
        sources: ids of the chunks that name an entity.
    """

    node_id: str
    label: str
    name: str | None
    text: str | None
    properties: dict[str, Any]
    embedding: Sequence[float] | None = field(default=None, repr=False)
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class GraphRelation:
    """An edge between two nodes; a second one of the same ends and label is the same one.

    Args:
        sources: ids of the chunks that state it.
    """

    source_id: str
    label: str
    target_id: str
    properties: dict[str, Any]
    sources: Sequence[str] = ()


Path = tuple[GraphNode, GraphRelation, GraphNode]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes or relations are meant; all that is given must hold, and an empty sequence allows none.

    Args:
        properties: one of these must be equal; None equals what is not there.
        node_ids: of a relation, one of its ends.
        names: the same; an id is found by the name that it was made from.
        labels: of relations.
    """

    properties: dict[str, Any] | None = None
    node_ids: Sequence[str] | None = None
    names: Sequence[str] | None = None
    labels: Sequence[str] | None = None


def checked_key(text: str, what: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return what names a part of a graph, or raise InvalidNodeError where it is empty, too long or not text."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = 0
    if 1 <= size <= max_bytes and "\0" not in text:
        return text
    raise InvalidNodeError(
        f"{what} {text[:50]!r} of {size:,} bytes cannot be stored",
        hint=f"use 1 to {max_bytes} bytes of text without NUL",
    )
