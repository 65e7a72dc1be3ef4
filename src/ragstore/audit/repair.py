"""Repair: removal of the drift that verify finds, and a report of what must stay.

Data that one store lost is restored from the other: bodies and entries from PostgreSQL, rows and ledger from MongoDB.
Only proved garbage is deleted. Each round surveys everything; the last round finds nothing more to repair, and so is
also a verify.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ragstore.audit.collection_repair import CollectionRepair, RepairContext, RoundFindings
from ragstore.audit.structures import has_registry, remove_leftovers
from ragstore.audit.verify import survey_listener
from ragstore.embedding import Embedder
from ragstore.model.collection import Collection
from ragstore.model.drift import Kind, RepairReport
from ragstore.model.report import Findings, Listener
from ragstore.mongo.client import MongoDatabase
from ragstore.postgres.collections import find_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.repair import Repairer
from ragstore.protocol.set_aside import SetAside

_MAX_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """Options of a repair.

    Args:
        embedder: returns the model of a collection; called when a vector must be computed.
        index_min_nodes: least number of fresh nodes for which an index is built.
        registered: MongoDB did not say which PostgreSQL database it belongs to, and was registered just now.
        set_aside: takes data that would be kept otherwise; None to keep it.
        by_postgres: PostgreSQL is always right: all that only MongoDB has is set aside.
        whole: the repair covers all collections of PostgreSQL, so data of MongoDB under other names is left over.
    """

    embedder: Callable[[Collection], Embedder]
    index_min_nodes: int
    registered: bool = False
    set_aside: SetAside | None = None
    by_postgres: bool = False
    whole: bool = True


def repair(
    pool: PostgresPool,
    database: MongoDatabase,
    collections: Sequence[tuple[Collection, int]],
    options: RepairOptions,
    repairer: Repairer | None,
    tell: Listener | None = None,
) -> RepairReport:
    """Remove drift until none is left that can be removed.

    Args:
        collections: each with the number of its nodes, the total for its progress.
        repairer: None for a dry run, which reports what would be done and changes nothing.

    Raises:
        ModelError: vectors must be computed and the model cannot be used; earlier repairs stay.

    Crash safety:
        Idempotent; a killed repair is run again.
    """
    began = time.monotonic()
    report = RepairReport(dry_run=repairer is None)
    if options.registered or not has_registry(database):
        report.repaired.add(Kind.MISSING_REGISTRY, [f"database {database.name}"])
    context = RepairContext(
        pool, database, repairer, options.index_min_nodes, set_aside=options.set_aside, by_postgres=options.by_postgres
    )
    for _ in range(_MAX_ROUNDS):
        found = RoundFindings()
        if repairer is not None and options.by_postgres:
            repairer.retire()
        for collection, expected in collections:
            one = CollectionRepair(context, collection, partial(options.embedder, collection), found)
            one.run(survey_listener(tell, collection, expected))
            report.embedded += one.n_embedded
        if options.whole and options.set_aside is not None:
            _set_namespaces_aside(context, options.set_aside, found.set_aside)
        elif options.whole:
            remove_leftovers(pool, database, repairer, found.done, found.kept)
        report.kept = found.kept
        report.repaired.merge(found.done)
        report.set_aside.merge(found.set_aside)
        if repairer is None or not (found.done.counts or found.set_aside.counts):
            break
    if options.set_aside is not None:
        report.places = sorted(options.set_aside.places)
    report.seconds = time.monotonic() - began
    return report


def _set_namespaces_aside(context: RepairContext, aside: SetAside, tally: Findings) -> None:
    """Set aside MongoDB's data of collections that PostgreSQL does not have; data of other programs stays."""
    for namespace in aside.namespaces():
        for name, page in aside.ours(namespace):
            # The collection was made in the meantime; a run stages nodes only after that.
            if find_collection(context.pool, namespace) is not None:
                break
            if context.repairer and name.endswith("/ref_doc_info"):
                context.repairer.raise_revisions(namespace, {str(each["_id"]): int(each["stamp"]) for each in page})
            moved = aside.move(name, page)
            tally.add(Kind.LEFT_OVER_NAMESPACE, (f"{name}: {each}" for each in moved))
