"""What an import, an adoption or an export did, and what it left behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ragstore.model.collection import MadeCollection

MAX_EXAMPLES = 20
"""Of each kind of finding, so that a report stays small whatever was found."""


class LeftBehind(StrEnum):
    """What could not come over."""

    VECTORS_WITHOUT_NODE = "vectors_without_node"
    UNUSABLE_VECTORS = "unusable_vectors"
    INVALID_NODES = "invalid_nodes"
    CHANGED_DOCUMENTS = "changed_documents"
    INDEX_STRUCTS = "index_structs"
    GRAPHS = "graphs"


class Noted(StrEnum):
    """What came over, or stayed where it is by choice, and should be known."""

    NODES_WITHOUT_VECTOR = "nodes_without_vector"
    DOUBLED_NODES = "doubled_nodes"
    HASHES_WITHOUT_NODES = "hashes_without_nodes"
    HASHES_NOT_TAKEN = "hashes_not_taken"
    OTHER_VECTOR_STORES = "other_vector_stores"
    INDEXES_SHARING_NODES = "indexes_sharing_nodes"
    INDEXES_RENAMED = "indexes_renamed"


@dataclass(slots=True)
class Findings:
    """Counts by kind, with the first few of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, found: Iterable[str], *, n_more: int = 0) -> None:
        """Count these, and so many more that are not named; the first are kept as examples."""
        kind = str(kind)
        kept = self.examples.get(kind, [])
        n_found = n_more
        for each in found:
            n_found += 1
            if len(kept) < MAX_EXAMPLES:
                kept.append(each)
        if n_found:
            self.counts[kind] = self.counts.get(kind, 0) + n_found
            self.examples[kind] = kept

    @property
    def total(self) -> int:
        """Of all kinds."""
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """``{kind: {"count", "examples"}}``."""
        return {kind: {"count": n, "examples": self.examples[kind]} for kind, n in sorted(self.counts.items())}


@dataclass(slots=True)
class TransferReport:
    """What came over.

    Args:
        documents: documents that got something, or that an export wrote.
        nodes: nodes written.
        embedded: vectors computed; always 0, because all are taken over.
        skipped: nodes that were there already, and equal.
        left_behind: what could not come over; where there is any, the exit status is 3.
        noted: what came over in another way than one may think.
        collection_made: that was made first.
    """

    documents: int = 0
    nodes: int = 0
    embedded: int = 0
    skipped: int = 0
    seconds: float = 0.0
    left_behind: Findings = field(default_factory=Findings)
    noted: Findings = field(default_factory=Findings)
    collection_made: MadeCollection | None = None

    @property
    def ok(self) -> bool:
        """Whether everything came over."""
        return not self.left_behind.counts

    def as_dict(self) -> dict[str, Any]:
        """The shape ``import``, ``export`` and ``adopt --json`` print."""
        return {
            "documents": self.documents,
            "nodes": self.nodes,
            "embedded": self.embedded,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            "left_behind": self.left_behind.as_dict(),
            "noted": self.noted.as_dict(),
            "collection_made": self.collection_made.as_dict() if self.collection_made else None,
        }


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far it has come.

    Args:
        step: what is being done.
        done: nodes or vectors of this step.
        expected: how many there are, None where that is not known.
        seconds: since the start.
    """

    step: str
    done: int
    expected: int | None
    seconds: float
