"""Writer of a collection for all its LlamaIndex stores; it decides when a document is complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Ids
from dataclasses import replace
from functools import partial

import numpy as np
from llama_index.core.schema import BaseNode

from ragstore.llama.backend import Backend, CurrentCollection
from ragstore.llama.draft import Embedded, Part, Run, Runs
from ragstore.llama.drafts import PendingDocuments
from ragstore.llama.instrumentation import current_insert, current_update, is_pipeline_run
from ragstore.llama.nodes import neighbours, source_hash, to_node, to_vectors
from ragstore.model.node import Node
from ragstore.postgres import live
from ragstore.protocol.completion import Completion, DocumentUpdates
from ragstore.protocol.direct import DirectWriter, NewVectors

_DOCUMENTS_AT_ONCE = 500
"""Documents that are closed in one transaction, which locks them."""


class CollectionWriter:
    """Writes to one collection; safe to use from several threads."""

    def __init__(self, backend: Backend, current: CurrentCollection) -> None:
        self._backend = backend
        self.current = current
        self._writer = DirectWriter(backend.pool, backend.recoverer, worker=backend.worker)
        self._drafts = PendingDocuments()
        self._runs = Runs()
        self._has_added = False
        self.has_index = False
        """Whether an index of this process stores its struct here, so that the end of its inserts is known."""
        self.joining: int | None = None
        """The operation that was found to build on the documents of the named index; it is not checked again."""

    def add(
        self, nodes: Sequence[BaseNode], *, owner: int, given: Mapping[str, list[float]] | None = None
    ) -> list[str]:
        """Add nodes with their embeddings to both stores; returns their ids.

        Args:
            owner: the operation that they are part of.
            given: node id → embedding with which the document store got the node, and which it must still return.

        Raises:
            InvalidNodeError, EmbeddingSpaceError: nothing was written.
        """
        self.flush_hashes()
        # Convert before any node is held back: a node that cannot be stored is refused by the call that brings it.
        embedded = to_vectors(nodes, self.current.get().space.dim)
        stored = [to_node(node, embedding=(given or {}).get(node.node_id)) for node in nodes]
        incoming = [Embedded(*each) for each in zip(nodes, stored, embedded, strict=True)]
        if not self._runs.hold(incoming):
            self._drafts.drop_stale(_parts_of(incoming), owner=owner)
            self._put(self._drafts.release(incoming, owner=owner, ends=self.has_index), owner)
        return [node.node_id for node in nodes]

    def add_documents(self, nodes: Sequence[BaseNode], *, store_text: bool, owner: int) -> None:
        """Add nodes without embeddings; a node without a source is a document of its own, with its own hash.

        Raises:
            InvalidNodeError: nothing was written.
        """
        run = self._runs.take()
        own = {node.node_id: node.hash for node in nodes if node.ref_doc_id is None}
        self._put(self._drafts.held(own), owner)
        # A node that is held back will be written with its vector.
        nodes = [node for node in nodes if not self._drafts.is_held(node.ref_doc_id, node.node_id, owner=owner)]
        bodies = [to_node(node, own_document=True) for node in nodes]
        parts = _parts(nodes, [node.ref_doc_id for node in nodes]) if store_text else {}
        self._drafts.drop_stale(parts, owner=owner, is_first=False)
        brought = self._brought(run, own) if run is not None else []
        closed = {closing.document_id for closing in brought}
        completions, own_hashes = self._drafts.completed_with({i: h for i, h in own.items() if i not in closed})
        begun = self._drafts.starting(parts, "bodies", owner=owner)
        bare = own_hashes.keys() if run is not None else ()
        updates = DocumentUpdates(begun, [*brought, *completions], own_hashes, bare)
        if run is not None:
            run.nodes = _as_documents(run.nodes, bodies)
        vectors = self._new_vectors(run.nodes, owner, whole=closed) if run is not None and run.nodes else None
        self._writer.add_bodies(self.current.get(), bodies if store_text else [], updates, vectors=vectors)
        if run is not None and run.nodes:
            self._added(run.nodes, owner)
        self._drafts.added(parts, "bodies", owner=owner)
        self._drafts.closed([*brought, *completions])
        # LlamaIndex also sets hashes of nodes that are parts of documents; they mean nothing.
        self._drafts.forget_documents([n.node_id for n in nodes if n.ref_doc_id is not None])
        self.flush_hashes()
        if is_pipeline_run(update := current_update()):
            self._delete_not_written(self._drafts.not_written(update))

    def set_hash(self, document_id: str, doc_hash: str, *, owner: int) -> None:
        """Set a document's hash, before its nodes come or after."""
        self.flush_hashes()
        update = current_update()
        held = self._drafts.held_in(update, document_id)
        self._put(held or self._drafts.held_by_insert(document_id, owner=owner), owner)
        self._delete_not_written(self._drafts.not_written(update, document_id))
        is_bare = current_insert() is not None and not self._drafts.is_known(document_id, owner=owner)
        closing = self._drafts.hash_set(document_id, doc_hash, owner=owner)
        self._close([closing] if closing else [])
        if is_bare and live.revisions(self._backend.pool, self.current.get(), [document_id]):
            self._writer.mark_complete(self.current.get(), [], {document_id: doc_hash})

    def set_hashes(self, hashes: Mapping[str, str], *, owner: int) -> None:
        """Set the hashes of documents that are written next."""
        self._put(self._drafts.held_in(current_update()), owner)
        self._drafts.hashes_set(self._runs.set_hashes(hashes), owner=owner)

    def docstore_used(self) -> None:
        """Note that the document store was used."""
        self._runs.docstore_used()

    def flush_hashes(self) -> None:
        """Record the hashes that waited for their documents, which did not come."""
        self._close(self._drafts.waiting())

    def end_operation(self, *, owner: int, built: bool) -> bool:
        """Complete an operation; returns whether this process ever added nodes to the collection.

        Args:
            built: an index was built, so no more nodes come.
        """
        self.has_index = True
        if built and (unsure := self._drafts.documents_held_by(owner)):
            # Their last nodes were dropped on the way, or the build of the index did not hold them back: they are
            # stored, without a hash.
            self._put(self._drafts.held(unsure), owner)
            self._drafts.forget_documents(unsure)
        self._close([*self._drafts.completed_at_end(owner), *self._drafts.waiting()])
        self._drafts.drop_announced(owner)
        return self._has_added

    def delete_or_replace(self, document_id: str, *, owner: int) -> bool:
        """Delete a document with all its nodes; within an update, keep it until its new version comes.

        Returns:
            Whether it was live.
        """
        update = current_update()
        if update is not None:
            found = live.revisions(self._backend.pool, self.current.get(), [document_id])
            if document_id in found:
                self._drafts.replace(document_id, found[document_id], update=update, owner=owner)
                return True
        return bool(self.delete_documents([document_id]))

    def delete_documents(self, document_ids: Sequence[str]) -> int:
        """Delete documents with all their nodes; returns how many were live."""
        self._drafts.forget_documents(document_ids)
        return self._writer.delete_documents(self.current.get(), document_ids)

    def delete_nodes(self, node_ids: Sequence[str]) -> int:
        """Delete nodes; returns how many were live."""
        self._drafts.forget_nodes(node_ids)
        return self._writer.delete_nodes(self.current.get(), node_ids)

    def delete_document_or_node(self, id: str) -> int:  # noqa: A002 - LlamaIndex has one name space for both
        """Delete the document with this id and all its nodes, or else the node; returns how many were live."""
        if id in live.document_hashes(self._backend.pool, self.current.get(), [id]):
            return self.delete_documents([id])
        return self.delete_nodes([id])

    def clear(self) -> None:
        """Delete everything."""
        self._drafts.clear()
        self._writer.clear(self.current.get())

    def _put(self, ready: Sequence[Embedded], owner: int) -> None:
        if ready:
            vectors = self._new_vectors(ready, owner)
            self._writer.put(self.current.get(), vectors)
            self._added(ready, owner)

    def _new_vectors(self, ready: Sequence[Embedded], owner: int, whole: Ids[str] = ()) -> NewVectors:
        """These nodes in the form to write, with the documents that they replace.

        Args:
            whole: documents of which these are all nodes; the documents themselves come with them.
        """
        parts = _parts_of(ready)
        self._drafts.drop_stale(parts, owner=owner)
        replaced = self._drafts.starting(parts, "vectors", owner=owner).union(whole)
        n_nodes = partial(self._drafts.n_nodes, owner=owner)
        return NewVectors(
            _numbered([each.stored for each in ready], lambda i: 0 if i in replaced else n_nodes(i)),
            np.stack([each.vector for each in ready]),
            replace_existing=replaced,
            deleted=self._drafts.deleted_unwritten(replaced),
            source_hashes={i: part.source_hash for i, part in parts.items() if part.source_hash is not None},
            before=self._drafts.written_before(parts.keys() - replaced, owner=owner),
        )

    def _added(self, written: Sequence[Embedded], owner: int) -> None:
        self._drafts.added(_parts_of(written), "vectors", owner=owner)
        self._backend.indexer.added(self.current.get(), len(written))
        self._has_added = True

    def _brought(self, run: Run, own: Mapping[str, str]) -> list[Completion]:
        """Closings of the documents that a run has brought whole: all their nodes, and the documents themselves."""
        ids: dict[str, set[str]] = {}
        for each in run.nodes:
            document_id = each.stored.document_id
            if document_id is not None and document_id in own:
                ids.setdefault(document_id, set()).add(each.stored.node_id)
        hashes = run.hashes | self._drafts.announced(ids.keys() - run.hashes.keys())
        return [Completion(i, hashes.get(i, own[i]), frozenset(node_ids)) for i, node_ids in ids.items()]

    def _delete_not_written(self, former: Mapping[str, int]) -> None:
        """Delete documents that an update deleted and did not write again, unless another writer changed them since."""
        if former:
            now = live.revisions(self._backend.pool, self.current.get(), list(former))
            self.delete_documents([i for i, revision in former.items() if now.get(i) == revision])

    def _close(self, completions: Sequence[Completion]) -> None:
        for i in range(0, len(completions), _DOCUMENTS_AT_ONCE):
            batch = completions[i : i + _DOCUMENTS_AT_ONCE]
            self._writer.mark_complete(self.current.get(), batch)
            self._drafts.closed(batch)


def _as_documents(nodes: Sequence[Embedded], bodies: Sequence[Node]) -> list[Embedded]:
    """These nodes; one that is also a document keeps the embedding in its content, so that both stores agree."""
    kept = {body.node_id: body.content["embedding"] for body in bodies if body.content.get("embedding") is not None}
    return [
        replace(
            each, stored=replace(each.stored, content=each.stored.content | {"embedding": kept[each.stored.node_id]})
        )
        if each.stored.node_id in kept
        else each
        for each in nodes
    ]


def _parts_of(ready: Sequence[Embedded]) -> dict[str, Part]:
    return _parts([each.node for each in ready], [each.stored.document_id for each in ready])


def _parts(nodes: Sequence[BaseNode], document_ids: Sequence[str | None]) -> dict[str, Part]:
    """The nodes grouped by document, without nodes that have no document."""
    grouped: dict[str, list[BaseNode]] = {}
    for node, document_id in zip(nodes, document_ids, strict=True):
        if document_id is not None:
            grouped.setdefault(document_id, []).append(node)
    parts = {}
    for document_id, group in grouped.items():
        hashes = {source_hash(node) for node in group}
        common = hashes.pop() if len(hashes) == 1 else None
        parts[document_id] = Part([node.node_id for node in group], common, neighbours(group))
    return parts


def _numbered(nodes: Sequence[Node], first: Callable[[str], int]) -> list[Node]:
    """The nodes with their positions in their documents.

    Args:
        first: returns the position of the first of these nodes in a document.
    """
    numbers: dict[str, int] = {}
    numbered = []
    for node in nodes:
        if node.document_id is None:
            numbered.append(node)
            continue
        ordinal = numbers.get(node.document_id)
        ordinal = first(node.document_id) if ordinal is None else ordinal
        numbers[node.document_id] = ordinal + 1
        numbered.append(replace(node, ordinal=ordinal))
    return numbered
