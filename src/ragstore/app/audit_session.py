"""Audit session: both databases opened for verify, repair and reconcile, even if one of them was emptied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from ragstore.app.migrations import check_deployment, deployment_of, migrate_mongo, register_mongo
from ragstore.app.wiring import Addresses, mongo_database, postgres_pool
from ragstore.audit.repair import RepairOptions, repair
from ragstore.model.collection import Collection
from ragstore.model.drift import ReconcileReport, RepairReport
from ragstore.model.report import Listener
from ragstore.mongo.client import MongoDatabase
from ragstore.mongo.epoch import position
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres import epoch as in_postgres
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.rebuild import exclusive_repair
from ragstore.protocol.epoch import EpochWatch, Reconciler, Unwatched
from ragstore.protocol.recover import Recoverer, this_worker
from ragstore.protocol.repair import Repairer
from ragstore.protocol.set_aside import SetAside
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint, reached

_CONNECTIONS = 5
"""For a scan, the look-ups that it needs, a repair, and a recovery at the same time."""


@dataclass(frozen=True, slots=True)
class AuditSession:
    """The two databases, with enough connections for an audit whatever the settings say."""

    pool: PostgresPool
    database: MongoDatabase
    grace_s: float

    @property
    def watch(self) -> EpochWatch:
        """The watch for a restore of either database."""
        return EpochWatch(self.pool, self.database)

    def aside(self, *, dry_run: bool) -> SetAside:
        """A new place, named by the time, for what is set aside."""
        return SetAside(self.database, f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}", dry_run=dry_run)


@contextmanager
def open_audit_session(settings: Settings, addresses: Addresses) -> Iterator[AuditSession]:
    """Open both databases for the length of the block; only a MongoDB of another deployment is refused.

    Raises:
        StoreError, EmptyStoreError
    """
    pool = postgres_pool(settings, addresses, size=_CONNECTIONS)
    try:
        with mongo_database(settings, addresses) as mongo:
            check_deployment(mongo, pool)
            yield AuditSession(pool, mongo, settings.grace_s)
    finally:
        pool.close()


@contextmanager
def repairing(session: AuditSession) -> Iterator[tuple[Repairer, bool]]:
    """A repairer, under the lock of repairs and after dead runs were recovered; and whether it registered MongoDB.

    Raises:
        RefusedError: another repair is running.
        RestoredStoreError: one store was restored: data that only one store has may be lost in the other, or new.
        SchemaVersionError, StoreError
    """
    pool, mongo = session.pool, session.database
    with exclusive_repair(pool):
        registered = register_mongo(mongo, pool)
        if registered:
            reached(Failpoint.REPAIR_REGISTERED)
        session.watch.check()
        recoverer = Recoverer(pool, Ledger(pool), NodeStore(mongo), grace_s=session.grace_s)
        recoverer.recover()
        yield Repairer(pool, mongo, recoverer, worker=this_worker()), registered


def reconcile(
    session: AuditSession,
    collections: Callable[[], Sequence[tuple[Collection, int]]],
    options: RepairOptions,
    *,
    dry_run: bool,
    tell: Listener | None,
) -> ReconcileReport:
    """Bring MongoDB to PostgreSQL's state if one of the two was restored, or MongoDB emptied.

    Args:
        collections: returns all collections of PostgreSQL, as they are when it is called.

    Raises:
        RefusedError: a repair or another reconcile is running.
        SchemaVersionError, StoreError

    Crash safety:
        If it is killed at any point, the stores are in two epochs, which is noticed like a restore; the next reconcile
        does everything again.
    """
    pool, mongo = session.pool, session.database
    found = session.watch.find()
    if found is None and position(mongo) is not None:
        return ReconcileReport(None, in_postgres.position(pool).epoch, RepairReport(dry_run=dry_run))
    reason = found.message if found is not None else f"MongoDB database {mongo.name!r} was emptied"
    if dry_run:
        planned = repair(pool, mongo, collections(), options, None, tell)
        return ReconcileReport(reason, in_postgres.position(pool).epoch, planned)
    with _reconciling(session) as (repairer, epoch):
        # Not earlier, because collections must be read in the new epoch.
        return ReconcileReport(reason, epoch, repair(pool, mongo, collections(), options, repairer, tell))


@contextmanager
def _reconciling(session: AuditSession) -> Iterator[tuple[Repairer, int]]:
    """A repairer under the lock of repairs, and the new epoch that it begins; MongoDB enters it when the block ends."""
    pool, mongo, worker = session.pool, session.database, this_worker()
    with exclusive_repair(pool):
        check_deployment(mongo, pool)
        migrate_mongo(mongo)
        reconciler = Reconciler(pool, mongo, worker=worker)
        epoch = reconciler.begin()
        ledger, nodes = Ledger(pool), NodeStore(mongo)
        recoverer = Recoverer(pool, ledger, nodes, grace_s=session.grace_s, watch=Unwatched(pool, mongo))
        yield Repairer(pool, mongo, recoverer, worker=worker), epoch
        reconciler.end(deployment_of(pool))
        Recoverer(pool, ledger, nodes, grace_s=session.grace_s).recover()
