"""The beginning and the end of an epoch, after one of the stores was restored: PostgreSQL decides."""

from __future__ import annotations

from ragstore.model.epoch import Stand
from ragstore.mongo import epoch as in_mongo
from ragstore.mongo.client import MongoDatabase
from ragstore.mongo.set_aside import largest_stamp
from ragstore.postgres import epoch as in_postgres
from ragstore.postgres.pool import PostgresPool
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_MARGIN = 1_000_000
"""Numbers that another timeline may have given out without MongoDB having seen them."""

_CREDIBLE = 1 << 60

_log = get_logger(__name__)


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
        there = in_mongo.stand(self._database) or Stand()
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
