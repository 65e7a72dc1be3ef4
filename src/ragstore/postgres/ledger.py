"""Runs in the ledger: their begin, leases, publication and abandonment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ragstore.errors import LeaseLostError
from ragstore.model.collection import Collection
from ragstore.model.run import Run
from ragstore.postgres import statements
from ragstore.postgres.change import Change
from ragstore.postgres.collections import hold, hold_named, hold_parameters, why_not_held
from ragstore.postgres.names import array
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import fetch_ids


class Ledger:
    """Runs in PostgreSQL, which decides what is live and what is in flight."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    @property
    def pool(self) -> PostgresPool:
        return self._pool

    def begin_run(self, run: Run, collection: Collection, *, lease_ttl_s: float) -> None:
        """Record every node id that will be staged.

        Raises:
            CollectionNotFoundError: the collection was dropped.
            EpochEndedError: the collection was read in an epoch that is over.

        Crash safety:
            Committed before the first node is written, so that every staged node is known.
        """
        with self._pool.autocommit() as connection, connection.cursor() as cursor:
            cursor.execute(
                statements.BEGIN_RUN,
                {
                    "run_id": run.run_id,
                    "collection_id": collection.collection_id,
                    "worker": run.worker,
                    "node_ids": array(run.node_ids),
                    "lease_ttl_s": lease_ttl_s,
                    "epoch": collection.epoch,
                },
            )
            if cursor.rowcount != 1:
                raise why_not_held(cursor, collection)

    def renew_leases(self, run_ids: Sequence[str], *, lease_ttl_s: float) -> set[str]:
        """Extend the leases of these runs; returns the ids of the runs that still exist."""
        with self._pool.transaction() as cursor:
            cursor.execute(statements.RENEW_LEASES, {"run_ids": list(run_ids), "lease_ttl_s": lease_ttl_s})
            return {row[0] for row in cursor.fetchall()}

    def workers_with_runs(self) -> list[str]:
        """Names of the workers that have a run in flight."""
        return fetch_ids(self._pool, statements.RUN_WORKERS)

    def abandon_expired(self, dead_workers: Sequence[str] = (), *, grace_s: float = 0.0) -> int:
        """Turn the runs of these workers, and all expired runs, into outbox rows; returns how many.

        Args:
            grace_s: seconds for which the last command of a dead worker may still be on its way to MongoDB.

        Crash safety:
            One statement; a run that another process is publishing or recovering is skipped.
        """
        with self._pool.autocommit() as connection, connection.cursor() as cursor:
            cursor.execute(
                statements.ABANDON_RUNS.format(condition=statements.LEASE_RAN_OUT, locked="SKIP LOCKED"),
                {"dead_workers": list(dead_workers), "grace_s": grace_s},
            )
            return cursor.rowcount

    def abandon(self, run: Run, collection: Collection, *, grace_s: float = 0.0) -> None:
        """Abandon an own run; its staged nodes become garbage, unless it was published after all.

        Crash safety:
            One transaction; if it fails, the expiry of the lease has the same effect. Waits for a publication whose
            connection broke during the commit: only its outcome tells whether the nodes are garbage or live.
        """
        with self._pool.transaction() as cursor:
            cursor.execute(
                statements.ABANDON_RUNS.format(condition=statements.IS_RUN, locked=""),
                {"run_id": run.run_id, "grace_s": grace_s},
            )
            if cursor.rowcount == 0 and run.node_ids:
                live = _live(cursor, hold_named(cursor, collection.name), run.node_ids)
                garbage = [i for i in run.node_ids if i not in live]
                change = Change(cursor, collection, run)
                change.queue_garbage(garbage, grace_s=grace_s)
                change.send()

    @contextmanager
    def publishing(self, collection: Collection, run: Run) -> Iterator[Change]:
        """The transaction that makes a begun run visible, at the end of the block.

        Raises:
            LeaseLostError: another process recovered the run; nothing was written.
            CollectionNotFoundError: the collection was dropped; nothing was written.
        """
        with self._pool.transaction() as cursor:
            ids = {**hold_parameters(collection), "run_id": run.run_id}
            # One round trip for both statements, in this order.
            cursor.execute(f"{statements.HOLD_COLLECTION}; {statements.END_RUN}", ids)
            if cursor.rowcount != 1:
                hold(cursor, collection)
                raise LeaseLostError(
                    f"run {run.run_id} lost its lease before it was published",
                    hint="run the same command again; raise RAGSTORE_LEASE_TTL_S if it happens often",
                    run_id=run.run_id,
                )
            change = Change(cursor, collection, run)
            yield change
            change.send()


def _live(cursor: Cursor, collection: Collection | None, node_ids: Sequence[str]) -> set[str]:
    """The live ones among these nodes; none if the collection was dropped."""
    if collection is None:
        return set()
    return set(fetch_ids(cursor, statements.LIVE_NODE_IDS, collection, ids=array(node_ids)))
