"""Recovery of work that dead processes left: abandons their runs and carries out the outbox, also in a thread."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from ragstore.embedded.processes import start_id, this_boot
from ragstore.errors import RagstoreError
from ragstore.model.node import NAMESPACE as STRUCTS
from ragstore.model.run import OutboxItem, Written
from ragstore.mongo import structs
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres import outbox
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.outbox import TakenOutbox
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.epoch import EpochWatch
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)

_ITEMS_AT_ONCE = 50

_SEPARATOR = "/"


@dataclass(frozen=True, slots=True)
class Recovery:
    """How much a recovery did."""

    runs_abandoned: int
    outbox_done: int


class Recoverer:
    """Turns dead runs into outbox rows, and carries out the outbox.

    Args:
        grace_s: seconds before the nodes of a dead run are deleted from MongoDB, and before ids are checked again that
            a dead or failed process had begun to put there: its last command may still be on its way.
        watch: detects restores; by default a watch of these two stores.
    """

    def __init__(
        self,
        pool: PostgresPool,
        ledger: Ledger,
        nodes: NodeStore,
        *,
        grace_s: float = 0.0,
        watch: EpochWatch | None = None,
    ) -> None:
        self.watch = watch or EpochWatch(pool, nodes.database)
        self._pool = pool
        self._ledger = ledger
        self._nodes = nodes
        self._grace_s = grace_s

    def recover(self) -> Recovery:
        """Do all that is due; the time depends on the work in flight, not on the size of the corpus.

        Crash safety:
            Every step is idempotent; outbox rows that were taken and not finished become due again.
        """
        workers = self._ledger.workers_with_runs()
        dead = [worker for worker in workers if is_dead(worker)]
        abandoned = self._ledger.abandon_expired(dead, grace_s=self._grace_s) if workers else 0
        reached(Failpoint.RUNS_RECOVERED)
        done = self.retire()
        if abandoned or done:
            _log.info("recovered", action="recover", n_runs=abandoned, n_outbox=done)
        return Recovery(abandoned, done)

    def retire(self) -> int:
        """Carry out the due rows of the outbox; returns how many."""
        n_done = 0
        while ids := outbox.tried(self._pool, limit=_ITEMS_AT_ONCE):
            reached(Failpoint.OUTBOX_TRIED)
            with outbox.taken(self._pool, ids) as taken:
                self._do_all(taken)
            n_done += len(taken.items)
            if len(ids) < _ITEMS_AT_ONCE:
                break
        return n_done

    def finish(self, outbox_ids: Sequence[int], written: Written | None = None) -> None:
        """Carry out these outbox rows now; returns when they are done, also if another process did them.

        Args:
            written: nodes of these rows that this process has, so that they need not be read again.

        Crash safety:
            As ``recover``.
        """
        if outbox_ids:
            with outbox.taken_rows(self._pool, outbox_ids) as taken:
                self._do_all(taken, written)

    def _do_all(self, taken: TakenOutbox, written: Written | None = None) -> None:
        if not taken.items:
            return
        self.watch.advance(taken)
        reached(Failpoint.MARK_ADVANCED)
        for item in taken.items:
            self._do(taken, item, written)
        taken.done(taken.items, grace_s=self._grace_s)

    def _do(self, taken: TakenOutbox, item: OutboxItem, written: Written | None = None) -> None:
        match item.action:
            case "put_nodes" | "delete_nodes" if item.namespace == STRUCTS:
                self._bring_structs(taken, item)
                reached(Failpoint.STRUCTS_PUT)
            case "delete_nodes":
                # Ids of staged nodes are never used twice, but a repaired or foreign row must not lose its body.
                self._nodes.delete_nodes(
                    item.namespace,
                    taken.garbage(item),
                    stamp=item.stamp,
                    between=lambda: reached(Failpoint.NODES_HALF_RETIRED),
                )
                reached(Failpoint.NODES_RETIRED)
            case "put_nodes":
                self._nodes.put_nodes(item.namespace, taken.live_nodes(item, written))
                reached(Failpoint.NODES_PUT)
                self._sweep(taken, item)
            case "put_ref_docs":
                self._put_ref_docs(taken, item)
                reached(Failpoint.REF_DOCS_PUT)

    def _sweep(self, taken: TakenOutbox, item: OutboxItem) -> None:
        """Delete nodes that this put, or an earlier one of a dead process, wrote after they had been deleted."""
        gone = taken.garbage(item)
        if not gone:
            return
        # Stamps are never used twice: a state that PostgreSQL no longer has never comes back.
        found = self._nodes.stamps(item.namespace, gone)
        garbage = taken.garbage(replace(item, ids=list(found)))
        self._nodes.delete_states(item.namespace, {node_id: found[node_id] for node_id in garbage})

    def _bring_structs(self, taken: TakenOutbox, item: OutboxItem) -> None:
        live = taken.structs(item)
        if item.is_put:
            for name, struct in live:
                assert struct.stamp is not None
                structs.put_struct(self._nodes.database, name, struct, struct.stamp)
        gone = set(item.ids).difference(struct.index_id for _, struct in taken.structs(item))
        if gone:
            stamp = item.stamp if not item.is_put else max((s.stamp or 0 for _, s in live), default=0)
            structs.delete_states(self._nodes.database, sorted(gone), stamp=stamp)

    def _put_ref_docs(self, taken: TakenOutbox, item: OutboxItem) -> None:
        entries = taken.ref_docs(item)
        if not item.is_put:
            entries = [entry for entry in entries if entry.node_ids is None]
        while True:
            between = lambda: reached(Failpoint.REF_DOCS_HALF_PUT)  # noqa: E731
            self._nodes.put_ref_docs(item.namespace, entries, between=between)
            if taken.revisions(item) == {entry.document_id: entry.revision for entry in entries}:
                return
            # Without this a document that was deleted in between would come back.
            entries = taken.ref_docs(item)


class Caretaker:
    """One daemon thread that recovers expired runs and carries out due outbox rows.

    Args:
        every_s: seconds between two rounds; once per lease finds expired runs soon enough.
    """

    def __init__(self, recoverer: Recoverer, *, every_s: float) -> None:
        self._recoverer = recoverer
        self._every_s = every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._go_round, name="ragstore-caretaker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the round under way."""
        self._closing.set()
        self._thread.join()

    def _go_round(self) -> None:
        while not self._closing.wait(self._every_s):
            try:
                self._recoverer.recover()
            except RagstoreError as error:
                # The next round tries again; until then only garbage waits.
                _log.warning("recovery put off", action="recover_failed", error=str(error))


def this_worker() -> str:
    """``host/pid-namespace/pid/start``: unique to this process, for its whole life."""
    pid = os.getpid()
    return _SEPARATOR.join((socket.gethostname(), _pid_namespace(), str(pid), start_id(pid)))


def is_dead(worker: str) -> bool:
    """Whether that worker was a process of this machine and has ended; False if this cannot be known.

    Only a short cut: a worker wrongly taken for dead loses its run and plans it again, nothing more. A worker of an
    earlier boot is left to its lease, because another machine may have the same name.
    """
    parts = worker.rsplit(_SEPARATOR, 3)
    if len(parts) != 4 or parts[:2] != [socket.gethostname(), _pid_namespace()] or not parts[2].isdigit():
        return False
    if this_boot() and parts[3].rpartition(".")[0] != this_boot():
        return False
    try:
        pid = int(parts[2])
        return start_id(pid) != parts[3] or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "-"
