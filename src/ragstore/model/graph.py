"""Nodes, relations and selections of a property graph, without LlamaIndex's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ragstore.errors import InvalidNodeError

MAX_NAME_BYTES = 1024
"""Most bytes of a subject, an object or a node's id."""

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
    """An edge between two nodes; two edges with the same ends and label are the same edge.

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
    """Selection of nodes or relations; all given conditions must be true, and an empty sequence selects none.

    Args:
        properties: at least one must be equal; None is equal to a missing property.
        node_ids: ids of nodes; for a relation, ids of one of its ends.
        names: names, in the same way; an id also matches the name that it was made from.
        labels: labels of relations.
    """

    properties: dict[str, Any] | None = None
    node_ids: Sequence[str] | None = None
    names: Sequence[str] | None = None
    labels: Sequence[str] | None = None


def checked_key(text: str, what: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return the name of a part of a graph, or raise InvalidNodeError if it is empty, too long or not text."""
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
