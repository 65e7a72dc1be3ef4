"""A run: one attempt to bring a batch of documents to new revisions."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType
from uuid import UUID

import numpy as np

from ragstore.model.node import Node

DocumentId = NewType("DocumentId", str)
NodeId = NewType("NodeId", str)
RunId = NewType("RunId", str)
Action = Literal["added", "updated", "renamed", "deleted"]
Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class PlannedRevision:
    """A document's next revision, complete but invisible.

    Args:
        planned_from: the revision the ledger showed when this was planned, 0 for a document it did not know.
        vectors: shape ``(len(nodes), dim)``, float32, in node order.
        replaces: for a renamed document the old id and the revision it was planned from; deleted in the same
            transaction.
        n_embedded: nodes whose vector was computed for this revision; the others were reused.
    """

    document_id: str
    source_uri: str
    planned_from: int
    action: Action
    nodes: list[Node]
    vectors: Vectors
    fingerprint: str | None = None
    content_hash: str | None = None
    doc_hash: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    etag: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    replaces: tuple[str, int] | None = None
    n_embedded: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A begun run, as its owner knows it."""

    run_id: RunId
    worker: str
    node_ids: list[str]


@dataclass(frozen=True, slots=True)
class PublishResult:
    """Which of a run's documents readers see now, and which had moved on and must be planned again."""

    published: list[str]
    moved_on: list[str]


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """Something that must still happen in MongoDB.

    Args:
        stamp: of ``delete_nodes``: nothing newer is deleted. Of what is put: how often it was tried, this time
            included; -1 where it was put, and what came late is to go.
    """

    outbox_id: int
    namespace: str
    collection_id: int
    action: Literal["delete_nodes", "put_nodes", "put_ref_docs"]
    ids: list[str]
    stamp: int
    token: str = ""

    @property
    def is_put(self) -> bool:
        """Whether it puts something into MongoDB."""
        return self.action != "delete_nodes" and self.stamp >= 0


@dataclass(frozen=True, slots=True)
class Written:
    """Nodes that a committed transaction put with their vectors, as its process still has them.

    Args:
        transaction: PostgreSQL's number of it; a row that it wrote, and nobody since, bears it.
    """

    transaction: str
    nodes: Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class RefDoc:
    """What MongoDB's per-document entries must say; ``node_ids`` is None for a document that is gone."""

    document_id: str
    revision: int
    node_ids: list[str] | None
    doc_hash: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


_RANDOM_BITS = 74
_VERSION_7 = 0x7 << 76
_VARIANT_RFC = 0b10 << 62


def new_run_id() -> RunId:
    """An id that no other run has or will have."""
    return RunId(_uuid7())


def new_node_id() -> NodeId:
    """An id that no other node has or will have."""
    return NodeId(_uuid7())


def _uuid7() -> str:
    """A version 7 UUID (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits."""
    millis = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big") & ((1 << _RANDOM_BITS) - 1)
    rand_a, rand_b = random >> 62, random & ((1 << 62) - 1)
    return str(UUID(int=(millis << 80) | _VERSION_7 | (rand_a << 64) | _VARIANT_RFC | rand_b))
