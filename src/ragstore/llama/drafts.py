"""Documents in the making: what the faces of a collection know of an operation before it is complete.

LlamaIndex says a document's hash before its nodes are written (``from_documents``, ``DUPLICATES_ONLY``), after
(``insert``), or after and before the document itself (``UPSERTS``), and writes the nodes of one document in several
calls. The hash may be recorded only when all of it is there; until then it stands here, in memory, where it dies with
the process: a re-run then finds no hash and does the document again.

=================================  ==================================================================================
``set_document_hash``              with nodes added before it: the document is complete, and those nodes are all of it
                                   without: announced; the first nodes that come replace the document's former ones
``set_document_hashes``            the same, but it waits for ``add_documents`` of the document, or any other question
``add_index_struct``               documents that the operation announced and wrote are complete
``add_documents`` of a document    complete, if its hash was announced or waits
=================================  ==================================================================================

An announced document whose nodes come in several calls is held back until its last node has come, so that readers never
see a part of it: the NEXT relationship of a call's last node says that more come.

Calls belong together when they are of one operation (see ``operation``), or when the nodes say that they were cut from
the version with that hash; transformations that change a document before it is cut make that hash another one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llama_index.core.schema import BaseNode

from ragstore.llama.nodes import source_hash
from ragstore.model.node import Node
from ragstore.protocol.completion import Closing

Kind = Literal["vectors", "bodies"]

_MAX_UNTOLD = 10_000


@dataclass(slots=True)
class Draft:
    """One document in the making.

    Args:
        announced: its hash, told before the nodes; None where none was told.
        waiting: its hash, told after the nodes, by a caller that goes on to write the document itself.
        owner: operation that announced it, or added its first nodes.
        source_hash: hash of the version its nodes were cut from, where they say.
        held: nodes with their embeddings that are not written yet, because more of the document comes.
    """

    announced: str | None = None
    waiting: str | None = None
    owner: int = 0
    source_hash: str | None = None
    vectors: set[str] = field(default_factory=set)
    bodies: set[str] = field(default_factory=set)
    held: list[Embedded] = field(default_factory=list)

    @property
    def is_begun(self) -> bool:
        """Whether it has nodes yet."""
        return bool(self.vectors or self.bodies)

    def closing(self, document_id: str, doc_hash: str) -> Closing:
        """Its nodes are all of it."""
        return Closing(document_id, doc_hash, frozenset(self.vectors), frozenset(self.bodies))

    def of(self, kind: Kind) -> set[str]:
        """Its nodes of that kind."""
        return self.vectors if kind == "vectors" else self.bodies


@dataclass(frozen=True, slots=True)
class Embedded:
    """A node with its embedding, and what is stored of it."""

    node: BaseNode
    stored: Node


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes of one document in one call.

    Args:
        source_hash: of the version they were cut from, None where they do not say or do not agree.
    """

    node_ids: list[str]
    source_hash: str | None


class Drafts:
    """The documents in the making of one collection; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drafts: OrderedDict[str, Draft] = OrderedDict()
        # What is asked for again and again, however many documents there are.
        self._announced: dict[int, set[str]] = {}
        self._waiting: set[str] = set()
        self._holding: set[str] = set()
        self._untold: OrderedDict[str, None] = OrderedDict()

    def told(self, document_id: str, doc_hash: str, *, owner: int) -> Closing | None:
        """A hash was set: returns the closing if the document's nodes came before it."""
        with self._lock:
            draft = self._drafts.get(document_id)
            if draft is not None and draft.is_begun and draft.announced is None and _agrees(draft, doc_hash, owner):
                return draft.closing(document_id, doc_hash)
            self._announce(document_id, doc_hash, owner)
            return None

    def begin(self, document_id: str, doc_hash: str, *, owner: int) -> None:
        """A new version of the document is about to be written; its first nodes replace the former ones."""
        with self._lock:
            self._announce(document_id, doc_hash, owner)

    def told_before_the_document(self, hashes: Mapping[str, str], *, owner: int) -> None:
        """Hashes were set by a caller that is likely to write the documents themselves next."""
        with self._lock:
            for document_id, doc_hash in hashes.items():
                draft = self._drafts.get(document_id)
                if draft is not None and draft.is_begun:
                    draft.waiting = doc_hash
                    self._waiting.add(document_id)
                else:
                    self._announce(document_id, doc_hash, owner)

    def begun_by(self, parts: Mapping[str, Part], kind: Kind, *, owner: int) -> set[str]:
        """Which of these documents begin with these nodes, so that their former nodes of that kind go."""
        with self._lock:
            return {i for i, part in parts.items() if _begins(self._drafts.get(i), part, kind, owner)}

    def release(self, incoming: Sequence[Embedded], *, owner: int) -> list[Embedded]:
        """Of these nodes and of those held back the ones to write now; the others are held back from here on."""
        groups: dict[str | None, list[Embedded]] = {}
        for each in incoming:
            groups.setdefault(each.stored.document_id, []).append(each)
        ids = {each.stored.node_id for each in incoming}
        with self._lock:
            now = self._held_by_others({i for i in groups if i is not None}, owner)
            for document_id, group in groups.items():
                draft = self._drafts.get(document_id) if document_id is not None else None
                whole = group
                if draft is not None and draft.held and group[0].node.prev_node is not None:
                    whole = draft.held + group
                # Nodes come in the order of their documents: only the last document can go on in the next call.
                if document_id is not None and group[-1] is incoming[-1] and _goes_on(draft, group, ids, owner):
                    self._hold(document_id, whole)
                else:
                    now += whole
        return now

    def held(self, document_ids: Iterable[str]) -> list[Embedded]:
        """What is held of these documents."""
        with self._lock:
            return [each for i in document_ids if i in self._holding for each in self._drafts[i].held]

    def held_by(self, owner: int) -> list[str]:
        """The documents that this operation announced and that are held."""
        with self._lock:
            return [i for i in self._holding if self._drafts[i].owner == owner]

    def is_held(self, document_id: str | None, node_id: str) -> bool:
        """Whether that node waits for others of its document."""
        with self._lock:
            if document_id not in self._holding:
                return False
            return any(each.stored.node_id == node_id for each in self._drafts[document_id].held)

    def n_nodes(self, document_id: str) -> int:
        """How many nodes with a vector the document has so far."""
        with self._lock:
            draft = self._drafts.get(document_id)
            return len(draft.vectors) if draft else 0

    def added(self, parts: Mapping[str, Part], kind: Kind, *, owner: int) -> None:
        """These nodes are written."""
        with self._lock:
            for document_id, part in parts.items():
                draft = self._drafts.get(document_id)
                if draft is not None and not _new_of(draft, part, kind):
                    continue
                if draft is None or (draft.announced is not None and not _belongs(draft, part, owner)):
                    # Of another version, and from elsewhere: what was announced was given up.
                    self._forget(document_id)
                    draft = self._drafts[document_id] = Draft(owner=owner)
                    self._untold[document_id] = None
                draft.source_hash = part.source_hash or draft.source_hash
                draft.of(kind).update(_new_of(draft, part, kind))
                if kind == "vectors":
                    self._hold(document_id, [])
            while len(self._untold) > _MAX_UNTOLD:
                # A program that adds nodes for ever and never tells a hash must not fill the memory.
                self._forget(next(iter(self._untold)))

    def completed_by(self, documents: Mapping[str, str]) -> tuple[list[Closing], dict[str, str]]:
        """Documents themselves are being written, id → hash.

        Returns:
            The closings of those whose hash was told, and the hashes of the others.
        """
        closings: list[Closing] = []
        own: dict[str, str] = {}
        with self._lock:
            for document_id, doc_hash in documents.items():
                draft = self._drafts.get(document_id)
                told = None if draft is None else draft.waiting or draft.announced
                if draft is None or told is None:
                    own[document_id] = doc_hash
                elif draft.is_begun:
                    closings.append(draft.closing(document_id, told))
                elif told != doc_hash:
                    own[document_id] = doc_hash
                else:
                    closings.append(Closing(document_id, doc_hash, emptied=True))
        return closings, own

    def ended_by(self, owner: int) -> list[Closing]:
        """An operation ended: the closings of what it announced and wrote whole."""
        with self._lock:
            announced = [(i, self._drafts[i]) for i in sorted(self._announced.get(owner, ()))]
            return [
                draft.closing(i, draft.announced)
                for i, draft in announced
                if draft.announced is not None and draft.is_begun and not draft.held
            ]

    def give_up_announced(self, owner: int) -> None:
        """An operation ended: what it announced and did not write will not come."""
        with self._lock:
            for document_id in list(self._announced.get(owner, ())):
                draft = self._drafts[document_id]
                if not draft.is_begun and not draft.held:
                    self._forget(document_id)

    def waiting(self) -> list[Closing]:
        """The closings of what waits for the document itself."""
        with self._lock:
            waiting = [(i, self._drafts[i]) for i in sorted(self._waiting)]
            return [draft.closing(i, draft.waiting) for i, draft in waiting if draft.waiting is not None]

    def closed(self, closings: Iterable[Closing]) -> None:
        """These are recorded."""
        self.forget_documents([closing.document_id for closing in closings])

    def forget_documents(self, document_ids: Sequence[str]) -> None:
        """These were closed or deleted."""
        with self._lock:
            for document_id in document_ids:
                self._forget(document_id)

    def forget_nodes(self, node_ids: Sequence[str]) -> None:
        """These were deleted."""
        gone = set(node_ids)
        with self._lock:
            for draft in self._drafts.values():
                draft.vectors -= gone
                draft.bodies -= gone

    def clear(self) -> None:
        """All was deleted."""
        with self._lock:
            for document_id in list(self._drafts):
                self._forget(document_id)

    def _announce(self, document_id: str, doc_hash: str, owner: int) -> None:
        for other in [i for i in self._holding if self._drafts[i].owner == owner]:
            # Whatever held its nodes back did not come to its end.
            self._forget(other)
        self._forget(document_id)
        self._drafts[document_id] = Draft(announced=doc_hash, owner=owner)
        self._announced.setdefault(owner, set()).add(document_id)

    def _hold(self, document_id: str, nodes: list[Embedded]) -> None:
        self._drafts[document_id].held = nodes
        if nodes:
            self._holding.add(document_id)
        else:
            self._holding.discard(document_id)

    def _held_by_others(self, document_ids: set[str], owner: int) -> list[Embedded]:
        """What was held of other documents, and is whole after all, because the operation went on to these."""
        goes_on = not document_ids.isdisjoint(self._announced.get(owner, ()))
        now: list[Embedded] = []
        for document_id in [i for i in self._holding - document_ids if self._drafts[i].owner == owner]:
            if goes_on:
                now += self._drafts[document_id].held
            else:
                # Another operation: the one that held them back failed.
                self._forget(document_id)
        return now

    def _forget(self, document_id: str) -> None:
        draft = self._drafts.pop(document_id, None)
        if draft is None:
            return
        self._waiting.discard(document_id)
        self._holding.discard(document_id)
        self._untold.pop(document_id, None)
        announced = self._announced.get(draft.owner)
        if announced is not None:
            announced.discard(document_id)
            if not announced:
                del self._announced[draft.owner]


def _begins(draft: Draft | None, part: Part, kind: Kind, owner: int) -> bool:
    if draft is None or draft.announced is None or draft.of(kind):
        return False
    return bool(_new_of(draft, part, kind)) and _belongs(draft, part, owner)


def _goes_on(draft: Draft | None, group: Sequence[Embedded], ids: set[str], owner: int) -> bool:
    """Whether more nodes of an announced document come."""
    if draft is None or draft.announced is None:
        return False
    more, part = group[-1].node.next_node, Part([], source_hash(group[-1].node))
    return more is not None and more.node_id not in ids and _belongs(draft, part, owner)


def _new_of(draft: Draft, part: Part, kind: Kind) -> list[str]:
    """The nodes of a part that count as that kind: one that was just put with its vector is no body."""
    return [i for i in part.node_ids if kind == "vectors" or i not in draft.vectors]


def _belongs(draft: Draft, part: Part, owner: int) -> bool:
    return draft.owner == owner or part.source_hash in (None, draft.announced)


def _agrees(draft: Draft, doc_hash: str, owner: int) -> bool:
    return draft.owner == owner or draft.source_hash in (None, doc_hash)
