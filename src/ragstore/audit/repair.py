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

from ragstore.audit.collection_repair import CollectionRepair, Means
from ragstore.audit.namespaces import remove_leftovers
from ragstore.audit.structures import has_registry
from ragstore.audit.verify import Listener, told
from ragstore.embedding import Embedder
from ragstore.model.collection import Collection
from ragstore.model.drift import Kind, RepairReport, Tally
from ragstore.mongo.client import MongoDatabase
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.repair import Repairer

_MAX_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How to repair.

    Args:
        embedder: the model of a collection, loaded when a vector must be computed.
        index_min_nodes: fresh nodes from which an index over them is built.
        registered: MongoDB did not say which PostgreSQL database it belongs to, and now does.
        everything: all collections are repaired, and what is left of dropped ones is removed.
    """

    embedder: Callable[[Collection], Embedder]
    index_min_nodes: int
    registered: bool = False
    everything: bool = False


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
    means = Means(pool, database, repairer, options.index_min_nodes)
    for _ in range(_MAX_ROUNDS):
        done, report.kept = Tally(), Tally()
        for collection, expected in collections:
            one = CollectionRepair(means, collection, partial(options.embedder, collection), done, report.kept)
            one.run(told(tell, collection, expected))
            report.embedded += one.n_embedded
        if options.everything:
            remove_leftovers(pool, database, repairer, done, report.kept)
        report.repaired.merge(done)
        if repairer is None or not done.counts:
            break
    report.seconds = time.monotonic() - began
    return report
