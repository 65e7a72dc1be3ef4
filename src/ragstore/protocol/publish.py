"""Publication of document revisions in batches (begin, stage, publish), and the heartbeat of the runs' leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from ragstore.errors import LeaseLostError, RagstoreError, StoreError
from ragstore.model.collection import Collection
from ragstore.model.run import PlannedRevision, PublishResult, Run, new_run_id
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.change import Change, changing
from ragstore.postgres.copy import encode_rows
from ragstore.postgres.ledger import Ledger
from ragstore.protocol.epoch import EpochWatch
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)


class Heartbeat:
    """One thread that renews the leases of all active runs, three times per lease."""

    def __init__(self, ledger: Ledger, *, lease_ttl_s: float) -> None:
        self._ledger = ledger
        self._lease_ttl_s = lease_ttl_s
        self._lock = threading.Lock()
        self._sure_until: dict[str, float] = {}
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, run: Run, *, begun_at: float) -> Iterator[None]:
        """Renew the run's lease for the length of the block; ``begun_at`` is monotonic time before its insert."""
        with self._lock:
            self._sure_until[run.run_id] = begun_at + self._lease_ttl_s
            # After a fork the child has the object, and not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="ragstore-heartbeat", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._sure_until.pop(run.run_id, None)

    def check(self, run: Run) -> None:
        """Stop a worker that was paused for longer than its lease, before it stages more.

        Raises:
            LeaseLostError: by this process's clock the lease may have run out.
        """
        with self._lock:
            sure_until = self._sure_until.get(run.run_id, 0.0)
        if time.monotonic() >= sure_until:
            raise LeaseLostError(
                f"run {run.run_id} may have lost its lease: this process was paused or cut off for too long",
                hint="run the same command again; raise RAGSTORE_LEASE_TTL_S if it happens often",
                run_id=run.run_id,
            )

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _beat(self) -> None:
        while not self._wake.wait(self._lease_ttl_s / 3) and not self._closed:
            with self._lock:
                run_ids = list(self._sure_until)
            if not run_ids:
                continue
            asked_at = time.monotonic()
            try:
                ours = self._ledger.renew_leases(run_ids, lease_ttl_s=self._lease_ttl_s)
            except StoreError as error:
                # The lease is checked before every durable step: a failed renewal only lets it run out.
                _log.warning("lease not renewed", action="heartbeat_failed", error=str(error))
                continue
            with self._lock:
                for run_id in run_ids:
                    if run_id in self._sure_until:
                        self._sure_until[run_id] = asked_at + self._lease_ttl_s if run_id in ours else 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the publication protocol.

    Args:
        lease_ttl_s: seconds after which the run of a silent worker is abandoned.
        grace_s: seconds before replaced nodes are deleted from MongoDB, for readers that still have their ids.
    """

    lease_ttl_s: float = 30.0
    grace_s: float = 60.0


class Publisher:
    """Publishes and deletes documents for one process."""

    def __init__(self, ledger: Ledger, nodes: NodeStore, *, worker: str, timing: Timing) -> None:
        self._ledger = ledger
        self._nodes = nodes
        self._worker = worker
        self._timing = timing
        self._watch = EpochWatch(ledger.pool, nodes.database)
        self._heartbeat = Heartbeat(ledger, lease_ttl_s=timing.lease_ttl_s)
        self._not_abandoned: list[tuple[Run, Collection]] = []

    def close(self) -> None:
        self._heartbeat.close()

    def publish(self, collection: Collection, revisions: Sequence[PlannedRevision]) -> PublishResult:
        """Make the next revision of each document visible, all at once, in both stores.

        Args:
            revisions: nodes must have ids that were never used before.

        Returns:
            The published documents, and those that moved on since they were planned, which are left as they are.

        Raises:
            LeaseLostError: someone else recovered the run; nothing was published.

        Crash safety:
            Killed before the commit, readers see every old revision whole; after it every new one whole. Staged
            nodes of a run that dies or fails are removed by ``recover``.
        """
        if not revisions:
            return PublishResult([], [])
        self._watch.confirm()
        run = Run(new_run_id(), self._worker, [n.node_id for r in revisions for n in r.nodes])
        begun_at = time.monotonic()
        try:
            self._ledger.begin_run(run, collection, lease_ttl_s=self._timing.lease_ttl_s)
            reached(Failpoint.RUN_BEGUN)
            with self._heartbeat.holding(run, begun_at=begun_at):
                rows = self._stage(collection, run, revisions)
                self._heartbeat.check(run)
                result = self._publish(collection, run, revisions, rows)
        except BaseException:
            self._abandon(run, collection)
            raise
        reached(Failpoint.PUBLISHED)
        _log.info(
            "run published",
            action="publish",
            run_id=run.run_id,
            collection=collection.name,
            n_documents=len(result.published),
            n_moved_on=len(result.moved_on),
            n_nodes=len(run.node_ids),
            seconds=round(time.monotonic() - begun_at, 3),
        )
        return result

    def abandon_failed(self) -> None:
        """Abandon failed runs that could not be abandoned at once, because PostgreSQL was unavailable.

        Crash safety:
            Idempotent; a run whose commit succeeded after all stays published.
        """
        for entry in list(self._not_abandoned):
            self._ledger.abandon(*entry, grace_s=self._timing.grace_s)
            if entry in self._not_abandoned:
                self._not_abandoned.remove(entry)

    def delete(
        self, collection: Collection, document_ids: Sequence[str], *, planned_from: Mapping[str, int] | None = None
    ) -> int:
        """As ``delete_live``; returns how many were live."""
        return len(self.delete_live(collection, document_ids, planned_from=planned_from))

    def delete_live(
        self, collection: Collection, document_ids: Sequence[str], *, planned_from: Mapping[str, int] | None = None
    ) -> list[str]:
        """Delete documents from both stores; returns those that were live.

        Args:
            planned_from: the revision from which each deletion was decided; a document that moved on stays.

        Crash safety:
            One transaction makes them invisible; MongoDB is cleaned afterwards through the outbox.
        """
        self._watch.confirm()
        with changing(self._ledger.pool, collection, Run(new_run_id(), self._worker, [])) as change:
            now = change.lock_live(document_ids)
            live = [i for i, revision in now.items() if planned_from is None or planned_from[i] == revision]
            if live:
                change.retire_nodes(live, grace_s=self._timing.grace_s)
                change.mark_deleted(live)
                change.add_events([(i, "deleted", 0, None) for i in live])
                change.queue_ref_docs(live)
            change.clear_quarantine(document_ids if planned_from is None else live)
            reached(Failpoint.DOCUMENTS_DELETED)
        reached(Failpoint.DELETE_PUBLISHED)
        return live

    def _stage(self, collection: Collection, run: Run, revisions: Sequence[PlannedRevision]) -> list[bytes]:
        """Write the nodes to MongoDB, and encode the rows for PostgreSQL at the same time."""

        def between() -> None:
            reached(Failpoint.NODES_HALF_STAGED)
            self._heartbeat.check(run)

        nodes = [node for revision in revisions for node in revision.nodes]
        with ThreadPoolExecutor(1, thread_name_prefix="ragstore-stage") as staging:
            staged = staging.submit(self._nodes.stage, collection.name, nodes, between=between)
            rows = [encode_rows(r.nodes, r.vectors, collection.vector_type) if r.nodes else b"" for r in revisions]
            staged.result()
        reached(Failpoint.NODES_STAGED)
        return rows

    def _publish(
        self, collection: Collection, run: Run, revisions: Sequence[PlannedRevision], rows: Sequence[bytes]
    ) -> PublishResult:
        with self._ledger.publishing(collection, run) as change:
            now = change.lock_documents([i for r in revisions for i in _touched(r)])
            current = [now[r.document_id] == r.planned_from and _replaced_current(r, now) for r in revisions]
            good = [r for r, is_current in zip(revisions, current, strict=True) if is_current]
            vanished = [i for r in good for i, revision in r.vanished.items() if now[i] == revision]
            late = [r for r, is_current in zip(revisions, current, strict=True) if not is_current]
            if good:
                gone = [r.replaces[0] for r in good if r.replaces] + vanished
                self._write(change, good, gone, [b for b, is_current in zip(rows, current, strict=True) if is_current])
            if late:
                change.queue_garbage([n.node_id for r in late for n in r.nodes])
            reached(Failpoint.VECTORS_COPIED)
        return PublishResult([r.document_id for r in good], [r.document_id for r in late], vanished)

    def _write(self, change: Change, revisions: list[PlannedRevision], gone: list[str], rows: list[bytes]) -> None:
        document_ids = [r.document_id for r in revisions]
        if gone or any(r.planned_from for r in revisions):
            change.retire_nodes(document_ids + gone, grace_s=self._timing.grace_s)
        if any(rows):
            change.copy_rows(rows)
        change.publish_documents(revisions)
        if gone:
            change.mark_deleted(gone)
        change.add_events(
            [(r.document_id, r.action, r.n_embedded, _detail(r)) for r in revisions]
            + [(r.replaces[0], "deleted", 0, _renamed_to(r)) for r in revisions if r.replaces]
            + [(i, "deleted", 0, None) for i in gone if i not in {r.replaces[0] for r in revisions if r.replaces}]
        )
        change.queue_ref_docs(document_ids + gone)
        change.clear_quarantine(document_ids)

    def _abandon(self, run: Run, collection: Collection) -> None:
        try:
            self._ledger.abandon(run, collection, grace_s=self._timing.grace_s)
        except RagstoreError:
            # The first error is the one to report. ``abandon_failed`` repeats this later, or the lease runs out.
            self._not_abandoned.append((run, collection))


def _touched(revision: PlannedRevision) -> list[str]:
    replaced = [revision.replaces[0]] if revision.replaces else []
    return [revision.document_id, *replaced, *revision.vanished]


def _replaced_current(revision: PlannedRevision, now: dict[str, int]) -> bool:
    return revision.replaces is None or now[revision.replaces[0]] == revision.replaces[1]


def _detail(revision: PlannedRevision) -> str | None:
    """What the audit trail says of a new revision beside its numbers."""
    detail: dict[str, Any] = {"renamed_from": revision.replaces[0]} if revision.replaces else {}
    if revision.notes:
        detail["notes"] = revision.notes
    return orjson.dumps(detail).decode() if detail else None


def _renamed_to(revision: PlannedRevision) -> str:
    return orjson.dumps({"renamed_to": revision.document_id}).decode()
