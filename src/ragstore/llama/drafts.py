"""Pending documents: what the LlamaIndex stores know of the documents of an operation that is not complete.

LlamaIndex sets a document's hash before its nodes are written (``from_documents``, ``DUPLICATES_ONLY``), after them
(``insert``), or after them and before the document itself (``UPSERTS``), and writes the nodes of one document in
several calls. The hash may be recorded only when the whole document is stored. Until then it is kept here, in memory:
if the process dies, the hash is lost with it, and a re-run finds no hash and writes the document again.

=================================  ==================================================================================
call                               effect
=================================  ==================================================================================
``set_document_hash``              after nodes: the document is complete, and those nodes are all of it
                                   before nodes: announced; the first nodes that come replace the document's former ones
``set_document_hashes``            the same, but it waits for ``add_documents`` of the document, or any other question
first nodes in an ``insert``       they replace the document's former nodes, which the ledger knows
``add_index_struct``               documents that the operation announced and wrote are complete
``add_documents`` of a document    complete, if its hash was announced or waits
a delete within an update          nothing yet: the first nodes that come replace all that the document had
=================================  ==================================================================================

An announced or replaced document whose nodes come in several calls is held back until its last node has come, so that
readers never see a part of it. If the last node of a call has a NEXT relationship, more nodes come.

Calls belong together if they are part of one operation (see ``instrumentation.this_operation``), or if the nodes say
that they were split from the document version with that hash. A transformation that changes a document before it is
split changes that hash.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from ragstore.llama.draft import (
    Draft,
    Embedded,
    Kind,
    Part,
    countable,
    has_more_nodes,
    hash_matches,
    is_expected_part,
    is_from_another_call,
    lacks_nodes,
    starts_document,
)
from ragstore.llama.instrumentation import current_insert, pipeline_run, whole_document_call
from ragstore.protocol.completion import Completion

Key = str | tuple[str, int]

_MAX_WITHOUT_HASH = 10_000

_SOME = 10

_MAX_UPDATES = 1_000
"""Updates that are remembered; a failed one is forgotten once so many newer ones came."""


class PendingDocuments:
    """The pending documents of one collection; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Drafts of an insert have its operation in their key: several threads may insert the same document.
        self._drafts: OrderedDict[Key, Draft] = OrderedDict()
        # Indexes over the drafts, for look-ups that must not take longer with more documents.
        self._announced: dict[int, set[str]] = {}
        self._waiting: set[str] = set()
        self._holding: set[Key] = set()
        self._without_hash: OrderedDict[Key, None] = OrderedDict()
        self._replaced: dict[str, set[str]] = {}

    def hash_set(self, document_id: str, doc_hash: str, *, owner: int) -> Completion | None:
        """Note the hash of a document; returns its closing if its nodes came before the hash."""
        with self._lock:
            key = self._key(document_id, owner)
            draft = self._drafts.get(key)
            if (
                draft is not None
                and draft.is_begun
                and draft.announced is None
                and hash_matches(draft, doc_hash, owner)
            ):
                if draft.inserted:
                    self._forget(key)
                return draft.closing(document_id, doc_hash)
            if current_insert() is not None:
                # The insert brought no nodes.
                self._forget(key)
                return None
            self._announce(document_id, doc_hash, owner)
            return None

    def is_known(self, document_id: str, *, owner: int) -> bool:
        """Whether there is a draft of the document."""
        with self._lock:
            return self._get(document_id, owner) is not None

    def replace(self, document_id: str, former: int, *, update: str, owner: int) -> None:
        """Note that an update deleted a document, which it will write again.

        Args:
            former: revision of the document when it was deleted.
        """
        with self._lock:
            self._forget(document_id)
            self._drafts[document_id] = Draft(replaced_in=update, former=former, owner=owner)
            self._replaced.setdefault(update, set()).add(document_id)
            while len(self._replaced) > _MAX_UPDATES:
                for stale in list(next(iter(self._replaced.values()))):
                    self._forget(stale)

    def not_written(self, update: str | None, document_id: str | None = None) -> dict[str, int]:
        """Documents that an update deleted and did not write again, id → former revision; all, or only this one."""
        with self._lock:
            return {
                i: draft.former
                for i, draft in self._drafts_in(update, document_id)
                if not draft.is_begun and not draft.held
            }

    def held_in(self, update: str | None, document_id: str | None = None) -> list[Embedded]:
        """Held nodes of documents that an update deleted; of all, or only of this one."""
        with self._lock:
            return [each for _, draft in self._drafts_in(update, document_id) for each in draft.held]

    def deleted_unwritten(self, document_ids: Iterable[str]) -> set[str]:
        """Those of these documents that an update deleted and has not written again."""
        with self._lock:
            drafts = {i: self._drafts.get(i) for i in document_ids}
            return {i for i, d in drafts.items() if d is not None and d.replaced_in is not None and not d.is_begun}

    def hashes_set(self, hashes: Mapping[str, str], *, owner: int) -> None:
        """Note hashes that were set by a caller that is likely to write the documents themselves next."""
        with self._lock:
            for document_id, doc_hash in hashes.items():
                draft = self._drafts.get(document_id)
                # A run passes only documents without nodes of its own: the nodes of the draft came from another call.
                is_of_it = not pipeline_run() or (draft is not None and draft.source_hash in (None, doc_hash))
                if draft is not None and draft.is_begun and is_of_it:
                    draft.waiting = doc_hash
                    self._waiting.add(document_id)
                else:
                    self._announce(document_id, doc_hash, owner)

    def drop_stale(self, parts: Mapping[str, Part], *, owner: int, is_first: bool = True) -> None:
        """Forget the nodes that another call, which failed or runs at the same time, added to these documents.

        Also begins a draft for each document of an insert.

        Args:
            is_first: False for nodes that may follow others of the same insert after a trace within it has ended.
        """
        call, insert = whole_document_call(), current_insert()
        with self._lock:
            for document_id, part in parts.items():
                key = self._key(document_id, owner)
                draft = self._drafts.get(key)
                if is_first and call is not None and draft is not None and is_from_another_call(draft, part, call):
                    self._forget(key)
                    key = self._key(document_id, owner)
                if insert is not None and key not in self._drafts:
                    self._drafts[key] = Draft(owner=owner, call=insert, inserted=True)
                    self._without_hash[key] = None

    def starting(self, parts: Mapping[str, Part], kind: Kind, *, owner: int) -> set[str]:
        """Those of these documents that begin with these nodes, which replace their former nodes of that kind."""
        with self._lock:
            return {i for i, part in parts.items() if starts_document(self._get(i, owner), part, kind, owner)}

    def release(self, incoming: Sequence[Embedded], *, owner: int, ends: bool = True) -> list[Embedded]:
        """Choose the nodes to write now, from these and those held back; hold back the others.

        Args:
            ends: whether the end of an insert will be known.
        """
        groups: dict[str | None, list[Embedded]] = {}
        for each in incoming:
            groups.setdefault(each.stored.document_id, []).append(each)
        ids = {each.stored.node_id for each in incoming}
        with self._lock:
            now = self._held_by_others({i for i in groups if i is not None}, owner)
            for document_id, group in groups.items():
                draft = self._get(document_id, owner) if document_id is not None else None
                whole = group
                if draft is not None and draft.held and (draft.inserted or group[0].node.prev_node is not None):
                    whole = draft.held + group
                more = (
                    lacks_nodes(draft, whole) and ends
                    if draft and draft.inserted
                    else has_more_nodes(draft, group, ids, owner)
                )
                # Nodes come in the order of their documents: only the last document can have more in the next call.
                if document_id is not None and group[-1] is incoming[-1] and more:
                    self._hold(self._key(document_id, owner), whole)
                else:
                    now += whole
        return now

    def held(self, document_ids: Iterable[str]) -> list[Embedded]:
        """Held nodes of these documents."""
        with self._lock:
            return [each for i in document_ids if i in self._holding for each in self._drafts[i].held]

    def held_by_insert(self, document_id: str, *, owner: int) -> list[Embedded]:
        """Held nodes of a document of an insert that is at its end."""
        with self._lock:
            draft = self._get(document_id, owner)
            return list(draft.held) if draft is not None and draft.inserted else []

    def written_before(self, document_ids: Iterable[str], *, owner: int) -> dict[str, list[str]]:
        """Ids of some nodes of each of these documents that the current call has already written."""
        with self._lock:
            drafts = {i: self._get(i, owner) for i in document_ids}
            return {i: sorted(d.vectors)[:_SOME] for i, d in drafts.items() if d and d.is_expected and d.vectors}

    def documents_held_by(self, owner: int) -> list[str]:
        """Ids of documents that this operation announced and whose nodes are held."""
        with self._lock:
            return [i for i in self._holding if isinstance(i, str) and self._drafts[i].owner == owner]

    def is_held(self, document_id: str | None, node_id: str, *, owner: int) -> bool:
        """Whether the node is held back."""
        with self._lock:
            draft = self._get(document_id, owner) if document_id is not None else None
            return draft is not None and any(each.stored.node_id == node_id for each in draft.held)

    def n_nodes(self, document_id: str, *, owner: int) -> int:
        """Number of nodes with a vector that were written of the document so far."""
        with self._lock:
            draft = self._get(document_id, owner)
            return len(draft.vectors) if draft else 0

    def added(self, parts: Mapping[str, Part], kind: Kind, *, owner: int) -> None:
        """Note that these nodes were written."""
        call = whole_document_call()
        with self._lock:
            for document_id, part in parts.items():
                key = self._key(document_id, owner)
                draft = self._drafts.get(key)
                if draft is not None and not countable(draft, part, kind):
                    continue
                if draft is None or (draft.is_expected and not is_expected_part(draft, part, owner)):
                    # The nodes are of another version, from another operation: the announced document will not come.
                    self._forget(key)
                    draft = self._drafts[key] = Draft(owner=owner)
                    self._without_hash[key] = None
                if draft.replaced_in is not None:
                    # The delete may have run in another task.
                    draft.owner = owner
                draft.source_hash = part.source_hash or draft.source_hash
                draft.call = draft.call if draft.inserted else call
                draft.of(kind).update(countable(draft, part, kind))
                if kind == "vectors":
                    self._hold(key, [])
            while len(self._without_hash) > _MAX_WITHOUT_HASH:
                # A program that adds nodes for ever and never sets a hash must not fill the memory.
                self._forget(next(iter(self._without_hash)))

    def completed_with(self, documents: Mapping[str, str]) -> tuple[list[Completion], dict[str, str]]:
        """What writing these documents themselves completes.

        Args:
            documents: id → hash of the documents that are being written.

        Returns:
            The completions of documents with a known hash, and the hashes of the others.
        """
        completions: list[Completion] = []
        own: dict[str, str] = {}
        with self._lock:
            for document_id, doc_hash in documents.items():
                draft = self._drafts.get(document_id)
                known_hash = None if draft is None else draft.waiting or draft.announced
                if draft is None or known_hash is None:
                    own[document_id] = doc_hash
                elif draft.is_begun:
                    completions.append(draft.closing(document_id, known_hash))
                elif known_hash != doc_hash:
                    own[document_id] = doc_hash
                else:
                    completions.append(Completion(document_id, doc_hash, emptied=True))
        return completions, own

    def announced(self, document_ids: Iterable[str]) -> dict[str, str]:
        """Hashes of those of these documents that were announced."""
        with self._lock:
            drafts = {i: self._drafts.get(i) for i in document_ids}
            return {i: draft.announced for i, draft in drafts.items() if draft is not None and draft.announced}

    def completed_at_end(self, owner: int) -> list[Completion]:
        """Closings for the end of an operation: of the documents that it announced and wrote completely."""
        with self._lock:
            announced = [(i, self._drafts[i]) for i in sorted(self._announced.get(owner, ()))]
            return [
                draft.closing(i, draft.announced)
                for i, draft in announced
                if draft.announced is not None and draft.is_begun and not draft.held
            ]

    def drop_announced(self, owner: int) -> None:
        """Forget, at the end of an operation, the documents that it announced and did not write."""
        with self._lock:
            for document_id in list(self._announced.get(owner, ())):
                draft = self._drafts[document_id]
                if not draft.is_begun and not draft.held:
                    self._forget(document_id)

    def waiting(self) -> list[Completion]:
        """Closings of documents whose hash is known, and which wait for the document itself."""
        with self._lock:
            waiting = [(i, self._drafts[i]) for i in sorted(self._waiting)]
            return [draft.closing(i, draft.waiting) for i, draft in waiting if draft.waiting is not None]

    def closed(self, completions: Iterable[Completion]) -> None:
        """Forget documents whose closing was recorded."""
        self.forget_documents([completion.document_id for completion in completions])

    def forget_documents(self, document_ids: Sequence[str]) -> None:
        """Forget documents that were closed or deleted."""
        with self._lock:
            for document_id in document_ids:
                self._forget(document_id)

    def forget_nodes(self, node_ids: Sequence[str]) -> None:
        """Forget nodes that were deleted."""
        deleted = set(node_ids)
        with self._lock:
            for draft in self._drafts.values():
                draft.vectors -= deleted
                draft.bodies -= deleted

    def clear(self) -> None:
        """Forget all documents but those of inserts, after all was deleted."""
        with self._lock:
            # An insert that still runs finds in the ledger that its nodes were deleted.
            for key in [i for i in self._drafts if isinstance(i, str)]:
                self._forget(key)

    def _key(self, document_id: str, owner: int) -> Key:
        """The key of the draft of a document, whether there is one or not."""
        if current_insert() is None:
            return document_id
        draft = self._drafts.get(document_id)
        is_own = draft is not None and draft.replaced_in is not None and draft.owner == owner
        return document_id if is_own else (document_id, owner)

    def _get(self, document_id: str, owner: int) -> Draft | None:
        return self._drafts.get(self._key(document_id, owner))

    def _drafts_in(self, update: str | None, document_id: str | None) -> list[tuple[str, Draft]]:
        if update is None:
            return []
        replaced = self._replaced.get(update, set())
        named = sorted(replaced) if document_id is None else replaced.intersection([document_id])
        return [(i, self._drafts[i]) for i in named]

    def _announce(self, document_id: str, doc_hash: str, owner: int) -> None:
        for other in [i for i in self._holding if self._drafts[i].owner == owner]:
            # The call whose nodes were held back did not finish.
            self._forget(other)
        self._forget(document_id)
        self._drafts[document_id] = Draft(announced=doc_hash, owner=owner)
        self._announced.setdefault(owner, set()).add(document_id)

    def _hold(self, key: Key, nodes: list[Embedded]) -> None:
        self._drafts[key].held = nodes
        if nodes:
            self._holding.add(key)
        else:
            self._holding.discard(key)

    def _held_by_others(self, document_ids: set[str], owner: int) -> list[Embedded]:
        """Held nodes of other documents, to write now: they are complete, because the operation went on to these."""
        continues = not document_ids.isdisjoint(self._announced.get(owner, ()))
        now: list[Embedded] = []
        these = {self._key(i, owner) for i in document_ids}
        for key in [i for i in self._holding - these if self._drafts[i].owner == owner]:
            if continues and isinstance(key, str):
                now += self._drafts[key].held
            else:
                # This is another operation: the one whose nodes were held back failed.
                self._forget(key)
        return now

    def _forget(self, key: Key) -> None:
        draft = self._drafts.pop(key, None)
        if draft is None:
            return
        self._holding.discard(key)
        self._without_hash.pop(key, None)
        if not isinstance(key, str):
            return
        document_id = key
        self._waiting.discard(document_id)
        if draft.replaced_in is not None:
            replaced = self._replaced[draft.replaced_in]
            replaced.discard(document_id)
            if not replaced:
                del self._replaced[draft.replaced_in]
        announced = self._announced.get(draft.owner)
        if announced is not None:
            announced.discard(document_id)
            if not announced:
                del self._announced[draft.owner]
