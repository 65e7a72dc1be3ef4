"""Draft of one document whose nodes still come, rules for which nodes are part of it, and pipeline runs."""

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
from ragstore.protocol.completion import Completion

Kind = Literal["vectors", "bodies"]

_LATER = (NodeRelationship.NEXT, NodeRelationship.CHILD)
"""Relationships to nodes that come after a node."""


@dataclass(slots=True)
class Draft:
    """A document that is not complete yet.

    Args:
        announced: its hash, set before its nodes came; None if it was not.
        waiting: its hash, set after its nodes by a caller that will write the document itself.
        replaced_in: the update that deleted it; the first nodes of that update replace all that the document had.
        former: revision of the document when it was deleted.
        owner: operation that announced it, or added its first nodes.
        source_hash: hash of the document version its nodes were split from, if they say.
        call: the call that brought its nodes, if one call brings all of them.
        inserted: that call is an insert: its first nodes replace the live ones, whichever process wrote those.
        vectors: ids of its nodes that were written with a vector.
        bodies: ids of its nodes that were written without a vector.
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
        """Whether nodes of it were written."""
        return bool(self.vectors or self.bodies)

    @property
    def is_expected(self) -> bool:
        """Whether its first nodes replace the former ones."""
        return self.announced is not None or self.replaced_in is not None or self.inserted

    def closing(self, document_id: str, doc_hash: str) -> Completion:
        """The closing of the document: its nodes so far are all of it."""
        return Completion(document_id, doc_hash, frozenset(self.vectors), frozenset(self.bodies))

    def of(self, kind: Kind) -> set[str]:
        """Ids of its nodes of that kind."""
        return self.vectors if kind == "vectors" else self.bodies


@dataclass(frozen=True, slots=True)
class Embedded:
    """A LlamaIndex node, the form in which it is stored, and its embedding."""

    node: BaseNode
    stored: Node
    vector: Vectors


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes of one document in one call.

    Args:
        source_hash: hash of the document version they were split from; None if they do not say, or differ.
        neighbours: ids of the previous, next, parent and child nodes that they name.
    """

    node_ids: list[str]
    source_hash: str | None
    neighbours: frozenset[str] = frozenset()


def is_from_another_call(draft: Draft, part: Part, call: object) -> bool:
    """Whether the nodes of the draft came from another call than these, where one call brings all nodes."""
    if draft.inserted:
        return draft.call is not call
    # An announced document replaces its former nodes anyway; neighbours were split together, whatever the call.
    nodes = draft.vectors | draft.bodies
    return draft.announced is None and bool(nodes) and draft.call is not call and part.neighbours.isdisjoint(nodes)


def starts_document(draft: Draft | None, part: Part, kind: Kind, owner: int) -> bool:
    """Whether these are the first nodes of that kind, which replace the former ones."""
    if draft is None or not draft.is_expected or draft.of(kind):
        return False
    return bool(countable(draft, part, kind)) and is_expected_part(draft, part, owner)


def has_more_nodes(draft: Draft | None, group: Sequence[Embedded], ids: set[str], owner: int) -> bool:
    """Whether more nodes of an announced or replaced document will come.

    Args:
        ids: of all nodes of this call.
    """
    if draft is None or not draft.is_expected:
        return False
    more, part = group[-1].node.next_node, Part([], source_hash(group[-1].node))
    return more is not None and more.node_id not in ids and is_expected_part(draft, part, owner)


def lacks_nodes(draft: Draft, group: Sequence[Embedded]) -> bool:
    """Whether an insert has written no nodes yet, and these name later nodes that are not among them."""
    group_ids = {each.stored.node_id for each in group}
    return not draft.is_begun and not named_by([each.node for each in group], _LATER) <= group_ids


def countable(draft: Draft, part: Part, kind: Kind) -> list[str]:
    """Ids of the nodes of a part that count as that kind: a node just written with its vector is no body."""
    return [i for i in part.node_ids if kind == "vectors" or i not in draft.vectors]


def is_expected_part(draft: Draft, part: Part, owner: int) -> bool:
    """Whether these nodes come from the operation, or the document version, that the draft waits for."""
    if draft.replaced_in is not None:
        return current_update() == draft.replaced_in
    if draft.inserted:
        return current_insert() is not None
    return draft.owner == owner or part.source_hash in (None, draft.announced)


def hash_matches(draft: Draft, doc_hash: str, owner: int) -> bool:
    """Whether a hash that this operation sets is that of the draft's nodes."""
    return draft.owner == owner or draft.source_hash in (None, doc_hash)


_MAX_RUNS = 1_000


@dataclass(slots=True)
class Run:
    """What a pipeline run has brought so far.

    Args:
        begun_in: thread and task, see ``thread_and_task``.
        nodes: nodes with their embeddings, kept until the run ends.
        hashes: hashes of its documents, as the run set them.
    """

    begun_in: tuple[int, int]
    nodes: list[Embedded] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def documents(self) -> set[str]:
        """Ids of the documents whose nodes it has brought."""
        return {each.stored.document_id for each in self.nodes if each.stored.document_id is not None}


class Runs:
    """The pipeline runs that use the document store of one collection; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def docstore_used(self) -> None:
        """Note that the document store was used: a run that uses it also writes the documents at its end."""
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
        """Keep nodes until the caller's run ends; False if its end will not be known."""
        with self._lock:
            run = self._run()
            if run is not None:
                run.nodes += nodes
            return run is not None

    def set_hashes(self, hashes: Mapping[str, str]) -> dict[str, str]:
        """Keep hashes for the caller's run; returns those of documents of which it has brought no nodes."""
        with self._lock:
            run = self._run()
            if run is None:
                return dict(hashes)
            documents = run.documents
            run.hashes |= {i: doc_hash for i, doc_hash in hashes.items() if i in documents}
            return {i: doc_hash for i, doc_hash in hashes.items() if i not in documents}

    def take(self) -> Run | None:
        """Remove and return the caller's run, which is at its end."""
        name = pipeline_run()
        with self._lock:
            return None if name is None else self._runs.pop(name, None)

    def _run(self) -> Run | None:
        name = pipeline_run()
        return None if name is None else self._runs.get(name)
