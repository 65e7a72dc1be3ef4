"""One document in the making, and which nodes are part of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llama_index.core.schema import BaseNode, NodeRelationship

from ragstore.llama.instrumentation import current_insert, current_update, pipeline_run, thread_and_task
from ragstore.llama.nodes import named_by, source_hash
from ragstore.model.node import Node
from ragstore.model.run import Vectors
from ragstore.protocol.completion import Closing

Kind = Literal["vectors", "bodies"]

_LATER = (NodeRelationship.NEXT, NodeRelationship.CHILD)
"""Nodes that a node names so come after it."""


@dataclass(slots=True)
class Draft:
    """One document in the making.

    Args:
        announced: its hash, told before the nodes; None where none was told.
        waiting: its hash, told after the nodes, by a caller that goes on to write the document itself.
        replaced_in: the update that deleted it, and whose first nodes take the place of all that it had.
        former: revision that the document was at then.
        owner: operation that announced it, or added its first nodes.
        source_hash: hash of the version its nodes were cut from, where they say.
        call: that brought its nodes, if one brings all of them.
        inserted: that call is an insert, whose first nodes take the place of what is live, whoever wrote it.
        held: nodes with their embeddings that are not written yet, because more of the document comes.
    """

    announced: str | None = None
    waiting: str | None = None
    replaced_in: str | None = None
    former: int = 0
    owner: int = 0
    source_hash: str | None = None
    call: object | None = None
    inserted: bool = False
    vectors: set[str] = field(default_factory=set)
    bodies: set[str] = field(default_factory=set)
    held: list[Embedded] = field(default_factory=list)

    @property
    def is_begun(self) -> bool:
        """Whether it has nodes yet."""
        return bool(self.vectors or self.bodies)

    @property
    def is_expected(self) -> bool:
        """Whether its first nodes replace former ones."""
        return self.announced is not None or self.replaced_in is not None or self.inserted

    def closing(self, document_id: str, doc_hash: str) -> Closing:
        """Its nodes are all of it."""
        return Closing(document_id, doc_hash, frozenset(self.vectors), frozenset(self.bodies))

    def of(self, kind: Kind) -> set[str]:
        """Its nodes of that kind."""
        return self.vectors if kind == "vectors" else self.bodies


@dataclass(frozen=True, slots=True)
class Embedded:
    """A node with its embedding, and what is stored of both."""

    node: BaseNode
    stored: Node
    vector: Vectors


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes of one document in one call.

    Args:
        source_hash: of the version they were cut from, None where they do not say or do not agree.
        neighbours: nodes before, behind, above and below them.
    """

    node_ids: list[str]
    source_hash: str | None
    neighbours: frozenset[str] = frozenset()


def is_from_another_call(draft: Draft, part: Part, call: object) -> bool:
    """Whether the draft has nodes that another call brought than the one that brings these, and all of them."""
    if draft.inserted:
        return draft.call is not call
    # What was announced replaces former nodes by itself; neighbours were cut together, whatever the call.
    nodes = draft.vectors | draft.bodies
    return draft.announced is None and bool(nodes) and draft.call is not call and part.neighbours.isdisjoint(nodes)


def starts_document(draft: Draft | None, part: Part, kind: Kind, owner: int) -> bool:
    """Whether these are the first nodes of that kind, which replace former ones."""
    if draft is None or not draft.is_expected or draft.of(kind):
        return False
    return bool(countable(draft, part, kind)) and is_expected_part(draft, part, owner)


def has_more_nodes(draft: Draft | None, group: Sequence[Embedded], ids: set[str], owner: int) -> bool:
    """Whether more nodes of an announced or replaced document come."""
    if draft is None or not draft.is_expected:
        return False
    more, part = group[-1].node.next_node, Part([], source_hash(group[-1].node))
    return more is not None and more.node_id not in ids and is_expected_part(draft, part, owner)


def lacks_nodes(draft: Draft, group: Sequence[Embedded]) -> bool:
    """Whether nodes of an insert that has written none name others of their document which are not here."""
    there = {each.stored.node_id for each in group}
    return not draft.is_begun and not named_by([each.node for each in group], _LATER) <= there


def countable(draft: Draft, part: Part, kind: Kind) -> list[str]:
    """The nodes of a part that count as that kind: one that was just put with its vector is no body."""
    return [i for i in part.node_ids if kind == "vectors" or i not in draft.vectors]


def is_expected_part(draft: Draft, part: Part, owner: int) -> bool:
    """Whether these nodes are of the operation, or of the version, that was announced."""
    if draft.replaced_in is not None:
        return current_update() == draft.replaced_in
    if draft.inserted:
        return current_insert() is not None
    return draft.owner == owner or part.source_hash in (None, draft.announced)


def hash_matches(draft: Draft, doc_hash: str, owner: int) -> bool:
    """Whether that hash is told of the nodes that the draft has."""
    return draft.owner == owner or draft.source_hash in (None, doc_hash)


_MAX_RUNS = 1_000


@dataclass(slots=True)
class Run:
    """What a run has brought so far.

    Args:
        begun_in: thread and task.
        hashes: of its documents, as it told them.
    """

    begun_in: tuple[int, int]
    nodes: list[Embedded] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def documents(self) -> set[str]:
        """Those of which it has brought nodes."""
        return {each.stored.document_id for each in self.nodes if each.stored.document_id is not None}


class Runs:
    """The runs that use the document store of one collection; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def docstore_used(self) -> None:
        """The document store was asked; where a run does, it also gives the documents at its end."""
        name = pipeline_run()
        if name is None:
            return
        here = thread_and_task()
        with self._lock:
            if name in self._runs:
                return
            for failed in [i for i, run in self._runs.items() if run.begun_in == here and run.nodes]:
                del self._runs[failed]
            self._runs[name] = Run(here)
            idle = [i for i, run in self._runs.items() if not run.nodes]
            for i in idle[: max(0, len(idle) - _MAX_RUNS)]:
                del self._runs[i]

    def hold(self, nodes: Sequence[Embedded]) -> bool:
        """Keep nodes until the end of the caller's run; False where it will not be known."""
        with self._lock:
            run = self._run()
            if run is not None:
                run.nodes += nodes
            return run is not None

    def set_hashes(self, hashes: Mapping[str, str]) -> dict[str, str]:
        """The run told hashes; returns those of documents of which it has brought no nodes."""
        with self._lock:
            run = self._run()
            if run is None:
                return dict(hashes)
            documents = run.documents
            run.hashes |= {i: doc_hash for i, doc_hash in hashes.items() if i in documents}
            return {i: doc_hash for i, doc_hash in hashes.items() if i not in documents}

    def take(self) -> Run | None:
        """What the caller's run has brought, at its end."""
        name = pipeline_run()
        with self._lock:
            return None if name is None else self._runs.pop(name, None)

    def _run(self) -> Run | None:
        name = pipeline_run()
        return None if name is None else self._runs.get(name)
