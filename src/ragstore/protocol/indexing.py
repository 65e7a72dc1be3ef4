"""Building of index segments beside the work of a process."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from queue import SimpleQueue

from ragstore.model.collection import Collection
from ragstore.postgres import vectors
from ragstore.postgres.filter_keys import build_missing
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.segments import index_fresh
from ragstore.telemetry.logging import get_logger

_IN_BULK = 10
"""While nodes stream in, so many times more of them wait for an index than at rest: there are fewer builds then."""

_log = get_logger(__name__)

_Order = tuple[Collection, int, "Future[bool] | None"]


class Indexer:
    """One daemon thread that builds when it is told that nodes were added; readers and writers go on meanwhile.

    Args:
        pool: for this alone: a build takes its connection for as long as it lasts.
        min_nodes: fresh nodes from which a segment is built.
    """

    def __init__(self, pool: PostgresPool, *, min_nodes: int) -> None:
        self._pool = pool
        self._min_nodes = min_nodes
        self._lock = threading.Lock()
        self._added: Counter[int] = Counter()
        self._looked: set[int] = set()
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def added(self, collection: Collection, n_nodes: int, *, in_bulk: bool = False) -> None:
        """Nodes were added; build if they are many now.

        Args:
            in_bulk: more are coming, and ``finish`` after them.
        """
        enough = self._min_nodes * (_IN_BULK if in_bulk else 1)
        with self._lock:
            self._added[collection.collection_id] += n_nodes
            # Other processes may have left some: the first time it is worth a look.
            is_first = not in_bulk and collection.collection_id not in self._looked
            if self._added[collection.collection_id] < enough and not is_first:
                return
            self._looked.add(collection.collection_id)
            self._added[collection.collection_id] = 0
        self._order((collection, enough, None))

    def finish(self, collection: Collection) -> bool:
        """Build if there are many fresh nodes, and wait for it; returns whether it did.

        Raises:
            whatever the build raises, mostly StoreError
        """
        done: Future[bool] = Future()
        self._order((collection, self._min_nodes, done))
        return done.result()

    def close(self) -> None:
        """End after the build under way."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._orders.put(None)
            thread.join()
        self._pool.close()

    def _order(self, order: _Order) -> None:
        with self._lock:
            # After a fork the child has the object, and neither the thread nor what it was told.
            if self._thread is None or not self._thread.is_alive():
                self._orders = SimpleQueue()
                self._thread = threading.Thread(
                    target=self._work, args=(self._orders,), name="ragstore-indexer", daemon=True
                )
                self._thread.start()
            self._orders.put(order)

    def _work(self, orders: SimpleQueue[_Order | None]) -> None:
        while (order := orders.get()) is not None:
            collection, min_nodes, done = order
            try:
                has_built = self._build(collection, min_nodes)
            except Exception as error:  # edge of the thread: whoever waits gets it, and the next order is done
                if done is None:
                    # The next look does the same; queries compare more nodes one by one meanwhile.
                    _log.warning("index put off", action="index_failed", collection=collection.name, error=str(error))
                else:
                    done.set_exception(error)
            else:
                if done is not None:
                    done.set_result(has_built)

    def _build(self, collection: Collection, min_nodes: int) -> bool:
        # Who declared them could not build them, or died.
        build_missing(self._pool, collection)
        has_built = index_fresh(self._pool, collection, min_nodes=min_nodes)
        if has_built:
            vectors.refresh_statistics(self._pool, collection)
            _log.info("indexed", action="index", collection=collection.name)
        return has_built
