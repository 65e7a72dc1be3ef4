"""Sealing and merging of segments while a process works."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from queue import Empty, SimpleQueue

import orjson

from ragstore.errors import CollectionNotFoundError, MissingTableError, RagstoreError
from ragstore.model.collection import Collection
from ragstore.postgres import segments, vectors
from ragstore.postgres.collections import find_collection
from ragstore.postgres.effort import is_due, measure
from ragstore.postgres.filter_keys import build_missing
from ragstore.postgres.pool import PostgresPool
from ragstore.telemetry.logging import get_logger

_REST_S = 20.0
"""Nothing was added for so long: segments are merged until few are left."""

_MAX_FRESH = 4
"""Times ``min_nodes``: so many fresh nodes of one process at most, unless another role must seal them."""

_SEAL_WITHIN_S = 10.0
"""An ingest waits so long for its last nodes to be sealed; later the next process does it."""

_LARGE_MERGE = 64_000
"""Nodes; a longer build leaves the processors to whoever else wants them."""

_BUILD_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_log = get_logger(__name__)

_Order = tuple[Collection, int, "Future[bool] | None"]


@dataclass(frozen=True, slots=True)
class Build:
    """What a process that merges segments is told.

    Args:
        memory_mb: for vectors and what is made of them.
        at_rest: nothing is being added: merge until few segments are left.
    """

    postgres_url: str
    schema: str
    collection: str
    memory_mb: int
    at_rest: bool


def merge_all(pool: PostgresPool, collection: Collection, *, memory_mb: int, at_rest: bool) -> bool:
    """Merge segments while there is something to merge, then measure how far searches must look; in this process.

    Crash safety:
        As ``segments.merge_once``.
    """
    room = segments.room(collection, memory_mb, at_rest=at_rest)
    has_merged = False
    while merged := segments.merge_once(pool, collection, room):
        has_merged = True
        _log.info("merged", action="index", collection=collection.name, nodes=merged.n_nodes, cells=merged.n_cells)
        if merged.n_nodes > _LARGE_MERGE:
            break  # small ones that came meanwhile are first
    segments.drop_retired(pool, collection)
    now = find_collection(pool, collection.name)
    if now is not None and is_due(pool, now, at_rest=at_rest):
        try:
            measure(pool, now, at_rest=at_rest)
        except CollectionNotFoundError:
            return False
        except MissingTableError:
            # Others merge, and dropped the tables that were looked into: the last of them measures.
            _log.debug("not measured", action="index", collection=collection.name)
        return True
    return has_merged


def wants_merge(pool: PostgresPool, collection: Collection, *, memory_mb: int, at_rest: bool) -> bool:
    """Whether ``merge_all`` would find something to do."""
    if segments.wants_merge(pool, collection, segments.room(collection, memory_mb, at_rest=at_rest)):
        return True
    now = find_collection(pool, collection.name)
    return now is not None and is_due(pool, now, at_rest=at_rest)


class Indexer:
    """One daemon thread that seals when it is told that nodes were added, and lets a process of its own merge.

    A merge runs in a child process, so that it takes no time from the threads of this one, and gives its memory back.

    Args:
        pool: for this alone.
        min_nodes: fresh nodes from which a segment is made.
        memory_mb: of a merge.
    """

    def __init__(self, pool: PostgresPool, *, min_nodes: int, memory_mb: int = 256) -> None:
        self._pool = pool
        self._min_nodes = min_nodes
        self._memory_mb = memory_mb
        self._lock = threading.RLock()
        self._sealed = threading.Condition(self._lock)
        self._added: Counter[int] = Counter()
        self._unsealed: Counter[int] = Counter()
        self._looked: set[int] = set()
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._merges: dict[int, Merge] = {}
        self._is_closed = False

    def added(self, collection: Collection, n_nodes: int, *, in_bulk: bool = False) -> None:
        """Nodes were added; seal if they are many now.

        Waits while very many are fresh, until they are sealed.

        Args:
            in_bulk: more are coming, and ``finish`` after them.
        """
        with self._lock:
            self._added[collection.collection_id] += n_nodes
            self._unsealed[collection.collection_id] += n_nodes
            # Other processes may have left some: the first time it is worth a look.
            is_first = not in_bulk and collection.collection_id not in self._looked
            if self._added[collection.collection_id] < self._min_nodes and not is_first:
                return
            self._looked.add(collection.collection_id)
            self._added[collection.collection_id] = 0
        self._order((collection, self._min_nodes, None))
        with self._sealed:
            # Questions compare all fresh nodes: who adds them faster than they are sealed waits.
            self._sealed.wait_for(
                lambda: self._unsealed[collection.collection_id] <= _MAX_FRESH * self._min_nodes, timeout=_SEAL_WITHIN_S
            )

    def finish(self, collection: Collection) -> bool:
        """Seal what is fresh if it is much; returns whether it did. Waits for no merge, and for some seconds at most.

        Raises:
            whatever sealing raises, mostly StoreError
        """
        done: Future[bool] = Future()
        self._order((collection, self._min_nodes, done))
        try:
            return done.result(timeout=_SEAL_WITHIN_S)
        except TimeoutError:
            _log.warning(
                "left to the next process",
                action="index",
                collection=collection.name,
                hint="'ragstore status' shows how many nodes are in no segment; 'ragstore maintain' seals them",
            )
            return False

    def close(self) -> None:
        """End now; a merge under way is given up, and the next process or ``ragstore maintain`` makes it."""
        self._is_closed = True
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._orders.put(None)
            thread.join(timeout=_SEAL_WITHIN_S)
        for merge in self._merges.values():
            merge.stop()
        self._pool.close()

    def _order(self, order: _Order) -> None:
        with self._lock:
            # After a fork the child has the object, and neither the thread nor what it was told.
            if self._thread is None or not self._thread.is_alive():
                self._orders, self._merges = SimpleQueue(), {}
                self._thread = threading.Thread(
                    target=self._work, args=(self._orders,), name="ragstore-indexer", daemon=True
                )
                self._thread.start()
            self._orders.put(order)

    def _work(self, orders: SimpleQueue[_Order | None]) -> None:
        met: dict[int, Collection] = {}
        while not self._is_closed:
            try:
                order = orders.get(timeout=_REST_S if met else None)
            except Empty:
                for collection in met.values():
                    self._guarded(collection, None, partial(self._merge, collection, at_rest=True))
                met.clear()
                continue
            if order is None:
                return
            collection, min_nodes, done = order
            met[collection.collection_id] = collection
            self._guarded(collection, done, partial(self._seal, collection, min_nodes))
            self._guarded(collection, None, partial(self._merge, collection, at_rest=False))

    def _guarded(self, collection: Collection, done: Future[bool] | None, doing: Callable[[], bool]) -> None:
        try:
            result = doing()
        except Exception as error:  # edge of the thread: whoever waits gets it, and the next order is done
            if done is None:
                # The next look does the same; queries compare more nodes one by one meanwhile.
                _log.warning("index put off", action="index_failed", collection=collection.name, error=str(error))
            else:
                done.set_exception(error)
        else:
            if done is not None:
                done.set_result(result)

    def _seal(self, collection: Collection, min_nodes: int) -> bool:
        room = segments.room(collection, self._memory_mb)
        with self._lock:
            n_before = self._unsealed[collection.collection_id]
        try:
            n_sealed = segments.seal_fresh(self._pool, collection, min_nodes=min_nodes, room=room)
        finally:
            # Also where another process or role seals: nobody waits for what this one cannot do.
            with self._sealed:
                self._unsealed[collection.collection_id] -= n_before
                self._sealed.notify_all()
        if n_sealed:
            vectors.refresh_statistics(self._pool, collection, n_changed=n_sealed)
        return n_sealed > 0

    def _merge(self, collection: Collection, *, at_rest: bool) -> bool:
        merge = self._merges.get(collection.collection_id)
        if self._is_closed or (merge is not None and merge.is_running):
            return False
        # Who declared them could not build them, or died.
        build_missing(self._pool, collection)
        if not wants_merge(self._pool, collection, memory_mb=self._memory_mb, at_rest=at_rest):
            return False
        told = Build(self._pool.url, self._pool.schema, collection.name, self._memory_mb, at_rest)
        self._merges[collection.collection_id] = Merge(told)
        return True


class Merge:
    """A child process that merges the segments of one collection."""

    def __init__(self, build: Build) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ragstore.protocol.merge_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | _BUILD_ENVIRONMENT,
            start_new_session=True,
        )
        assert self._process.stdin
        # Its end, when this process dies, ends the child.
        self._told = self._process.stdin
        with suppress(BrokenPipeError):
            self._told.write(orjson.dumps(asdict(build)) + b"\n")
            self._told.flush()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self, alive: Callable[[], None]) -> None:
        """Until it has ended; raises RagstoreError where it failed."""
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=1.0)
                break
            alive()
        self.stop()
        if code:
            raise RagstoreError(
                f"merging segments ended with status {code}",
                hint="its error stands above; 'ragstore maintain' tries again",
            )

    def stop(self) -> None:
        """End it; its transaction is rolled back."""
        with suppress(OSError):
            self._told.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def merge_in_child(
    pool: PostgresPool, collection: Collection, *, memory_mb: int, at_rest: bool, alive: Callable[[], None]
) -> None:
    """As ``merge_all``, in a process of its own; ``alive`` is called each second.

    Raises:
        RagstoreError: it failed.
    """
    merge = Merge(Build(pool.url, pool.schema, collection.name, memory_mb, at_rest))
    try:
        merge.wait(alive)
    finally:
        merge.stop()
