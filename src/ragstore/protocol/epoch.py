"""The watch over restores: no store is written to while the other one is of another moment."""

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


class EpochWatch:
    """Compares how far the two stores are."""

    def __init__(self, pool: PostgresPool, database: MongoDatabase) -> None:
        self._pool = pool
        self._database = database
        self._confirmed_at = -1

    def find(self) -> Restored | None:
        """Which store was restored, if one was; an emptied MongoDB was not.

        PostgreSQL is asked before MongoDB and after, so that work under way is never taken for a restore.
        """
        while True:
            before = in_postgres.stand(self._pool)
            there = in_mongo.stand(self._database)
            if there is None:
                return None
            found = find_restored(before, there, lambda mark: in_postgres.is_known(self._pool, mark))
            if found is None or in_postgres.stand(self._pool).epoch == before.epoch:
                return found

    def check(self) -> None:
        """Raise RestoredStoreError where one of the stores was restored."""
        found = self.find()
        if found is not None:
            raise restored(found)

    def confirm(self) -> None:
        """Check again if this process has had to connect to PostgreSQL since: nobody restores a server in use.

        Raises:
            RestoredStoreError
        """
        n_connected = self._pool.n_connected
        if n_connected != self._confirmed_at:
            self.check()
            self._confirmed_at = n_connected

    def advance(self, taken: TakenOutbox) -> None:
        """Give MongoDB the mark of outbox rows before they are carried out.

        Raises:
            RestoredStoreError, EmptyStoreError: nothing was written to MongoDB.

        Crash safety:
            Killed afterwards, the row of the mark is still in the outbox, and so is known.
        """
        mark, found = taken.mark, taken.stand
        # Alone, the last to have moved the mark was who noted it last: one round trip.
        if mark.number > found.mark.number and in_mongo.advance(self._database, found, mark):
            return
        for _ in range(_TRIES):
            there = in_mongo.stand(self._database)
            if there is None:
                raise emptied(self._database)
            finding = find_restored(taken.stand, there, taken.knows)
            if finding is not None:
                raise restored(finding)
            if there.mark.number >= mark.number or in_mongo.advance(self._database, there, mark):
                return
        raise StoreUnavailableError(
            "MongoDB's mark could not be moved on: others moved it each time",
            hint="run the same command again",
        )


class Unwatched(EpochWatch):
    """No watch: for a reconciliation, which is alone with the stores and tells MongoDB at its end."""

    def advance(self, taken: TakenOutbox) -> None:
        """Leave MongoDB's mark as it is."""


def restored(found: Restored) -> RestoredStoreError:
    """What is told to whoever would write."""
    return RestoredStoreError(found.message, hint=RECONCILE, **found.as_dict())


def emptied(database: MongoDatabase) -> EmptyStoreError:
    """What is told when MongoDB lost its database under a running process."""
    return EmptyStoreError(
        f"MongoDB database {database.name!r} was emptied: it does not say any more which PostgreSQL it belongs to",
        hint="if its content is lost, 'ragstore repair' rebuilds it from PostgreSQL",
    )


_MARGIN = 1_000_000
"""Numbers that another timeline may have given out without MongoDB having seen them."""

_CREDIBLE = 1 << 60


class Reconciler:
    """Begins an epoch, and ends what it takes to begin one."""

    def __init__(self, pool: PostgresPool, database: MongoDatabase, *, worker: str) -> None:
        self._pool = pool
        self._database = database
        self._worker = worker

    def begin(self) -> int:
        """End the present epoch: its runs, its outbox and its numbers; returns the new one.

        From here on writers of former epochs are refused by PostgreSQL, and all writers by the watch, because MongoDB
        is behind until ``end``.

        Crash safety:
            One transaction; begun again, another epoch begins, which harms nobody.
        """
        there = in_mongo.stand(self._database) or StorePosition()
        seen = max(largest_stamp(self._database, at_most=_CREDIBLE), min(there.mark.number, _CREDIBLE))
        epoch = in_postgres.begin(self._pool, mongo_epoch=there.epoch, bound=seen + _MARGIN, worker=self._worker)
        reached(Failpoint.EPOCH_BEGUN)
        _log.info("epoch begun", action="reconcile", epoch=epoch, bound=seen + _MARGIN)
        return epoch

    def end(self, deployment: str) -> None:
        """Bring MongoDB into PostgreSQL's epoch, at its mark; everything else must be as PostgreSQL says.

        Crash safety:
            One update of one entry.
        """
        in_mongo.put(self._database, in_postgres.stand(self._pool), deployment=deployment)
        reached(Failpoint.EPOCH_TOLD)
