"""Both databases opened to be looked at and repaired, also where one of them was emptied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ragstore.app.addresses import Addresses, mongo_database, postgres_pool
from ragstore.app.migrations import check_deployment, register_mongo
from ragstore.mongo.client import MongoDatabase
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.rebuild import alone
from ragstore.protocol.recover import Recoverer
from ragstore.protocol.repair import Repairer
from ragstore.protocol.worker import this_worker
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint, reached

_CONNECTIONS = 5
"""A scan, the questions it raises, a repair, and what recovery does meanwhile."""


@dataclass(frozen=True, slots=True)
class Audited:
    """The two databases, however few connections the settings give to other work."""

    pool: PostgresPool
    database: MongoDatabase
    grace_s: float


@contextmanager
def opened_for_audit(settings: Settings, addresses: Addresses) -> Iterator[Audited]:
    """Both databases, for the length of the block; only a MongoDB of another deployment is refused.

    Raises:
        StoreError, EmptyStoreError
    """
    pool = postgres_pool(settings, addresses, size=_CONNECTIONS)
    try:
        with mongo_database(settings, addresses) as mongo:
            check_deployment(mongo, pool)
            yield Audited(pool, mongo, settings.grace_s)
    finally:
        pool.close()


@contextmanager
def repairing(audited: Audited) -> Iterator[tuple[Repairer, bool]]:
    """What repairs, alone and after dead runs were recovered; and whether MongoDB had to be registered first.

    Raises:
        RefusedError: another repair is at work.
        SchemaVersionError, StoreError
    """
    pool, mongo = audited.pool, audited.database
    with alone(pool):
        registered = register_mongo(mongo, pool)
        if registered:
            reached(Failpoint.REPAIR_REGISTERED)
        recoverer = Recoverer(pool, Ledger(pool), NodeStore(mongo), grace_s=audited.grace_s)
        recoverer.recover()
        yield Repairer(pool, mongo, recoverer, worker=this_worker()), registered
