"""Verify: comparison of PostgreSQL and MongoDB with the ledger; correct while workers run, in constant memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ragstore.audit.documents import DocumentDrift, DocumentSurvey
from ragstore.audit.nodes import NodeDrift, NodeSurvey
from ragstore.audit.structures import count_leftovers, has_registry, stale_copies, stale_structs, unusable_indexes
from ragstore.model.collection import Collection
from ragstore.model.drift import Kind, VerifyReport
from ragstore.model.report import Findings, Listener, Progress
from ragstore.mongo.client import MongoDatabase
from ragstore.mongo.scan import MongoScan
from ragstore.postgres.effort import look
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.scan import PostgresScan, count_pending_elsewhere
from ragstore.protocol.epoch import EpochWatch


def verify(
    pool: PostgresPool,
    database: MongoDatabase,
    collections: Sequence[tuple[Collection, int]],
    *,
    deep: bool = False,
    everything: bool = False,
    tell: Listener | None = None,
) -> VerifyReport:
    """Compare both stores with the ledger; changes nothing.

    Args:
        collections: each with the number of its nodes, the total for its progress.
        deep: also compare texts, metadata and vectors, and sampled questions with an exact search.
        everything: these are all collections, so MongoDB's data under other names is left over from dropped ones.
    """
    began = time.monotonic()
    report = VerifyReport()
    restored = EpochWatch(pool, database).find()
    if restored is not None:
        report.drift.add(Kind.RESTORED_STORE, [restored.message])
    if not has_registry(database):
        report.drift.add(Kind.MISSING_REGISTRY, [f"database {database.name}"])
    for collection, expected in collections:
        _verify_collection(
            pool, database, collection, report, deep=deep, tell=survey_listener(tell, collection, expected)
        )
    if everything:
        count_leftovers(pool, database, report.drift)
        report.pending += count_pending_elsewhere(pool)
    report.seconds = time.monotonic() - began
    return report


def survey_listener(tell: Listener | None, collection: Collection, expected: int) -> Callable[[int], None]:
    """A listener for the survey of one collection, which passes its progress on to ``tell``."""
    began = time.monotonic()

    def listen(n_nodes: int) -> None:
        if tell is not None:
            tell(Progress(collection.name, n_nodes, expected, time.monotonic() - began))

    return listen


def _verify_collection(
    pool: PostgresPool,
    database: MongoDatabase,
    collection: Collection,
    report: VerifyReport,
    *,
    deep: bool,
    tell: Callable[[int], None],
) -> None:
    postgres, mongo = PostgresScan(pool, collection), MongoScan(database, collection.name)
    if not postgres.has_table:
        report.drift.add(Kind.MISSING_TABLE, [f"ragstore.{collection.table}"])
    nodes = NodeSurvey(postgres, mongo, deep=deep, tell=tell)
    for node_drift in nodes.drift():
        count_nodes(report.drift, node_drift)
    documents = DocumentSurvey(postgres, mongo, deep=deep)
    for document_drift in documents.drift():
        count_documents(report.drift, document_drift)
    report.drift.add(Kind.INVALID_INDEX, [f"{n} {why}" for n, why in unusable_indexes(pool, postgres).items()])
    report.drift.add(Kind.LARGE_STRUCT, (str(struct["_id"]) for struct in stale_structs(database, collection)))
    report.drift.add(Kind.STALE_STRUCT, (each.struct.index_id for each in stale_copies(pool, database, collection)))
    if deep and postgres.has_table:
        found = look(pool, collection.name)
        if found is not None:
            report.found[collection.name] = found
    report.documents += documents.n_documents
    report.nodes += nodes.n_nodes
    report.pending += postgres.count_pending()


def count_nodes(tally: Findings, drift: NodeDrift) -> None:
    """Add the drift among nodes to a tally."""
    tally.add(Kind.MISSING_IN_MONGO, (node.node_id for node in drift.missing))
    tally.add(Kind.ALTERED_IN_MONGO, (body.node.node_id for body in drift.altered))
    tally.add(Kind.DOUBLED_ROW, (node.node_id for node in drift.doubled))
    tally.add(Kind.UNREADABLE_ROW, drift.unreadable)
    tally.add(Kind.UNUSABLE_VECTOR, (node.node_id for node in drift.unusable))
    lost = [body for body in drift.unknown if body.verdict == "lost"]
    orphans = [body for body in drift.unknown if body.verdict != "lost"]
    tally.add(Kind.MISSING_IN_POSTGRES, (f"{body.origin.node_id}: {body.reason}" for body in lost))
    tally.add(Kind.ORPHAN_IN_MONGO, (f"{body.origin.node_id}: {body.reason}" for body in orphans))


def count_documents(tally: Findings, drift: DocumentDrift) -> None:
    """Add the drift among documents to a tally."""
    tally.add(Kind.MISSING_IN_LEDGER, (line.document_id for line in drift.unknown))
    counts = (f"{d.document_id}: {d.n_rows} rows, the ledger says {d.n_nodes}" for d in drift.miscounted)
    tally.add(Kind.WRONG_COUNT, counts)
    tally.add(Kind.STALE_ENTRY, (f"{each.document_id}: {each.kind}" for each in drift.stale))
