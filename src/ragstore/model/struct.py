"""What LlamaIndex keeps of an index beside the nodes."""

from __future__ import annotations

from dataclasses import dataclass

NAMESPACE = "index_store"
"""Of the structs of all collections, in MongoDB and in the outbox."""

VECTOR_STORE = "vector_store"
"""LlamaIndex's type of a vector index."""


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct as it is stored.

    Args:
        kind: LlamaIndex's type, e.g. ``list``.
        body: as LlamaIndex writes it, JSON in ASCII.
        stamp: orders the writes of one id, across both stores; None where something else than ragstore wrote it.
    """

    index_id: str
    kind: str
    body: str
    stamp: int | None = None

    def is_same(self, other: Struct) -> bool:
        """Whether it says the same."""
        return (self.kind, self.body) == (other.kind, other.body)
