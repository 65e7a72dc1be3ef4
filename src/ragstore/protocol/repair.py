"""Changes of a repair in both stores: through the outbox, or as a replacement of exactly what was found.

PostgreSQL decides what is live here too. Nodes that MongoDB lacks are queued and put like every other write. A wrong
body or entry is replaced only if it is still the one that was found. Rows are restored in a transaction that holds the
documents' locks and finds the nodes neither live nor named by a run or the outbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragstore.model.collection import Collection
from ragstore.model.node import LiveNode, Node, Struct
from ragstore.model.run import RefDoc, Run, Vectors, new_run_id
from ragstore.mongo import states
from ragstore.mongo import structs as in_mongo
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.nodes import NodeStore
from ragstore.mongo.scan import Entries
from ragstore.postgres import epoch as in_epoch
from ragstore.postgres import rebuild, segments, vectors
from ragstore.postgres import structs as in_postgres
from ragstore.postgres.change import Change, changing
from ragstore.postgres.collections import get_collection
from ragstore.postgres.copy import encode_rows
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.rebuild import LostDocument
from ragstore.postgres.scan import LedgerLine
from ragstore.postgres.segment_tables import is_segment_table
from ragstore.protocol.recover import Recoverer
from ragstore.telemetry.failpoint import Failpoint, reached

_SEALED_AT_ONCE_MB = 256
"""Memory of a merge; limits the nodes of a segment that is made from restored ones."""


@dataclass(frozen=True, slots=True)
class LostNode:
    """A node that only MongoDB has.

    Args:
        revision: of its document when the node was found missing; None for a node without a document.
        vector: shape ``(dim,)``; None for a node that never had one.
        computed: whether the vector had to be computed.
    """

    node: Node
    stamp: int
    revision: int | None
    vector: Vectors | None
    computed: bool = False


class Repairer:
    """Makes the changes of one repair."""

    def __init__(self, pool: PostgresPool, database: MongoDatabase, recoverer: Recoverer, *, worker: str) -> None:
        self._pool = pool
        self._database = database
        self._nodes = NodeStore(database)
        self._recoverer = recoverer
        self._worker = worker

    def retire(self) -> None:
        """Carry out the outbox first: its items are not drift, and an audit would skip them."""
        self._recoverer.retire()

    # MongoDB, from PostgreSQL

    def put_nodes(self, collection: Collection, node_ids: Sequence[str]) -> None:
        """Put live nodes into MongoDB, which lacks them.

        Crash safety:
            Queued in one transaction; after its commit, every recovery does the rest.
        """
        with self._changing(collection) as change:
            change.queue(put=node_ids)

    def replace_bodies(self, collection: Collection, found: Sequence[tuple[LiveNode, Any]]) -> None:
        """Replace bodies that still have this stamp by the live nodes.

        Crash safety:
            Idempotent; a node that was written again in between stays.
        """
        states.replace_bodies(self._database, collection.name, found)
        reached(Failpoint.REPAIR_REPLACED)

    def delete_bodies(self, collection: Collection, stamps: Mapping[str, Any]) -> None:
        """Delete bodies that are proved to be garbage and still have this stamp.

        Crash safety:
            Idempotent; stamps are never used twice, so nothing newer is deleted.
        """
        self._nodes.delete_states(collection.name, stamps)
        reached(Failpoint.REPAIR_DELETED)

    def put_entries(
        self, collection: Collection, kind: Entries, found: Sequence[tuple[Document | None, RefDoc]]
    ) -> None:
        """Make per-document entries agree with the ledger.

        Crash safety:
            Idempotent. A wrong entry is replaced if it is still as it was found. Then all of these documents are
            queued, so that a document that changed in between gets its newest entry too.
        """
        existing = [(entry, expected) for entry, expected in found if entry is not None]
        states.replace_entries(self._database, collection.name, kind, existing)
        reached(Failpoint.REPAIR_REPLACED)
        with self._changing(collection) as change:
            change.queue(ref_docs=[expected.document_id for _, expected in found])

    def replace_struct(self, found: Document, new: Document) -> None:
        """Replace an index struct of MongoDB that is still as it was found.

        Crash safety:
            As ``replace_bodies``.
        """
        states.replace_struct(self._database, found, new)
        reached(Failpoint.REPAIR_REPLACED)

    def delete_left_over(self, place: str, stamps: Mapping[str, int]) -> None:
        """Delete documents that a dropped collection left in MongoDB.

        Crash safety:
            As ``replace_bodies``.
        """
        states.delete_stamped(self._database, place, stamps)
        reached(Failpoint.REPAIR_DELETED)

    def put_struct(self, collection: Collection, struct: Struct, found: Document | None) -> bool:
        """Copy an index struct to the store that lacks it; False if PostgreSQL has its id for another collection.

        Args:
            struct: without a stamp, PostgreSQL lost it; MongoDB's copy gets its new stamp in a later round.
            found: MongoDB's entry.

        Crash safety:
            Idempotent; a struct that was written in between stays.
        """
        if struct.stamp is None:
            return in_postgres.restore_struct(self._pool, collection, struct)
        if found is None:
            self._recoverer.finish(in_postgres.queue_struct(self._pool, collection, struct.index_id))
        else:
            in_mongo.replace_struct(self._database, collection.name, struct, found)
        reached(Failpoint.REPAIR_REPLACED)
        return True

    # PostgreSQL, from MongoDB

    def restore_nodes(self, collection: Collection, lost: Sequence[LostNode]) -> list[str]:
        """Restore lost nodes of documents that the ledger has; returns the ids of the restored nodes.

        Skipped are nodes that are live or in flight by now, and those whose document changed or would get too many.

        Crash safety:
            One transaction; readers see the documents before it or after it.
        """
        documents = sorted({n.node.document_id for n in lost if n.node.document_id is not None})
        sourceless = any(n.node.document_id is None for n in lost)
        with self._changing(collection) as change:
            lines = rebuild.lock(change, documents, [n.node.node_id for n in lost], lock_sourceless=sourceless)
            known = rebuild.known(change, [n.node.node_id for n in lost])
            good = [n for n in lost if n.node.node_id not in known and _is_still_lost(n, lines)]
            full = _overfull(good, lines)
            good = [n for n in good if n.node.document_id not in full]
            _write(change, good)
        return [n.node.node_id for n in good]

    def restore_document(self, collection: Collection, document: LostDocument, lost: Sequence[LostNode]) -> bool:
        """Make a document live again that the ledger lost, with its rows and these nodes; False if it is live already.

        Crash safety:
            As ``restore_nodes``.
        """
        with self._changing(collection) as change:
            line = rebuild.lock(change, [document.document_id], [n.node.node_id for n in lost]).get(
                document.document_id
            )
            known = rebuild.known(change, [n.node.node_id for n in lost])
            if (line is not None and line.live) or known:
                return False
            _write(change, lost)
            rebuild.put_ledger(change, [document])
            change.queue(ref_docs=[document.document_id])
        return True

    def replace_vectors(self, collection: Collection, found: Sequence[tuple[str, int]], vectors: Vectors) -> None:
        """Replace the vectors of live nodes that are still in this state (node id, stamp).

        Crash safety:
            One transaction, idempotent.
        """
        with self._changing(collection) as change:
            rebuild.set_vectors(change, found, vectors)

    # PostgreSQL alone

    def recount(self, collection: Collection, document_ids: Sequence[str]) -> None:
        """Set the number of nodes in the ledger to the rows that the documents have.

        Crash safety:
            One transaction, with the entries in MongoDB queued.
        """
        with self._changing(collection) as change:
            lines = rebuild.lock(change, document_ids)
            wrong = [i for i, line in lines.items() if line.live and line.n_rows > line.n_nodes]
            rebuild.recount(change, wrong)
            change.queue(ref_docs=wrong)

    def forget_sources(self, collection: Collection, document_ids: Sequence[str]) -> None:
        """Mark documents that lost nodes for good to be read again.

        Crash safety:
            One transaction, idempotent.
        """
        with self._changing(collection) as change:
            lines = rebuild.lock(change, document_ids)
            rebuild.forget_sources(change, [i for i, line in lines.items() if line.live and line.n_rows < line.n_nodes])

    def delete_copies(self, collection: Collection, node_ids: Sequence[str], document_ids: Sequence[str]) -> int:
        """Delete rows that a foreign writer copied from others; returns how many.

        Crash safety:
            One transaction; only rows whose text remains in another row of the same document.
        """
        with self._changing(collection) as change:
            rebuild.lock(change, document_ids, node_ids)
            gone = rebuild.delete_copies(change, node_ids)
        return len(gone)

    def accept_loss(self, collection: Collection, document_ids: Sequence[str]) -> None:
        """Set the ledger's numbers to the nodes that are left, and mark the documents to be read again.

        Crash safety:
            As ``recount``.
        """
        with self._changing(collection) as change:
            lines = rebuild.lock(change, document_ids)
            lacking = [i for i, line in lines.items() if line.live and line.n_rows < line.n_nodes]
            rebuild.forget_sources(change, lacking)
            rebuild.recount(change, lacking)
            change.queue(ref_docs=lacking)

    def delete_rows(self, collection: Collection, rows: Mapping[str, int], document_ids: Sequence[str]) -> None:
        """Delete rows (node id, row id) that were set aside.

        Crash safety:
            One transaction, idempotent.
        """
        with self._changing(collection) as change:
            rebuild.lock(change, document_ids, list(rows))
            rebuild.delete_rows(change, rows)

    def raise_revisions(self, collection: str, revisions: Mapping[str, int]) -> None:
        """Let the next revisions of documents be above those that MongoDB has seen on another timeline.

        Crash safety:
            One transaction, idempotent.
        """
        in_epoch.raise_revisions(self._pool, collection, revisions, worker=self._worker)
        reached(Failpoint.REVISIONS_RAISED)

    def ensure_table(self, collection: Collection) -> None:
        """Make the vector table and its indexes where they are missing.

        Crash safety:
            One transaction, idempotent.
        """
        rebuild.ensure_table(self._pool, collection)
        reached(Failpoint.REPAIR_TABLE_MADE)

    def rebuild_index(self, collection: Collection, index: str) -> None:
        """Rebuild an index while it is in use.

        Crash safety:
            Queries work without an index that is missing; the next repair builds it.
        """
        if is_segment_table(index):
            rebuild.segment(self._pool, get_collection(self._pool, collection.name), index)
        else:
            rebuild.reindex(self._pool, collection, index)

    def seal_fresh(self, collection: Collection, *, min_nodes: int) -> None:
        """Seal restored nodes into segments if there are enough.

        Crash safety:
            As ``segments.seal_fresh``.
        """
        room = segments.room(collection, _SEALED_AT_ONCE_MB)
        if segments.seal_fresh(self._pool, collection, min_nodes=min_nodes, room=room):
            vectors.refresh_statistics(self._pool, collection)

    @contextmanager
    def _changing(self, collection: Collection) -> Iterator[Change]:
        run = Run(new_run_id(), self._worker, [])
        with changing(self._pool, collection, run) as change:
            yield change
            reached(Failpoint.REPAIR_WRITTEN)
        reached(Failpoint.REPAIR_COMMITTED)
        self._recoverer.finish(change.outbox_ids)


def _is_still_lost(lost: LostNode, lines: Mapping[str, LedgerLine]) -> bool:
    if lost.node.document_id is None:
        return True
    line = lines.get(lost.node.document_id)
    return line is not None and line.live and line.revision == lost.revision


def _overfull(lost: Sequence[LostNode], lines: Mapping[str, LedgerLine]) -> set[str | None]:
    """Documents that would have more vectors than the ledger counts: some of these are not lost ones."""
    n_new = Counter(n.node.document_id for n in lost if n.vector is not None and n.node.document_id is not None)
    return {i for i, n in n_new.items() if lines[i].n_rows + n > lines[i].n_nodes}


def _write(change: Change, lost: Sequence[LostNode]) -> None:
    with_vector = [(n.node, n.vector) for n in lost if n.vector is not None]
    if with_vector:
        embeddings = np.stack([vector for _, vector in with_vector])
        change.copy_rows([encode_rows([node for node, _ in with_vector], embeddings, change.collection.vector_type)])
    bodies = [n.node for n in lost if n.vector is None]
    if bodies:
        change.put_bodies(bodies)
    counts = Counter(n.node.document_id for n in lost)
    computed = Counter(n.node.document_id for n in lost if n.computed)
    if counts:
        rebuild.add_restored(change, [(i, n, computed[i]) for i, n in counts.items()])
    # A node that a run staged counts as the same state; every other got a new stamp with its row.
    change.queue(put=[n.node.node_id for n in lost if n.stamp != 0 or n.node.chunk_hash is None])
