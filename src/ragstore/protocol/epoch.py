"""Detection of a store that was restored from a backup, and the begin of a new epoch.

No store is written to while the other one has the state of another moment.
"""

from __future__ import annotations

from ragstore.errors import EmptyStoreError, RestoredStoreError, StoreUnavailableError
from ragstore.model.epoch import Restored, StorePosition, find_restored
from ragstore.mongo import epoch as in_mongo
from ragstore.mongo.client import MongoDatabase
from ragstore.mongo.set_aside import largest_stamp
from ragstore.postgres import epoch as in_postgres
from ragstore.postgres.outbox import TakenOutbox
from ragstore.postgres.pool import PostgresPool
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)

RECONCILE = (
    "'ragstore reconcile --dry-run' shows what differs, 'ragstore reconcile' brings MongoDB to PostgreSQL's state"
)
_TRIES = 100

MARGIN = 1_000_000
"""Numbers that another timeline may have used without MongoDB having seen them."""

_CREDIBLE = 1 << 60
"""A larger number in MongoDB is not ours."""


class EpochWatch:
    """Compares the positions of the two stores, to find one that was restored from a backup."""

    def __init__(self, pool: PostgresPool, database: MongoDatabase) -> None:
        self._pool = pool
        self._database = database
        self._confirmed_at = -1

    def find(self) -> Restored | None:
        """The store that was restored, if any; an emptied MongoDB does not count as restored.

        PostgreSQL is read before and after MongoDB, so that work under way is never taken for a restore.
        """
        while True:
            before = in_postgres.position(self._pool)
            mongo_position = in_mongo.position(self._database)
            if mongo_position is None:
                return None
            found = find_restored(before, mongo_position, lambda mark: in_postgres.is_known(self._pool, mark))
            if found is None or in_postgres.position(self._pool).epoch == before.epoch:
                return found

    def check(self) -> None:
        """Raise RestoredStoreError if one of the stores was restored."""
        found = self.find()
        if found is not None:
            raise restored(found)

    def confirm(self) -> None:
        """Check again if this process has opened a connection to PostgreSQL since: a server in use is never restored.

        Raises:
            RestoredStoreError
        """
        n_connected = self._pool.n_connected
        if n_connected != self._confirmed_at:
            self.check()
            self._confirmed_at = n_connected

    def advance(self, taken: TakenOutbox) -> None:
        """Move MongoDB's mark to that of these outbox rows, before they are carried out.

        Raises:
            RestoredStoreError, EmptyStoreError: nothing was written to MongoDB.

        Crash safety:
            After a kill the row of the mark is still in the outbox, so PostgreSQL knows the mark.
        """
        mark, found = taken.mark, taken.position
        # With a single writer MongoDB has the mark that PostgreSQL noted last: one round trip is enough.
        if mark.number > found.mark.number and in_mongo.advance(self._database, found, mark):
            return
        for _ in range(_TRIES):
            mongo_position = in_mongo.position(self._database)
            if mongo_position is None:
                raise emptied(self._database)
            finding = find_restored(taken.position, mongo_position, taken.knows)
            if finding is not None:
                raise restored(finding)
            if mongo_position.mark.number >= mark.number or in_mongo.advance(self._database, mongo_position, mark):
                return
        raise StoreUnavailableError(
            "MongoDB's mark could not be moved on: others moved it each time",
            hint="run the same command again",
        )


class Unwatched(EpochWatch):
    """No watch: for a reconciliation, which has both stores to itself and sets MongoDB's mark at its end."""

    def advance(self, taken: TakenOutbox) -> None:
        """Do nothing: MongoDB's mark stays."""


def restored(found: Restored) -> RestoredStoreError:
    """The error for every write while a store is restored."""
    return RestoredStoreError(found.message, hint=RECONCILE, **found.as_dict())


def emptied(database: MongoDatabase) -> EmptyStoreError:
    """The error when MongoDB lost its database while this process was running."""
    return EmptyStoreError(
        f"MongoDB database {database.name!r} was emptied: it does not say any more which PostgreSQL it belongs to",
        hint="if its content is lost, 'ragstore repair' rebuilds it from PostgreSQL",
    )


def bounds(database: MongoDatabase) -> tuple[int, int]:
    """MongoDB's epoch, and a number above all that it has seen and may not have seen."""
    found = in_mongo.position(database) or StorePosition()
    seen = max(largest_stamp(database, at_most=_CREDIBLE), min(found.mark.number, _CREDIBLE))
    return found.epoch, seen + MARGIN


class Reconciler:
    """Begins an epoch, and completes the change when MongoDB agrees with PostgreSQL."""

    def __init__(self, pool: PostgresPool, database: MongoDatabase, *, worker: str) -> None:
        self._pool = pool
        self._database = database
        self._worker = worker

    def begin(self) -> int:
        """End the present epoch: its runs, its outbox and its numbers; returns the new one.

        From now on PostgreSQL refuses writers of former epochs, and the watch refuses all writers, because MongoDB
        is behind until ``end``.

        Crash safety:
            One transaction; a second call begins one more epoch, which is harmless.
        """
        mongo_epoch, bound = bounds(self._database)
        epoch = in_postgres.begin(self._pool, mongo_epoch=mongo_epoch, bound=bound, worker=self._worker)
        reached(Failpoint.EPOCH_BEGUN)
        _log.info("epoch begun", action="reconcile", epoch=epoch, bound=bound)
        return epoch

    def end(self, deployment: str) -> None:
        """Set PostgreSQL's epoch and mark in MongoDB; everything else there must agree with PostgreSQL already.

        Crash safety:
            One update of one entry.
        """
        in_mongo.put(self._database, in_postgres.position(self._pool), deployment=deployment)
        reached(Failpoint.EPOCH_TOLD)
