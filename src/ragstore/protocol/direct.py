"""Direct writes of nodes whose ids the caller chose: one PostgreSQL transaction, then MongoDB at once.

Nothing can be staged for an id that may be live already. So PostgreSQL, which stores every node whole, changes first.
The same transaction adds outbox rows that list what MongoDB must get. The same call then carries them out; after a
kill in between, ``recover`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Ids
from dataclasses import dataclass, field, replace

import numpy as np

from ragstore.errors import EmbeddingSpaceError, InvalidNodeError, StoreBusyError, StoreConflictError
from ragstore.model.collection import Collection
from ragstore.model.document import MAX_DOCUMENT_ID_BYTES
from ragstore.model.node import LiveNode, Node, check_node, content_with_text
from ragstore.model.run import Run, Vectors, Written, new_run_id
from ragstore.postgres.change import Change, NodeLocation, WrittenDocument, changing
from ragstore.postgres.copy import encode_rows
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.vectors import cannot_hold, unholdable
from ragstore.protocol.completion import Completion, DocumentUpdates, complete, completion_ids, recount
from ragstore.protocol.recover import Recoverer
from ragstore.telemetry.failpoint import Failpoint, reached

_TRIES = 5
_NOTHING_MORE = DocumentUpdates()


@dataclass(frozen=True, slots=True)
class NewVectors:
    """Nodes with their vectors, and what they replace.

    Args:
        vectors: shape ``(len(nodes), dim)``.
        replace_existing: documents whose live nodes with a vector are replaced; in other documents they stay.
        deleted: documents in ``replace_existing`` whose bodies are removed too.
        source_hashes: by document, the hash of the version that its nodes were cut from. If the ledger has another
            hash, that one becomes invalid.
        before: by document, nodes that earlier parts of the same call wrote. If none of them is live any more, another
            writer has replaced the document, and the rest of the older version is not written.
    """

    nodes: Sequence[Node]
    vectors: Vectors
    replace_existing: Ids[str] = ()
    deleted: Ids[str] = ()
    source_hashes: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)


class DirectWriter:
    """Writer of one process that changes both stores in each call."""

    def __init__(self, pool: PostgresPool, recoverer: Recoverer, *, worker: str) -> None:
        self._pool = pool
        self._recoverer = recoverer
        self._worker = worker

    def add(
        self,
        collection: Collection,
        nodes: Sequence[Node],
        vectors: Vectors,
        *,
        source_hashes: Mapping[str, str] | None = None,
    ) -> None:
        """As ``put``, for nodes that replace no others."""
        self.put(collection, NewVectors(nodes, vectors, source_hashes=source_hashes or {}))

    def put(self, collection: Collection, vectors: NewVectors) -> None:
        """Put nodes with their vectors. A live node of the same id is replaced; of equal ids in a call the last wins.

        Raises:
            InvalidNodeError, EmbeddingSpaceError: names the node; nothing was written.

        Crash safety:
            Readers see all of it or none; when the call returns, both stores have it.
        """
        if vectors.nodes:
            self.add_bodies(collection, [], vectors=vectors)

    def add_bodies(
        self,
        collection: Collection,
        nodes: Sequence[Node],
        updates: DocumentUpdates = _NOTHING_MORE,
        *,
        vectors: NewVectors | None = None,
    ) -> None:
        """Put nodes without a vector. A live node with a vector keeps it; an unchanged node is not written.

        Args:
            vectors: nodes with their vectors, put in the same transaction.

        Raises:
            InvalidNodeError, EmbeddingSpaceError: names the node; nothing was written.

        Crash safety:
            As ``put``, completion of documents included.
        """
        for node in nodes:
            _check_node(node)
        bodies = list({node.node_id: node for node in nodes}.values())
        rows = _last(collection, vectors) if vectors is not None else None
        encoded = encode_rows(rows.nodes, rows.vectors, collection.vector_type) if rows is not None else b""

        def write(change: Change) -> None:
            embedded = rows.nodes if rows is not None else []
            ids = [node.node_id for node in [*embedded, *bodies]]
            documents = {node.document_id for node in [*embedded, *bodies] if node.document_id is not None}
            completed = {c.document_id for c in updates.completions}.union(updates.own_hashes)
            before = [i for of_one in rows.before.values() for i in of_one] if rows is not None else []
            sourceless = any(node.document_id is None for node in [*embedded, *bodies])
            looked_up = [*ids, *before, *completion_ids(updates.completions)]
            locations = change.lock_nodes(documents | completed, looked_up, lock_sourceless=sourceless)
            if rows is not None:
                locations |= _put_vectors(change, rows, encoded, locations)
            if bodies:
                _put_bodies(change, bodies, locations, [i for i in documents if i in updates.replace_existing])
            complete(change, updates, locations, just_written={node.node_id for node in bodies})

        known = {node.node_id: node for node in rows.nodes} if rows is not None else None
        self._change(collection, write, known)

    def mark_complete(
        self, collection: Collection, completions: Sequence[Completion], bare: Mapping[str, str] | None = None
    ) -> None:
        """Record that documents are complete: set their hashes and delete the nodes of former versions.

        If another writer has removed nodes of a document since, it gets no hash, and the next refresh adds it again.

        Args:
            bare: by document, the hash of a version that has no nodes.

        Crash safety:
            One transaction; before it the documents have no hash, so that a re-run adds them again.
        """
        bare = bare or {}
        if not completions and not bare:
            return

        def write(change: Change) -> None:
            locations = change.lock_nodes([*(c.document_id for c in completions), *bare], completion_ids(completions))
            complete(change, DocumentUpdates((), completions, bare, bare=bare), locations, just_written=set())

        self._change(collection, write)

    def delete_documents(self, collection: Collection, document_ids: Sequence[str]) -> int:
        """Delete documents and all their nodes from both stores; returns how many were live.

        Crash safety:
            One transaction makes them and their hashes invisible; MongoDB follows at once.
        """
        n_deleted = 0

        def write(change: Change) -> None:
            nonlocal n_deleted
            live = list(change.lock_live(document_ids))
            n_deleted = len(live)
            if live:
                gone = change.delete_nodes_of(live)
                change.mark_deleted(live)
                change.add_events([(i, "deleted", 0, None) for i in live])
                change.queue(delete=gone, ref_docs=live)

        self._change(collection, write)
        return n_deleted

    def delete_nodes(self, collection: Collection, node_ids: Sequence[str]) -> int:
        """Delete nodes from both stores, and documents that lose their last node; returns how many nodes were live.

        Crash safety:
            As ``delete_documents``.
        """
        n_deleted = 0

        def write(change: Change) -> None:
            nonlocal n_deleted
            locations = change.lock_nodes((), list(node_ids))
            # A node without a document may itself be a document, if the document store has it too.
            own = change.lock_live(i for i, location in locations.items() if location.document_id is None)
            gone = change.delete_nodes(list(locations))
            n_deleted = len(gone)
            touched = _owners(locations).union(own)
            recount(change, touched)
            change.queue(delete=gone, ref_docs=touched)

        self._change(collection, write)
        return n_deleted

    def clear(self, collection: Collection) -> None:
        """Delete all documents and nodes of a collection from both stores.

        Crash safety:
            As ``delete_documents``.
        """

        def write(change: Change) -> None:
            change.lock_nodes((), (), lock_sourceless=True)
            live = list(change.lock_live(change.all_documents()))
            gone = change.delete_nodes_of(live) + change.delete_nodes(change.all_nodes_without_document())
            change.mark_deleted(live)
            change.add_events([(i, "deleted", 0, None) for i in live])
            change.queue(delete=gone, ref_docs=live)

        self._change(collection, write)

    def _change(
        self, collection: Collection, write: Callable[[Change], None], nodes: Mapping[str, Node] | None = None
    ) -> None:
        """Run a change, again if another writer of the same ids conflicts with it, then update MongoDB.

        Args:
            nodes: by id, the nodes that it writes with their vectors.
        """
        self._recoverer.watch.confirm()
        for attempt in range(1, _TRIES + 1):
            try:
                with changing(self._pool, collection, Run(new_run_id(), self._worker, [])) as change:
                    write(change)
                    reached(Failpoint.DIRECT_WRITTEN)
            except (StoreConflictError, StoreBusyError):
                if attempt == _TRIES:
                    raise
            else:
                break
        reached(Failpoint.DIRECT_COMMITTED)
        self._recoverer.finish(change.outbox_ids, Written(change.transaction, nodes) if nodes else None)
        reached(Failpoint.DIRECT_FINISHED)


def _last(collection: Collection, vectors: NewVectors) -> NewVectors:
    """The same without duplicates: of equal ids the last node is kept."""
    _check(collection, vectors.nodes, vectors.vectors)
    last = sorted({node.node_id: i for i, node in enumerate(vectors.nodes)}.values())
    return replace(vectors, nodes=[vectors.nodes[i] for i in last], vectors=vectors.vectors[last])


def _put_vectors(
    change: Change, rows: NewVectors, encoded: bytes, locations: Mapping[str, NodeLocation]
) -> dict[str, NodeLocation]:
    """Put nodes with their vectors into locked documents; returns their new locations."""
    superseded = {i for i, ids in rows.before.items() if not any(node_id in locations for node_id in ids)}
    kept = [i for i, node in enumerate(rows.nodes) if node.document_id not in superseded]
    nodes = [rows.nodes[i] for i in kept]
    if not nodes:
        return {}
    ids = [node.node_id for node in nodes]
    former = {i: locations[i] for i in ids if i in locations}
    if former:
        change.delete_nodes(list(former))
    documents = {node.document_id for node in nodes if node.document_id is not None}
    begun = [i for i in documents if i in rows.replace_existing]
    replaced = change.delete_other_vectors(begun, keep=[]) if begun else []
    if begun:
        states = change.states(begun)
        # A body that is the document itself, as pipelines put it, belongs to the version that the ledger has.
        stale = [i for i in begun if states[i].doc_hash is None or states[i].doc_hash != rows.source_hashes.get(i)]
        replaced += change.delete_own_bodies(stale) if stale else []
    if rows.deleted:
        replaced += change.delete_nodes_of(list(rows.deleted))
    if superseded:
        encoded = encode_rows(nodes, rows.vectors[kept], change.collection.vector_type)
    change.copy_rows([encoded])
    _note(change, nodes, former, _Noted(begun, rows.source_hashes, with_vectors=True))
    change.queue(put=ids, delete=set(replaced).difference(ids), ref_docs=documents | _owners(former))
    return {node.node_id: NodeLocation(node.document_id, has_vector=True) for node in nodes}


def _check_node(node: Node) -> None:
    check_node(node)
    size = len(node.document_id.encode()) if node.document_id is not None else 1
    if not 1 <= size <= MAX_DOCUMENT_ID_BYTES:
        raise InvalidNodeError(
            f"node {node.node_id} belongs to a document whose id has {size} bytes",
            hint=f"use 1 to {MAX_DOCUMENT_ID_BYTES} bytes",
            node_id=node.node_id,
        )


def _check(collection: Collection, nodes: Sequence[Node], vectors: Vectors) -> None:
    for node in nodes:
        _check_node(node)
    if vectors.shape != (len(nodes), collection.space.dim):
        raise EmbeddingSpaceError(
            f"collection {collection.name!r} holds {collection.space}, not vectors of shape {vectors.shape}",
            hint="use the embedding model that the collection was made with",
            collection=collection.name,
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        node_id = nodes[int(np.argmin(finite))].node_id
        raise InvalidNodeError(
            f"the vector of node {node_id} has a value that is not finite",
            hint="check what the embedding model returned for it",
            node_id=node_id,
        )
    position = unholdable(collection, vectors)
    if position is not None:
        node_id = nodes[position].node_id
        raise cannot_hold(collection, f"node {node_id}", node_id=node_id)


@dataclass(frozen=True, slots=True)
class _Noted:
    """Facts of a write that the ledger records, in addition to its nodes."""

    begun: Sequence[str]
    source_hashes: Mapping[str, str] = field(default_factory=dict)
    with_vectors: bool = False


def _note(change: Change, nodes: Sequence[Node], locations: Mapping[str, NodeLocation], noted: _Noted) -> None:
    """Update the ledger for documents that got nodes, and for those whose nodes moved to other documents."""
    first: dict[str, Node] = {}
    n_nodes = dict.fromkeys(noted.begun, 0)
    for node in nodes:
        if node.document_id is not None:
            first.setdefault(node.document_id, node)
            n_nodes[node.document_id] = n_nodes.get(node.document_id, 0) + 1
    states = change.states(n_nodes)
    change.put_documents(
        [
            WrittenDocument(
                document_id,
                _source_uri(first.get(document_id), document_id),
                replace_existing=document_id in noted.begun or not states[document_id].live,
                source_hash=noted.source_hashes.get(document_id),
                metadata=first[document_id].metadata if document_id in first else {},
            )
            for document_id in n_nodes
        ]
    )
    change.add_events(
        [(i, "updated" if states[i].live else "added", n * noted.with_vectors, None) for i, n in n_nodes.items()]
    )
    recount(change, _owners(locations).difference(n_nodes))


def _put_bodies(change: Change, nodes: Sequence[Node], locations: Mapping[str, NodeLocation], begun: list[str]) -> None:
    ids = [node.node_id for node in nodes]
    changed = _changed(nodes, locations, change.live_nodes(ids))
    replaced = change.delete_other_bodies(begun, keep=ids) if begun else []
    if changed:
        _write_bodies(change, changed, locations)
    if changed or replaced:
        former = {n.node_id: locations[n.node_id] for n in changed if n.node_id in locations}
        _note(change, changed, former, _Noted(begun))
        touched = {n.document_id for n in changed if n.document_id is not None}.union(begun)
        change.queue(put=[n.node_id for n in changed], delete=replaced, ref_docs=touched | _owners(former))


def _write_bodies(change: Change, nodes: Sequence[Node], locations: Mapping[str, NodeLocation]) -> None:
    with_vector = [n for n in nodes if n.node_id in locations and locations[n.node_id].has_vector]
    bodies = [n for n in nodes if not (n.node_id in locations and locations[n.node_id].has_vector)]
    if with_vector:
        change.update_rows(with_vector)
    if bodies:
        change.delete_nodes([n.node_id for n in bodies])
        change.put_bodies(bodies)


def _changed(nodes: Sequence[Node], locations: Mapping[str, NodeLocation], live: Mapping[str, LiveNode]) -> list[Node]:
    return [n for n in nodes if not (n.node_id in live and _is_same(n, locations[n.node_id], live[n.node_id]))]


def _is_same(node: Node, location: NodeLocation, live: LiveNode) -> bool:
    # A sourceless node with a vector stays without a document, although in the docstore it is its own document.
    same_document = location.document_id == node.document_id or (
        location.document_id is None and node.document_id == node.node_id
    )
    return same_document and live.content == content_with_text(node.class_name, node.content, node.text)


def _owners(locations: Mapping[str, NodeLocation]) -> set[str]:
    return {location.document_id for location in locations.values() if location.document_id is not None}


def _source_uri(node: Node | None, document_id: str) -> str:
    path = node.metadata.get("file_path") if node is not None else None
    return path if isinstance(path, str) and path else document_id
