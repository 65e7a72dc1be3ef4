"""Repair: removes the drift that verify finds, and reports what it must leave alone.

What both stores can say is brought back from the one that has it: bodies and entries from PostgreSQL, rows and ledger
from MongoDB. Only what is proved to be garbage is deleted. Each round surveys everything; the last one finds nothing
left that can be repaired, and so is a verify at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ragstore.audit.collection_repair import CollectionRepair, RepairContext, RoundFindings
from ragstore.audit.structures import has_registry, remove_leftovers
from ragstore.audit.verify import Listener, survey_listener
from ragstore.embedding import Embedder
from ragstore.model.collection import Collection
from ragstore.model.drift import Kind, RepairReport, Tally
from ragstore.mongo.client import MongoDatabase
from ragstore.postgres.collections import find_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.repair import Repairer
from ragstore.protocol.set_aside import SetAside

_MAX_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How to repair.

    Args:
        embedder: the model of a collection, loaded when a vector must be computed.
        index_min_nodes: fresh nodes from which an index over them is built.
        registered: MongoDB did not say which PostgreSQL database it belongs to, and now does.
        set_aside: takes what would be kept otherwise; None to keep it.
        by_postgres: PostgreSQL is right in all; whatever only MongoDB has is set aside.
        whole: these are all collections that PostgreSQL has: what MongoDB has under other names is left over.
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
        collections: each with the number of its nodes that progress is told against.
        repairer: None for a dry run, which says what would be done and changes nothing.

    Raises:
        ModelError: vectors must be computed and the model cannot be used; what was done by then stays.

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


def _set_namespaces_aside(context: RepairContext, aside: SetAside, tally: Tally) -> None:
    """Move what is in MongoDB of collections that PostgreSQL does not have; what other programs wrote stays."""
    for namespace in aside.namespaces():
        for name, page in aside.ours(namespace):
            # Made meanwhile: what a run stages there comes after its collection.
            if find_collection(context.pool, namespace) is not None:
                break
            if context.repairer and name.endswith("/ref_doc_info"):
                context.repairer.raise_revisions(namespace, {str(each["_id"]): int(each["stamp"]) for each in page})
            moved = aside.move(name, page)
            tally.add(Kind.LEFT_OVER_NAMESPACE, (f"{name}: {each}" for each in moved))
