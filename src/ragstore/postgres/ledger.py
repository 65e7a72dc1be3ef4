"""Writes to the ledger: runs and their leases, and the transaction that publishes documents."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson

from ragstore.errors import LeaseLostError
from ragstore.model.collection import Collection
from ragstore.model.run import PlannedRevision, Run
from ragstore.postgres import copy, statements
from ragstore.postgres.collections import hold, hold_named, hold_parameters, why_not_held
from ragstore.postgres.names import array, quoted_table
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
                Publication(cursor, collection, run).queue_garbage(garbage, grace_s=grace_s)

    @contextmanager
    def publishing(self, collection: Collection, run: Run) -> Iterator[Publication]:
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
            yield Publication(cursor, collection, run)

    @contextmanager
    def changing(self, collection: Collection, run: Run) -> Iterator[Publication]:
        """The transaction of a change that stages nothing and therefore needs no run in the ledger.

        Raises:
            CollectionNotFoundError: the collection was dropped.
        """
        with self._pool.transaction() as cursor:
            hold(cursor, collection)
            yield Publication(cursor, collection, run)


class Publication:
    """Steps of the publishing transaction, in the order in which they must be called."""

    def __init__(self, cursor: Cursor, collection: Collection, run: Run) -> None:
        self._cursor = cursor
        self._collection = collection
        self._run = run

    def lock_documents(self, document_ids: Sequence[str]) -> dict[str, int]:
        """Lock these documents in order, new ones included; returns their present revisions."""
        self._cursor.execute(
            statements.LOCK_DOCUMENTS,
            {"collection_id": self._collection.collection_id, "document_ids": array(sorted(set(document_ids)))},
        )
        return dict(self._cursor.fetchall())

    def lock_live_documents(self, document_ids: Sequence[str]) -> dict[str, int]:
        """Lock the live ones among these documents in order; returns their present revisions."""
        self._cursor.execute(
            statements.LOCK_LIVE_DOCUMENTS,
            {"collection_id": self._collection.collection_id, "document_ids": array(document_ids)},
        )
        return dict(self._cursor.fetchall())

    def retire_nodes(self, document_ids: Sequence[str], *, grace_s: float) -> None:
        """Delete the live nodes of these documents and queue them for deletion from MongoDB."""
        self._cursor.execute(
            statements.RETIRE_NODES.format(table=quoted_table(self._collection)),
            {**self._ids(), "document_ids": array(document_ids), "grace_s": grace_s},
        )

    def copy_rows(self, rows: Sequence[bytes]) -> None:
        """COPY rows that ``copy.encode_rows`` made into the vector table."""
        stream = io.BytesIO(b"".join([copy.HEADER, *rows, copy.TRAILER]))
        columns = ", ".join(copy.COLUMNS)
        self._cursor.copy_expert(
            f"COPY {quoted_table(self._collection)} ({columns}) FROM STDIN (FORMAT binary)", stream, size=1 << 18
        )

    def put_documents(self, revisions: Sequence[PlannedRevision]) -> None:
        """Move these documents to their next revision."""
        self._cursor.execute(
            statements.PUBLISH_DOCUMENTS,
            {
                "collection_id": self._collection.collection_id,
                "document_id": array([r.document_id for r in revisions]),
                "source_uri": array([r.source_uri for r in revisions]),
                "n_nodes": array([len(r.nodes) for r in revisions]),
                "fingerprint": array([r.fingerprint for r in revisions]),
                "content_hash": array([r.content_hash for r in revisions]),
                "doc_hash": array([r.doc_hash for r in revisions]),
                "size": array([r.size for r in revisions]),
                "mtime_ns": array([r.mtime_ns for r in revisions]),
                "etag": array([r.etag for r in revisions]),
                "metadata": array([orjson.dumps(r.metadata).decode() for r in revisions]),
            },
        )

    def mark_deleted(self, document_ids: Sequence[str]) -> None:
        self._cursor.execute(
            statements.MARK_DELETED,
            {"collection_id": self._collection.collection_id, "document_ids": array(document_ids)},
        )

    def add_events(self, events: Sequence[tuple[str, str, int, str | None]]) -> None:
        """Append to the audit trail: (document_id, action, n_embedded, detail as JSON) each."""
        self._cursor.execute(
            statements.ADD_EVENTS,
            {
                **self._ids(),
                "worker": self._run.worker,
                "collection": self._collection.name,
                "document_id": array([e[0] for e in events]),
                "action": array([e[1] for e in events]),
                "n_embedded": array([e[2] for e in events]),
                "detail": array([e[3] for e in events]),
            },
        )

    def queue_ref_docs(self, document_ids: Sequence[str]) -> None:
        """Queue the update of MongoDB's entries of these documents."""
        self._cursor.execute(statements.QUEUE_REF_DOCS, {**self._ids(), "ids": array(document_ids)})

    def queue_garbage(self, node_ids: Sequence[str], *, grace_s: float = 0.0) -> None:
        """Queue staged nodes that will not be published for deletion from MongoDB."""
        self._cursor.execute(statements.QUEUE_GARBAGE, {**self._ids(), "ids": array(node_ids), "grace_s": grace_s})

    def clear_quarantine(self, document_ids: Sequence[str]) -> None:
        self._cursor.execute(
            statements.CLEAR_QUARANTINE,
            {"collection_id": self._collection.collection_id, "document_ids": array(document_ids)},
        )

    def _ids(self) -> dict[str, object]:
        return {
            "namespace": self._collection.name,
            "collection_id": self._collection.collection_id,
            "run_id": self._run.run_id,
        }


def _live(cursor: Cursor, collection: Collection | None, node_ids: Sequence[str]) -> set[str]:
    """The live ones among these nodes; none if the collection was dropped."""
    if collection is None:
        return set()
    return set(fetch_ids(cursor, statements.LIVE_NODE_IDS, collection, ids=array(node_ids)))
