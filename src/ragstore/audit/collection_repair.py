"""One round of repair in one collection: kind by kind, in the order in which evidence is used up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ragstore.audit.documents import DocumentDrift, DocumentSurvey, StaleEntry
from ragstore.audit.lost_documents import find_lost
from ragstore.audit.lost_nodes import LostBody, Revival, embedded_text, node_of
from ragstore.audit.nodes import AlteredBody, NodeDrift, NodeSurvey
from ragstore.audit.origins import UnknownBody
from ragstore.audit.structures import emptied, stale_copies, stale_structs, unusable_indexes
from ragstore.embedding import Embedder
from ragstore.model.collection import Collection
from ragstore.model.drift import Kind, Tally
from ragstore.model.node import LiveNode
from ragstore.mongo.client import MongoDatabase
from ragstore.mongo.scan import Entries, MongoScan
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.scan import LedgerLine, PostgresScan, ScannedNode
from ragstore.postgres.segments import is_index_name
from ragstore.protocol.repair import Repairer

_KINDS: tuple[Entries, Entries] = ("ref_doc_info", "metadata")


@dataclass(frozen=True, slots=True)
class Means:
    """What a repair works with; without a repairer it only says what it would do."""

    pool: PostgresPool
    database: MongoDatabase
    repairer: Repairer | None
    index_min_nodes: int


class CollectionRepair:
    """Repairs one collection.

    Args:
        done: gets what is repaired.
        kept: gets what must stay as it is, with the reason.
    """

    def __init__(
        self, means: Means, collection: Collection, embedder: Callable[[], Embedder], done: Tally, kept: Tally
    ) -> None:
        self._means = means
        self._repairer = means.repairer
        self._collection = collection
        self._postgres = PostgresScan(means.pool, collection)
        self._mongo = MongoScan(means.database, collection.name)
        self._revival = Revival(means.pool, collection, embedder)
        self._done = done
        self._kept = kept
        self.n_embedded = 0

    def run(self, tell: Callable[[int], None]) -> None:
        """One round. Nodes come first: the entries of documents are evidence of which of them were lost."""
        self._make_table()
        for nodes in NodeSurvey(self._postgres, self._mongo, deep=True, tell=tell).drift():
            self._repair_nodes(nodes)
        for documents in DocumentSurvey(self._postgres, self._mongo, deep=True).drift():
            self._repair_documents(documents)
        self._rebuild_indexes()
        for struct in stale_structs(self._means.database, self._collection):
            self._done.add(Kind.LARGE_STRUCT, [str(struct["_id"])])
            if self._repairer:
                self._repairer.replace_struct(struct, emptied(struct))
        self._put_structs()

    def _make_table(self) -> None:
        if self._postgres.has_table:
            return
        self._done.add(Kind.MISSING_TABLE, [f"ragstore.{self._collection.table}"])
        if self._repairer:
            self._repairer.ensure_table(self._collection)
            self._postgres = PostgresScan(self._means.pool, self._collection)

    # Nodes

    def _repair_nodes(self, drift: NodeDrift) -> None:
        self._put_missing(drift.missing)
        self._replace_altered(drift.altered)
        self._delete_doubled(drift.doubled)
        self._replace_unusable(drift.unusable)
        self._delete_garbage([body for body in drift.unknown if body.verdict == "garbage"])
        self._restore([body for body in drift.unknown if body.verdict == "lost"])
        kept = (body for body in drift.unknown if body.verdict == "kept")
        self._kept.add(Kind.ORPHAN_IN_MONGO, (f"{body.origin.node_id}: {body.reason}" for body in kept))
        reason = "its row holds no node of that id; delete the row, or write its content again"
        self._kept.add(Kind.UNREADABLE_ROW, (f"{node_id}: {reason}" for node_id in drift.unreadable))

    def _put_missing(self, nodes: Sequence[ScannedNode]) -> None:
        self._done.add(Kind.MISSING_IN_MONGO, (node.node_id for node in nodes))
        if self._repairer and nodes:
            self._repairer.put_nodes(self._collection, [node.node_id for node in nodes])

    def _replace_altered(self, bodies: Sequence[AlteredBody]) -> None:
        self._done.add(Kind.ALTERED_IN_MONGO, (body.node.node_id for body in bodies))
        if self._repairer and bodies:
            live = [(_live(body.node), body.stamp) for body in bodies]
            self._repairer.replace_bodies(self._collection, live)

    def _delete_doubled(self, nodes: Sequence[ScannedNode]) -> None:
        self._done.add(Kind.DOUBLED_ROW, (node.node_id for node in nodes))
        if self._repairer and nodes:
            documents = sorted({node.document_id for node in nodes if node.document_id is not None})
            self._repairer.delete_copies(self._collection, [node.node_id for node in nodes], documents)

    def _replace_unusable(self, nodes: Sequence[ScannedNode]) -> None:
        good = [node for node in nodes if node.content is not None]
        self._done.add(Kind.UNUSABLE_VECTOR, (node.node_id for node in good))
        if self._repairer and good:
            texts = [embedded_text(node_of(_as_body(node), node.document_id)) for node in good]
            vectors = self._revival.embed(texts)
            states = [(node.node_id, node.stamp) for node in good]
            self._repairer.replace_vectors(self._collection, states, np.stack([vectors[text] for text in texts]))
            self.n_embedded += len(vectors)

    def _delete_garbage(self, bodies: Sequence[UnknownBody]) -> None:
        self._done.add(Kind.ORPHAN_IN_MONGO, (f"{body.origin.node_id}: {body.reason}" for body in bodies))
        if self._repairer and bodies:
            stamps = {body.origin.node_id: body.origin.stamp for body in bodies}
            self._repairer.delete_bodies(self._collection, stamps)

    def _restore(self, lost: Sequence[UnknownBody]) -> None:
        """Bring back nodes of documents that the ledger knows; whole documents follow with the documents."""
        lost = [each for each in lost if each.document_id is None or (each.line and each.line.live)]
        can = [each for each in lost if self._revival.can_revive(has_vector=each.has_vector)]
        ids = {each.origin.node_id for each in can}
        reason = "its vector came from outside; add the node again"
        stuck = (f"{each.origin.node_id}: {reason}" for each in lost if each.origin.node_id not in ids)
        self._kept.add(Kind.MISSING_IN_POSTGRES, stuck)
        if not self._repairer:
            self._done.add(Kind.MISSING_IN_POSTGRES, ids)
        elif can:
            bodies = self._mongo.bodies_of(list(ids))
            nodes = self._revival.revived([_lost(each, bodies) for each in can if each.origin.node_id in bodies])
            restored = set(self._repairer.restore_nodes(self._collection, nodes))
            self._done.add(Kind.MISSING_IN_POSTGRES, sorted(restored))
            self.n_embedded += len({n.node.text for n in nodes if n.computed})
            self._kept.add(
                Kind.MISSING_IN_POSTGRES,
                (f"{i}: its document changed, or more nodes than it lost could be it" for i in sorted(ids - restored)),
            )

    # Documents

    def _repair_documents(self, drift: DocumentDrift) -> None:
        unknown = [line.document_id for line in drift.unknown]
        self._restore_documents([*unknown, *(str(entry["_id"]) for entry in drift.unexplained)])
        self._recount([line for line in drift.miscounted if line.n_rows > line.n_nodes])
        self._let_read_again([line for line in drift.miscounted if line.n_rows < line.n_nodes])
        for kind in _KINDS:
            self._put_entries(kind, [each for each in drift.stale if each.kind == kind])

    def _restore_documents(self, document_ids: Sequence[str]) -> None:
        for document_id in document_ids:
            found = find_lost(self._means.pool, self._postgres, self._mongo, document_id)
            if found.reason is not None:
                self._kept.add(Kind.MISSING_IN_LEDGER, [f"{document_id}: {found.reason}"])
            elif not all(self._revival.can_revive(has_vector=body.has_vector) for body in found.bodies):
                reason = "its vectors came from outside; add it again"
                self._kept.add(Kind.MISSING_IN_LEDGER, [f"{document_id}: {reason}"])
            else:
                self._done.add(Kind.MISSING_IN_LEDGER, [document_id])
                if self._repairer:
                    nodes = self._revival.revived(found.bodies)
                    self._repairer.restore_document(self._collection, found.document, nodes)
                    self.n_embedded += len({n.node.text for n in nodes if n.computed})

    def _recount(self, lines: Sequence[LedgerLine]) -> None:
        foreign = self._with_unreadable_rows([line.document_id for line in lines])
        wrong = [line.document_id for line in lines if line.document_id not in foreign]
        self._kept.add(Kind.WRONG_COUNT, (f"{i}: has rows that hold no node of it" for i in sorted(foreign)))
        self._done.add(Kind.WRONG_COUNT, wrong)
        if self._repairer and wrong:
            self._repairer.recount(self._collection, wrong)

    def _with_unreadable_rows(self, document_ids: Sequence[str]) -> set[str]:
        if not document_ids:
            return set()
        ids = [i for doc in self._postgres.ref_docs(document_ids).values() for i in doc.node_ids or ()]
        nodes = self._postgres.nodes_of(ids).values()
        return {node.document_id for node in nodes if node.content is None and node.document_id is not None}

    def _let_read_again(self, lines: Sequence[LedgerLine]) -> None:
        gone = "{} of its nodes are in neither store; ingest it again"
        self._kept.add(
            Kind.WRONG_COUNT, (f"{line.document_id}: {gone.format(line.n_nodes - line.n_rows)}" for line in lines)
        )
        if self._repairer and lines:
            self._repairer.forget_sources(self._collection, [line.document_id for line in lines])

    def _put_entries(self, kind: Entries, stale: Sequence[StaleEntry]) -> None:
        self._done.add(Kind.STALE_ENTRY, (f"{each.document_id}: {kind}" for each in stale))
        if self._repairer and stale:
            self._repairer.put_entries(self._collection, kind, [(each.found, each.expected) for each in stale])

    # Indexes

    def _put_structs(self) -> None:
        for stale in stale_copies(self._means.pool, self._means.database, self._collection):
            index_id = stale.struct.index_id
            if self._repairer and not self._repairer.put_struct(self._collection, stale.struct, stale.found):
                reason = "its id is another collection's; delete the entry in MongoDB"
                self._kept.add(Kind.STALE_STRUCT, [f"{index_id}: {reason}"])
            else:
                self._done.add(Kind.STALE_STRUCT, [index_id])

    def _rebuild_indexes(self) -> None:
        broken = unusable_indexes(self._means.pool, self._postgres)
        if not broken:
            self._index_fresh()
            return
        left = broken
        if self._repairer:
            self._repairer.ensure_table(self._collection)
            for index in broken:
                self._rebuild(index)
            left = unusable_indexes(self._means.pool, self._postgres)
        self._index_fresh()
        done = broken if not self._repairer else {name: why for name, why in broken.items() if name not in left}
        self._done.add(Kind.INVALID_INDEX, (f"{name} {why}" for name, why in done.items()))
        if self._repairer:
            hint = "make it as the migrations do"
            self._kept.add(Kind.INVALID_INDEX, (f"{name} {why}; {hint}" for name, why in left.items()))

    def _index_fresh(self) -> None:
        if self._repairer:
            self._repairer.index_fresh(self._collection, min_nodes=self._means.index_min_nodes)

    def _rebuild(self, index: str) -> None:
        still = unusable_indexes(self._means.pool, self._postgres)
        is_of_segment = is_index_name(index)
        if self._repairer and index in still and (is_of_segment or still[index] == "is invalid"):
            self._repairer.rebuild_index(self._collection, index)


def _live(node: ScannedNode) -> LiveNode:
    assert node.content is not None
    return LiveNode(node.node_id, node.stamp, node.type_key, node.content)


def _as_body(node: ScannedNode) -> dict[str, object]:
    return {"_id": node.node_id, "__data__": node.content, "__type__": node.type_key}


def _lost(each: UnknownBody, bodies: dict[str, dict[str, object]]) -> LostBody:
    return LostBody(
        bodies[each.origin.node_id],
        each.document_id,
        each.line.revision if each.line else None,
        each.ordinal,
        each.has_vector,
    )
