"""Writer of a process: both stores with the parts that change them, opened at the first change."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from ragstore.app.migrations import check_mongo
from ragstore.app.wiring import Addresses, mongo_client
from ragstore.mongo.client import Client, MongoDatabase, database
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.drop import Dropper
from ragstore.protocol.indexing import Indexer
from ragstore.protocol.publish import Publisher, Timing
from ragstore.protocol.recover import Caretaker, Recoverer, this_worker
from ragstore.settings import Settings


@dataclass(frozen=True, slots=True)
class Writer:
    """Both stores, and the parts of the protocol that change them."""

    client: Client
    database: MongoDatabase
    nodes: NodeStore
    ledger: Ledger
    publisher: Publisher
    recoverer: Recoverer
    worker: str
    timing: Timing
    caretaker: Caretaker
    indexer: Indexer

    def dropper(self, pool: PostgresPool) -> Dropper:
        """The part that drops collections."""
        grace_s = self.timing.grace_s
        return Dropper(pool, self.database, self.publisher, self.recoverer, worker=self.worker, grace_s=grace_s)

    def close(self) -> None:
        """Stop the threads and close the MongoDB client."""
        self.caretaker.close()
        self.indexer.close()
        self.publisher.close()
        self.client.close()


def open_writer(settings: Settings, addresses: Addresses, pool: PostgresPool) -> Writer:
    """Connect to MongoDB, check that the two databases belong together, and recover dead runs.

    Raises:
        StoreError, RefusedError
    """
    client = mongo_client(settings, addresses, pool_size=settings.pool_size)
    try:
        mongo = database(client, settings.mongo_database)
        check_mongo(mongo, pool)
        nodes, ledger, worker = NodeStore(mongo), Ledger(pool), this_worker()
        timing = Timing(lease_ttl_s=settings.lease_ttl_s, grace_s=settings.grace_s)
        recoverer = Recoverer(pool, ledger, nodes, grace_s=settings.grace_s)
        recoverer.recover()
    except BaseException:
        client.close()
        raise
    publisher = Publisher(ledger, nodes, worker=worker, timing=timing)
    caretaker = Caretaker(recoverer, every_s=timing.lease_ttl_s)
    indexer = Indexer(pool.another(size=2), min_nodes=settings.index_min_nodes, memory_mb=index_memory_mb(settings))
    return Writer(client, mongo, nodes, ledger, publisher, recoverer, worker, timing, caretaker, indexer)


def index_memory_mb(settings: Settings) -> int:
    """Megabytes of memory for a build of the vector index."""
    return settings.index_memory_mb or max(16, psutil.virtual_memory().total // 2**20 // 8)
