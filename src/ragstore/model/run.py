"""Runs, attempts to bring a batch of documents to new revisions; outbox items; and new ids of runs and nodes."""

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
        planned_from: the revision in the ledger when this was planned, 0 for a document that was not in it.
        vectors: shape ``(len(nodes), dim)``, float32, in node order.
        replaces: for a renamed document, the old id and the revision it was planned from; the old document is deleted
            in the same transaction.
        n_embedded: nodes with a vector computed for this revision; the other vectors were reused.
        vanished: members that this container no longer has, and the revisions they were planned from; those that did
            not move on are deleted in the same transaction.
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
    ctime_ns: int | None = None
    notes: dict[str, int | str] = field(default_factory=dict)
    vanished: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has begun, as the process that owns it knows it."""

    run_id: RunId
    worker: str
    node_ids: list[str]


@dataclass(frozen=True, slots=True)
class PublishResult:
    """Documents of a run that readers see now, and documents with a newer revision that must be planned again.

    Args:
        deleted: members that were deleted with the new revision of their container.
    """

    published: list[str]
    moved_on: list[str]
    deleted: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """A change that must still be made in MongoDB.

    Args:
        stamp: for ``delete_nodes``, the limit: nothing newer is deleted. For the other actions, the number of tries,
            including this one; -1 if it was put, and only what arrived late must be deleted.
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
        """Whether it puts nodes or entries into MongoDB."""
        return self.action != "delete_nodes" and self.stamp >= 0


@dataclass(frozen=True, slots=True)
class Written:
    """Nodes with vectors that a committed transaction wrote, still in memory of the process that wrote them.

    Args:
        transaction: PostgreSQL's number of the transaction; a row has it if no later transaction changed the row.
    """

    transaction: str
    nodes: Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class RefDoc:
    """Content of MongoDB's entries of a document; ``node_ids`` is None for a deleted document."""

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
