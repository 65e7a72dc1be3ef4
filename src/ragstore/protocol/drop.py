"""Drop of a collection: deletes of its documents, then one transaction that drops the empty collection.

MongoDB's bodies are deleted by their ids only, never by the collection's name. So a process that was paused during the
deletion and goes on late cannot delete bodies of a new collection of the same name.
"""

from __future__ import annotations

from ragstore.errors import CollectionBusyError, StoreBusyError
from ragstore.model.collection import Collection
from ragstore.model.run import Run, new_run_id
from ragstore.mongo import structs
from ragstore.mongo.client import MongoDatabase
from ragstore.postgres import drop as in_postgres
from ragstore.postgres.collections import reporting_drop
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.direct import DirectWriter
from ragstore.protocol.publish import Publisher
from ragstore.protocol.recover import Recoverer
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_DOCUMENTS_AT_ONCE = 100
_NODES_AT_ONCE = 1_000
_TRIES = 5
_LOCK_TRIES = 10
"""Of half a second each, for processes that read the table or build an index of it."""

_log = get_logger(__name__)


class Dropper:
    """Drops collections.

    Args:
        grace_s: seconds before nodes that runs in flight have staged are deleted from MongoDB.
    """

    def __init__(
        self,
        pool: PostgresPool,
        database: MongoDatabase,
        publisher: Publisher,
        recoverer: Recoverer,
        *,
        worker: str,
        grace_s: float,
    ) -> None:
        self._pool = pool
        self._database = database
        self._publisher = publisher
        self._recoverer = recoverer
        self._direct = DirectWriter(pool, recoverer, worker=worker)
        self._worker = worker
        self._grace_s = grace_s

    def drop(self, collection: Collection) -> int:
        """Delete a collection with its content from both stores; returns how many documents were live.

        Raises:
            StoreSetupError: only the owner of its table can; nothing was deleted.
            CollectionBusyError: other processes go on writing or reading; documents deleted by then stay deleted.
            CollectionNotFoundError: another process dropped it first.

        Crash safety:
            Each batch of documents is one transaction, and so is the drop of the empty collection. A second call goes
            on where a killed one stopped. MongoDB is cleaned through the outbox, also without a second call.
        """
        in_postgres.prepare(self._pool, collection)
        n_documents = 0
        for _ in range(_TRIES):
            n_documents += self._empty(collection)
            reached(Failpoint.COLLECTION_EMPTIED)
            if self._drop_empty(collection):
                reached(Failpoint.COLLECTION_DROPPED)
                _log.info("collection dropped", action="drop", collection=collection.name, n_documents=n_documents)
                self._recoverer.retire()
                return n_documents
        raise CollectionBusyError(
            f"collection {collection.name!r} is in use: it was emptied {_TRIES} times, and not dropped",
            hint=f"stop what ingests into it or exports it, then run 'ragstore drop {collection.name}'",
            in_python="stop what ingests into it or exports it, then make the same call again",
            collection=collection.name,
        )

    def _empty(self, collection: Collection) -> int:
        n_documents = 0
        with reporting_drop(self._pool, collection):
            for ids in in_postgres.live_documents(self._pool, collection, at_once=_DOCUMENTS_AT_ONCE):
                n_documents += self._publisher.delete(collection, ids)
            for ids in in_postgres.nodes(self._pool, collection, at_once=_NODES_AT_ONCE):
                self._direct.delete_nodes(collection, ids)
        return n_documents

    def _drop_empty(self, collection: Collection) -> bool:
        """Drop the collection; False if something was added to it, or another process holds it for long."""
        for _ in range(_LOCK_TRIES):
            try:
                return self._drop_now(collection)
            except StoreBusyError:
                continue
        return False

    def _drop_now(self, collection: Collection) -> bool:
        with in_postgres.dropping(self._pool, collection, Run(new_run_id(), self._worker, [])) as change:
            if not in_postgres.is_empty(change):
                return False
            in_postgres.abandon_runs(change, grace_s=self._grace_s)
            # Before the commit: after it nothing would delete them if this process were killed.
            structs.delete_structs(self._database, collection.name, stamp=in_postgres.stamp(change))
            in_postgres.finish(change)
            reached(Failpoint.COLLECTION_DROPPING)
        return True
