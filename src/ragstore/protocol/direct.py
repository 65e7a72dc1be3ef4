"""Writes of nodes whose ids the caller chose: one PostgreSQL transaction, then at once MongoDB.

Nothing can be staged for an id that may be live already. So PostgreSQL, which keeps every node whole, changes first,
together with outbox rows that say what MongoDB must get; the same call then does what they say, and after a kill in
between ``recover`` does.
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
from ragstore.postgres.copy import encode_rows
from ragstore.postgres.direct import DirectChange, Place, WrittenDocument, changing
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.vectors import cannot_hold, unholdable
from ragstore.protocol.completion import Closing, Completion, closing_ids, complete, settle
from ragstore.protocol.recover import Recoverer
from ragstore.telemetry.failpoint import Failpoint, reached

_TRIES = 5
_NOTHING_MORE = Completion()


@dataclass(frozen=True, slots=True)
class NewVectors:
    """Nodes with their vectors, and what they replace.

    Args:
        vectors: shape ``(len(nodes), dim)``.
        anew: documents whose live nodes with a vector these nodes replace; otherwise the others of a document stay.
        deleted: those of them of which all goes that they had.
        source_hashes: hash of the version that a document's nodes were cut from; where it is another than the ledger
            has, the ledger's counts no more.
        before: nodes that the same call wrote before, by document. Where none is live any more, another writer has
            replaced the document, and the rest of the older version is not written.
    """

    nodes: Sequence[Node]
    vectors: Vectors
    anew: Ids[str] = ()
    deleted: Ids[str] = ()
    source_hashes: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)


class DirectWriter:
    """Writes of one process that go to both stores at once."""

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
        """Put nodes with their vectors, as ``put``."""
        self.put(collection, NewVectors(nodes, vectors, source_hashes=source_hashes or {}))

    def put(self, collection: Collection, vectors: NewVectors) -> None:
        """Put nodes with their vectors; an id that is live is replaced, of an id twice in the call the last counts.

        Raises:
            InvalidNodeError, EmbeddingSpaceError: names the node; nothing was written.

        Crash safety:
            Readers see all of it or none; once it returns both stores hold it.
        """
        if vectors.nodes:
            self.add_bodies(collection, [], vectors=vectors)

    def add_bodies(
        self,
        collection: Collection,
        nodes: Sequence[Node],
        completion: Completion = _NOTHING_MORE,
        *,
        vectors: NewVectors | None = None,
    ) -> None:
        """Put nodes without a vector; one that has a vector keeps it; one that is there unchanged is not written.

        Args:
            vectors: nodes with their vectors, put in the same transaction.

        Raises:
            InvalidNodeError, EmbeddingSpaceError: names the node; nothing was written.

        Crash safety:
            As ``put``, closing of documents included.
        """
        for node in nodes:
            _check_node(node)
        bodies = list({node.node_id: node for node in nodes}.values())
        rows = _last(collection, vectors) if vectors is not None else None
        encoded = encode_rows(rows.nodes, rows.vectors, collection.vector_type) if rows is not None else b""

        def write(change: DirectChange) -> None:
            embedded = rows.nodes if rows is not None else []
            ids = [node.node_id for node in [*embedded, *bodies]]
            documents = {node.document_id for node in [*embedded, *bodies] if node.document_id is not None}
            closing = {c.document_id for c in completion.closings}.union(completion.own_hashes)
            before = [i for of_one in rows.before.values() for i in of_one] if rows is not None else []
            alone = any(node.document_id is None for node in [*embedded, *bodies])
            looked_up = [*ids, *before, *closing_ids(completion.closings)]
            places = change.lock(documents | closing, looked_up, alone=alone)
            if rows is not None:
                places |= _put_vectors(change, rows, encoded, places)
            if bodies:
                _put_bodies(change, bodies, places, [i for i in documents if i in completion.anew])
            complete(change, completion, places, just_written={node.node_id for node in bodies})

        known = {node.node_id: node for node in rows.nodes} if rows is not None else None
        self._change(collection, write, known)

    def close(self, collection: Collection, closings: Sequence[Closing], bare: Mapping[str, str] | None = None) -> None:
        """Record that documents are complete: their hash, and that nodes of former versions go.

        A document of which another writer removed nodes meanwhile gets no hash: whoever asks adds it again.

        Args:
            bare: hashes of documents of which a version without nodes was brought.

        Crash safety:
            One transaction; before it the documents have no hash, so that a re-run takes them up again.
        """
        bare = bare or {}
        if not closings and not bare:
            return

        def write(change: DirectChange) -> None:
            places = change.lock([*(c.document_id for c in closings), *bare], closing_ids(closings))
            complete(change, Completion((), closings, bare, bare=bare), places, just_written=set())

        self._change(collection, write)

    def delete_documents(self, collection: Collection, document_ids: Sequence[str]) -> int:
        """Delete documents and all their nodes from both stores; returns how many were live.

        Crash safety:
            One transaction makes them invisible, hash included; MongoDB follows at once.
        """
        n_deleted = 0

        def write(change: DirectChange) -> None:
            nonlocal n_deleted
            live = change.lock_live(sorted(set(document_ids)))
            n_deleted = len(live)
            if live:
                gone = change.delete_nodes_of(live)
                change.mark_deleted(live)
                change.add_events([(i, "deleted", 0) for i in live])
                change.queue(delete=gone, ref_docs=live)

        self._change(collection, write)
        return n_deleted

    def delete_nodes(self, collection: Collection, node_ids: Sequence[str]) -> int:
        """Delete nodes from both stores; a document that loses its last node goes too. Returns how many were live.

        Crash safety:
            As ``delete_documents``.
        """
        n_deleted = 0

        def write(change: DirectChange) -> None:
            nonlocal n_deleted
            places = change.lock((), list(node_ids))
            # A node without a document may be one itself, once the document store has it too.
            own = change.lock_live(sorted(i for i, place in places.items() if place.document_id is None))
            gone = change.delete_nodes(list(places))
            n_deleted = len(gone)
            touched = _owners(places).union(own)
            settle(change, touched)
            change.queue(delete=gone, ref_docs=touched)

        self._change(collection, write)
        return n_deleted

    def clear(self, collection: Collection) -> None:
        """Delete all documents and nodes of a collection from both stores.

        Crash safety:
            As ``delete_documents``.
        """

        def write(change: DirectChange) -> None:
            change.lock((), (), alone=True)
            live = change.lock_live(change.all_documents())
            gone = change.delete_nodes_of(live) + change.delete_nodes(change.all_nodes_without_document())
            change.mark_deleted(live)
            change.add_events([(i, "deleted", 0) for i in live])
            change.queue(delete=gone, ref_docs=live)

        self._change(collection, write)

    def _change(
        self, collection: Collection, write: Callable[[DirectChange], None], nodes: Mapping[str, Node] | None = None
    ) -> None:
        """Run a change until no other writer of the same ids is in its way, then bring MongoDB up to date.

        Args:
            nodes: those that it writes with their vectors.
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
    """The same, of an id twice the last."""
    _check(collection, vectors.nodes, vectors.vectors)
    last = sorted({node.node_id: i for i, node in enumerate(vectors.nodes)}.values())
    return replace(vectors, nodes=[vectors.nodes[i] for i in last], vectors=vectors.vectors[last])


def _put_vectors(
    change: DirectChange, rows: NewVectors, encoded: bytes, places: Mapping[str, Place]
) -> dict[str, Place]:
    """Put nodes with their vectors into locked documents; returns where they are now."""
    beaten = {i for i, ids in rows.before.items() if not any(node_id in places for node_id in ids)}
    kept = [i for i, node in enumerate(rows.nodes) if node.document_id not in beaten]
    nodes = [rows.nodes[i] for i in kept]
    if not nodes:
        return {}
    ids = [node.node_id for node in nodes]
    former = {i: places[i] for i in ids if i in places}
    if former:
        change.delete_nodes(list(former))
    documents = {node.document_id for node in nodes if node.document_id is not None}
    begun = [i for i in documents if i in rows.anew]
    replaced = change.delete_other_vectors(begun, keep=[]) if begun else []
    if begun:
        states = change.states(begun)
        # The document itself, as pipelines put it, is of the version that the ledger has.
        stale = [i for i in begun if states[i].doc_hash is None or states[i].doc_hash != rows.source_hashes.get(i)]
        replaced += change.delete_own_bodies(stale) if stale else []
    if rows.deleted:
        replaced += change.delete_nodes_of(list(rows.deleted))
    change.copy_rows(encode_rows(nodes, rows.vectors[kept], change.vector_type) if beaten else encoded)
    _note(change, nodes, former, _Noted(begun, rows.source_hashes, with_vectors=True))
    change.queue(put=ids, delete=set(replaced).difference(ids), ref_docs=documents | _owners(former))
    return {node.node_id: Place(node.document_id, has_vector=True) for node in nodes}


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
    """What the ledger must know of a write, beside the nodes."""

    begun: Sequence[str]
    source_hashes: Mapping[str, str] = field(default_factory=dict)
    with_vectors: bool = False


def _note(change: DirectChange, nodes: Sequence[Node], places: Mapping[str, Place], noted: _Noted) -> None:
    """Bring the ledger up to date for documents that got nodes, and for those that lost theirs to others."""
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
                anew=document_id in noted.begun or not states[document_id].live,
                source_hash=noted.source_hashes.get(document_id),
                metadata=first[document_id].metadata if document_id in first else {},
            )
            for document_id in n_nodes
        ]
    )
    change.add_events(
        [(i, "updated" if states[i].live else "added", n * noted.with_vectors) for i, n in n_nodes.items()]
    )
    settle(change, _owners(places).difference(n_nodes))


def _put_bodies(change: DirectChange, nodes: Sequence[Node], places: Mapping[str, Place], begun: list[str]) -> None:
    ids = [node.node_id for node in nodes]
    changed = _changed(nodes, places, change.live_nodes(ids))
    replaced = change.delete_other_bodies(begun, keep=ids) if begun else []
    if changed:
        _write_bodies(change, changed, places)
    if changed or replaced:
        former = {n.node_id: places[n.node_id] for n in changed if n.node_id in places}
        _note(change, changed, former, _Noted(begun))
        touched = {n.document_id for n in changed if n.document_id is not None}.union(begun)
        change.queue(put=[n.node_id for n in changed], delete=replaced, ref_docs=touched | _owners(former))


def _write_bodies(change: DirectChange, nodes: Sequence[Node], places: Mapping[str, Place]) -> None:
    with_vector = [n for n in nodes if n.node_id in places and places[n.node_id].has_vector]
    bodies = [n for n in nodes if not (n.node_id in places and places[n.node_id].has_vector)]
    if with_vector:
        change.update_rows(with_vector)
    if bodies:
        change.delete_nodes([n.node_id for n in bodies])
        change.put_bodies(bodies)


def _changed(nodes: Sequence[Node], places: Mapping[str, Place], live: Mapping[str, LiveNode]) -> list[Node]:
    return [n for n in nodes if not (n.node_id in live and _is_same(n, places[n.node_id], live[n.node_id]))]


def _is_same(node: Node, place: Place, live: LiveNode) -> bool:
    # A node without a source that has a vector stays without a document, though the docstore calls it its own.
    same_document = place.document_id == node.document_id or (
        place.document_id is None and node.document_id == node.node_id
    )
    return same_document and live.content == content_with_text(node.class_name, node.content, node.text)


def _owners(places: Mapping[str, Place]) -> set[str]:
    return {place.document_id for place in places.values() if place.document_id is not None}


def _source_uri(node: Node | None, document_id: str) -> str:
    path = node.metadata.get("file_path") if node is not None else None
    return path if isinstance(path, str) and path else document_id
