"""One round of repair in one collection, kind by kind: no step destroys evidence that a later step needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ragstore.audit.documents import DocumentDrift, DocumentSurvey, StaleEntry
from ragstore.audit.lost_nodes import FoundDocument, LostBody, Revival, embedded_text, find_lost, node_of
from ragstore.audit.nodes import AlteredBody, NodeDrift, NodeSurvey
from ragstore.audit.origins import UnknownBody
from ragstore.audit.structures import StaleStruct, emptied, stale_copies, stale_structs, unusable_indexes
from ragstore.embedding import Embedder
from ragstore.model.collection import Collection
from ragstore.model.drift import Kind
from ragstore.model.node import LiveNode
from ragstore.model.report import Findings
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.scan import Entries, MongoScan
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.rebuild import whole_rows
from ragstore.postgres.scan import LedgerLine, PostgresScan, ScannedNode
from ragstore.postgres.segment_tables import is_segment_table
from ragstore.protocol.repair import Repairer
from ragstore.protocol.set_aside import STRUCTS, SetAside

_KINDS: tuple[Entries, Entries] = ("ref_doc_info", "metadata")


@dataclass(frozen=True, slots=True)
class RepairContext:
    """The stores and options of a repair; without a repairer it only reports what it would do."""

    pool: PostgresPool
    database: MongoDatabase
    repairer: Repairer | None
    index_min_nodes: int
    set_aside: SetAside | None = None
    by_postgres: bool = False


@dataclass(slots=True)
class RoundFindings:
    """Drift that a round found: repaired, kept as it is with the reason, or set aside."""

    done: Findings = field(default_factory=Findings)
    kept: Findings = field(default_factory=Findings)
    set_aside: Findings = field(default_factory=Findings)


class CollectionRepair:
    """Repairs one collection, and adds to the findings of the round."""

    def __init__(
        self, context: RepairContext, collection: Collection, embedder: Callable[[], Embedder], findings: RoundFindings
    ) -> None:
        self._context = context
        self._repairer = context.repairer
        self._collection = collection
        self._postgres = PostgresScan(context.pool, collection)
        self._mongo = MongoScan(context.database, collection.name)
        self._revival = Revival(context.pool, collection, embedder)
        self._done = findings.done
        self._kept = findings.kept
        self._set_aside = findings.set_aside
        self.n_embedded = 0

    def run(self, tell: Callable[[int], None]) -> None:
        """Repair once. Nodes come first: the entries of documents are evidence of which nodes were lost."""
        self._make_table()
        for nodes in NodeSurvey(self._postgres, self._mongo, deep=True, tell=tell).drift():
            self._repair_nodes(nodes)
        with_evidence = not self._context.by_postgres
        for documents in DocumentSurvey(self._postgres, self._mongo, deep=True, with_evidence=with_evidence).drift():
            self._repair_documents(documents)
        self._rebuild_indexes()
        for struct in stale_structs(self._context.database, self._collection):
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
            self._postgres = PostgresScan(self._context.pool, self._collection)

    # Nodes

    def _repair_nodes(self, drift: NodeDrift) -> None:
        self._put_missing(drift.missing)
        self._replace_altered(drift.altered)
        self._delete_doubled(drift.doubled)
        self._replace_unusable(drift.unusable)
        self._keep_rows(drift.unreadable)
        if self._context.by_postgres:
            reason = "PostgreSQL does not have it"
            self._keep_bodies(Kind.ORPHAN_IN_MONGO, {body.origin.node_id: reason for body in drift.unknown})
            return
        self._delete_garbage([body for body in drift.unknown if body.verdict == "garbage"])
        self._restore([body for body in drift.unknown if body.verdict == "lost"])
        kept = {body.origin.node_id: body.reason for body in drift.unknown if body.verdict == "kept"}
        self._keep_bodies(Kind.ORPHAN_IN_MONGO, kept)

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
        """Restore nodes of documents that the ledger knows; documents that it lost are restored as a whole, later."""
        lost = [each for each in lost if each.document_id is None or (each.line and each.line.live)]
        can = [each for each in lost if self._revival.can_revive(has_vector=each.has_vector)]
        ids = {each.origin.node_id for each in can}
        reason = "its vector came from outside; add the node again"
        stuck = {each.origin.node_id: reason for each in lost if each.origin.node_id not in ids}
        self._keep_bodies(Kind.MISSING_IN_POSTGRES, stuck)
        if not self._repairer:
            self._done.add(Kind.MISSING_IN_POSTGRES, ids)
        elif can:
            bodies = self._mongo.bodies_of(list(ids))
            nodes = self._revival.revived([_lost(each, bodies) for each in can if each.origin.node_id in bodies])
            restored = set(self._repairer.restore_nodes(self._collection, nodes))
            self._done.add(Kind.MISSING_IN_POSTGRES, sorted(restored))
            self.n_embedded += len({n.node.text for n in nodes if n.computed})
            reason = "its document changed, or more nodes than it lost could be it"
            self._keep_bodies(Kind.MISSING_IN_POSTGRES, dict.fromkeys(sorted(ids - restored), reason))

    # Documents

    def _repair_documents(self, drift: DocumentDrift) -> None:
        if self._context.by_postgres:
            self._set_entries_aside(drift.stale)
        unknown = [line.document_id for line in drift.unknown]
        self._restore_documents([*unknown, *(str(entry["_id"]) for entry in drift.unexplained)])
        self._recount([line for line in drift.miscounted if line.n_rows > line.n_nodes])
        self._let_read_again([line for line in drift.miscounted if line.n_rows < line.n_nodes])
        for kind in _KINDS:
            self._put_entries(kind, [each for each in drift.stale if each.kind == kind])

    def _restore_documents(self, document_ids: Sequence[str]) -> None:
        for document_id in document_ids:
            found = find_lost(self._context.pool, self._postgres, self._mongo, document_id)
            if found.reason is not None:
                self._keep_document(found, found.reason)
            elif not all(self._revival.can_revive(has_vector=body.has_vector) for body in found.bodies):
                reason = "its vectors came from outside; add it again"
                self._keep_document(found, reason)
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
        reason = "{} of its nodes are in neither store; ingest it again"
        found = {line.document_id: reason.format(line.n_nodes - line.n_rows) for line in lines}
        self._keep(Kind.WRONG_COUNT, found)
        if self._repairer and lines and self._context.set_aside:
            self._repairer.accept_loss(self._collection, list(found))
        elif self._repairer and lines:
            self._repairer.forget_sources(self._collection, list(found))

    def _put_entries(self, kind: Entries, stale: Sequence[StaleEntry]) -> None:
        if self._context.by_postgres:
            stale = [each for each in stale if each.expected.node_ids is not None]
        self._done.add(Kind.STALE_ENTRY, (f"{each.document_id}: {kind}" for each in stale))
        if self._repairer and stale:
            self._repairer.put_entries(self._collection, kind, [(each.found, each.expected) for each in stale])

    # Data that only a person can decide about; with set_aside the decision was to move it away

    def _keep(self, kind: Kind, reasons: Mapping[str, str]) -> bool:
        """Report, by id, data that is kept or set aside; returns whether the caller must set it aside."""
        tally = self._kept if self._context.set_aside is None else self._set_aside
        tally.add(kind, (f"{key}: {reason}" for key, reason in reasons.items()))
        return self._context.set_aside is not None and bool(reasons)

    def _keep_bodies(self, kind: Kind, reasons: Mapping[str, str]) -> None:
        if self._keep(kind, reasons):
            self._move("data", list(self._mongo.bodies_of(list(reasons)).values()))

    def _keep_document(self, found: FoundDocument, reason: str) -> None:
        document_id = found.document.document_id
        if self._keep(Kind.MISSING_IN_LEDGER, {document_id: reason}):
            self._move("data", [each.body for each in found.bodies])
            for kind in _KINDS:
                self._move(kind, list(self._mongo.entries_of(kind, [document_id]).values()))

    def _keep_rows(self, node_ids: Sequence[str]) -> None:
        reason = "its row holds no node of that id; write its content again, or let it be set aside"
        if self._keep(Kind.UNREADABLE_ROW, dict.fromkeys(node_ids, reason)) and self._context.set_aside:
            rows = whole_rows(self._context.pool, self._collection, node_ids)
            documents = [{"_id": row.node_id, "row": row.content} for row in rows]
            self._context.set_aside.keep(f"{self._collection.name}/rows", documents)
            if self._repairer:
                owners = sorted({row.document_id for row in rows if row.document_id is not None})
                self._repairer.delete_rows(self._collection, {row.node_id: row.row_id for row in rows}, owners)

    def _set_entries_aside(self, stale: Sequence[StaleEntry]) -> None:
        """Set aside entries of documents that PostgreSQL lacks; no revision that MongoDB has seen is used again."""
        orphaned = [each for each in stale if each.expected.node_ids is None and each.found is not None]
        reason = "PostgreSQL does not have its document"
        for kind in _KINDS:
            of_kind = {
                each.document_id: each.found for each in orphaned if each.kind == kind and each.found is not None
            }
            self._keep(Kind.STALE_ENTRY, {f"{i}: {kind}": reason for i in of_kind})
            self._move(kind, list(of_kind.values()))
        seen = {each.document_id: _revision(each.found) for each in stale}
        raised = {
            each.document_id: seen[each.document_id] + (each.expected.node_ids is not None)
            for each in stale
            if seen[each.document_id] >= max(each.expected.revision, 1)
        }
        if self._repairer and raised:
            self._repairer.raise_revisions(self._collection.name, raised)

    def _move(self, part: str, documents: Sequence[Document]) -> None:
        if self._context.set_aside is not None:
            self._context.set_aside.move(f"{self._collection.name}/{part}", documents)

    # Indexes

    def _put_structs(self) -> None:
        for stale in stale_copies(self._context.pool, self._context.database, self._collection):
            index_id, is_lost = stale.struct.index_id, stale.struct.stamp is None
            if self._context.by_postgres and is_lost:
                self._keep_struct(stale, "PostgreSQL does not have it")
            elif self._repairer and not self._repairer.put_struct(self._collection, stale.struct, stale.found):
                self._keep_struct(stale, "its id is another collection's")
            else:
                self._done.add(Kind.STALE_STRUCT, [index_id])

    def _keep_struct(self, stale: StaleStruct, reason: str) -> None:
        if self._keep(Kind.STALE_STRUCT, {stale.struct.index_id: reason}) and self._context.set_aside and stale.found:
            self._context.set_aside.move(STRUCTS, [stale.found])

    def _rebuild_indexes(self) -> None:
        broken = unusable_indexes(self._context.pool, self._postgres)
        if not broken:
            self._seal_fresh()
            return
        left = broken
        if self._repairer:
            self._repairer.ensure_table(self._collection)
            for index in broken:
                self._rebuild(index)
            left = unusable_indexes(self._context.pool, self._postgres)
        self._seal_fresh()
        done = broken if not self._repairer else {name: why for name, why in broken.items() if name not in left}
        self._done.add(Kind.INVALID_INDEX, (f"{name} {why}" for name, why in done.items()))
        if self._repairer:
            hint = "make it as the migrations do"
            self._kept.add(Kind.INVALID_INDEX, (f"{name} {why}; {hint}" for name, why in left.items()))

    def _seal_fresh(self) -> None:
        if self._repairer:
            self._repairer.seal_fresh(self._collection, min_nodes=self._context.index_min_nodes)

    def _rebuild(self, index: str) -> None:
        still = unusable_indexes(self._context.pool, self._postgres)
        is_of_segment = is_segment_table(index)
        if self._repairer and index in still and (is_of_segment or still[index] == "is invalid"):
            self._repairer.rebuild_index(self._collection, index)


def _revision(entry: Document | None) -> int:
    stamp = (entry or {}).get("stamp")
    return stamp if isinstance(stamp, int) else 0


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
