"""Restore of collections: one transaction makes them live in a new epoch, then MongoDB is filled from PostgreSQL.

The transaction waits for writers under way and refuses all that began before. MongoDB is in the former epoch then, so
every writer is refused until a reconciliation has ended, whatever is killed in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragstore.errors import CollectionBusyError, StoreBusyError
from ragstore.model.collection import Collection
from ragstore.mongo.client import MongoDatabase
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres import live, load
from ragstore.postgres.collections import find_collection
from ragstore.postgres.load import Loading
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.epoch import MARGIN, bounds
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_TRIES = 10
_DOCUMENTS_AT_ONCE = 1_000

_log = get_logger(__name__)

LedgerRows = Mapping[str, tuple[Sequence[str], Iterable[bytes]]]
"""Columns, and rows as lines of text, of each ledger table."""


@dataclass(slots=True)
class Switched:
    """Result of the transaction that made restored collections live."""

    epoch: int = 0
    collections: list[Collection] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Restorer:
    """Makes loaded collections live, and fills MongoDB."""

    def __init__(self, pool: PostgresPool, database: MongoDatabase, *, worker: str) -> None:
        self._pool = pool
        self._database = database
        self._worker = worker

    def switch(
        self, loaded: Sequence[tuple[Loading, LedgerRows]], detail: Mapping[str, Any], *, stamp: int, replace: bool
    ) -> Switched:
        """Make all of these collections live, in place of those that have their names.

        Args:
            detail: what the audit trail says of the restore.
            stamp: no restored row has a larger number.
            replace: give up collections of these names; else they must not exist.

        Raises:
            RefusedError: a collection of such a name exists.
            CollectionBusyError: a collection that is to be replaced is being read all the time; nothing was changed.

        Crash safety:
            One transaction. Before its commit readers see the former collections, after it the restored ones, whole.
        """
        mongo_epoch, bound = bounds(self._database)
        for _ in range(_TRIES):
            try:
                return self._switch_once(loaded, detail, (mongo_epoch, max(bound, stamp + MARGIN)), replace=replace)
            except StoreBusyError as error:
                busy = error
        raise CollectionBusyError(
            "a collection that is to be replaced is being read all the time",
            hint="stop what exports or searches it for long, then run the same command again; nothing was changed",
        ) from busy

    def _switch_once(
        self,
        loaded: Sequence[tuple[Loading, LedgerRows]],
        detail: Mapping[str, Any],
        numbers: tuple[int, int],
        *,
        replace: bool,
    ) -> Switched:
        done = Switched()
        names = [loading.name for loading, _ in loaded]
        if not replace:
            load.require_free(self._pool, names)
        former = [found for name in names if (found := find_collection(self._pool, name)) is not None]
        with load.switching(
            self._pool, worker=self._worker, before_commit=lambda: reached(Failpoint.RESTORE_SWITCHING)
        ) as switch:
            done.epoch = switch.begin_epoch(mongo_epoch=numbers[0], bound=numbers[1])
            for collection in former:
                switch.replace(collection)
            for loading, ledger in loaded:
                done.collections.append(switch.make(loading, ledger))
                switch.note(loading.name, {**detail, "collection_id": loading.collection_id})
            done.notes = switch.notes
        reached(Failpoint.RESTORE_SWITCHED)
        done.replaced = [collection.name for collection in former]
        _log.info("collections restored", action="restore", collections=names, epoch=done.epoch)
        return done

    def fill(self, collection: Collection) -> None:
        """Put all bodies and entries of a collection into MongoDB; what it has more, or newer, is left to a reconcile.

        Crash safety:
            Idempotent; a reconcile puts what is missing.
        """
        nodes = NodeStore(self._database)
        for page in load.live_nodes(self._pool, collection):
            nodes.put_nodes(collection.name, page)
        entries = []
        for entry in live.iter_ref_docs(self._pool, collection):
            entries.append(entry)
            if len(entries) == _DOCUMENTS_AT_ONCE:
                nodes.put_ref_docs(collection.name, entries, between=_nothing)
                entries = []
        if entries:
            nodes.put_ref_docs(collection.name, entries, between=_nothing)
        reached(Failpoint.RESTORE_FILLED)


def _nothing() -> None:
    """Between two steps that both are repeated by a reconcile."""
