"""Background indexing: a thread that seals fresh nodes into segments, and child processes that merge segments."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
"""After this time without new nodes, segments are merged until few are left."""

_MAX_FRESH = 4
"""Times ``min_nodes``: the most fresh nodes of one process, unless another role must seal them."""

_SEAL_WITHIN_S = 10.0
"""Longest wait of an ingest for the sealing of its last nodes; after it the next process does it."""

_LARGE_MERGE = 64_000
"""Nodes; after a larger merge, small segments that were sealed since come first."""

_LOOK_AGAIN_S = 1.0

_BUILD_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_log = get_logger(__name__)

_Order = tuple[Collection, int, "Future[bool] | None"]


@dataclass(frozen=True, slots=True)
class Build:
    """Order for a process that merges segments, sent as one line of JSON.

    Args:
        memory_mb: for vectors and what is made of them.
        at_rest: no nodes are being added: merge until few segments are left.
    """

    postgres_url: str
    schema: str
    collection: str
    memory_mb: int
    at_rest: bool


def merge_all(pool: PostgresPool, collection: Collection, *, memory_mb: int, at_rest: bool) -> bool:
    """Merge segments in this process until nothing is due, then measure how far searches must look.

    Returns whether it did something. While nodes are being added it merges on as it measures.

    Crash safety:
        As ``segments.merge_once``.
    """
    room = segments.room(collection, memory_mb, at_rest=at_rest)
    has_merged = _merge_due(pool, collection, room)
    segments.drop_retired(pool, collection)
    now = find_collection(pool, collection.name)
    if now is None or not is_due(pool, now, at_rest=at_rest):
        return has_merged
    if at_rest:
        _measure(pool, now, at_rest=True)
        return True
    with ThreadPoolExecutor(1, thread_name_prefix="ragstore-measure") as threads:
        measuring = threads.submit(_measure, pool, now, at_rest=False)
        while not measuring.done():
            if not _merge_due(pool, collection, room):
                wait([measuring], timeout=_LOOK_AGAIN_S)
    measuring.result()
    return True


def _merge_due(pool: PostgresPool, collection: Collection, room: segments.Room) -> bool:
    has_merged = False
    while merged := segments.merge_once(pool, collection, room):
        has_merged = True
        _log.info("merged", action="index", collection=collection.name, nodes=merged.n_nodes, cells=merged.n_cells)
        if merged.n_nodes > _LARGE_MERGE:
            break  # small segments that were sealed since come first
    return has_merged


def _measure(pool: PostgresPool, collection: Collection, *, at_rest: bool) -> None:
    try:
        measure(pool, collection, at_rest=at_rest)
    except (CollectionNotFoundError, MissingTableError) as error:
        # It was dropped, or another process merges and dropped tables that were being read: the last to merge measures.
        _log.debug("not measured", action="index", collection=collection.name, error=str(error))


def wants_merge(pool: PostgresPool, collection: Collection, *, memory_mb: int, at_rest: bool) -> bool:
    """Whether ``merge_all`` would find something to do."""
    now = find_collection(pool, collection.name)
    if now is None:
        return False
    if at_rest or now.segments:
        room = segments.room(collection, memory_mb, at_rest=at_rest)
        if segments.wants_merge(pool, collection, room):
            return True
    return is_due(pool, now, at_rest=at_rest)


class Indexer:
    """One daemon thread that seals segments after nodes were added, and starts child processes that merge them.

    A merge runs in a child process, so that it takes no time from the threads of this one and frees its memory.

    Args:
        pool: used by the indexer only, which closes it.
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
        """Report new nodes of a collection; starts sealing if there are enough fresh nodes.

        Waits while very many nodes are fresh, until they are sealed.

        Args:
            in_bulk: more calls will follow, then ``finish``.
        """
        with self._lock:
            self._added[collection.collection_id] += n_nodes
            self._unsealed[collection.collection_id] += n_nodes
            # Other processes may have left fresh nodes: the first call always looks.
            is_first = not in_bulk and collection.collection_id not in self._looked
            if self._added[collection.collection_id] < self._min_nodes and not is_first:
                return
            self._looked.add(collection.collection_id)
            self._added[collection.collection_id] = 0
        self._order((collection, self._min_nodes, None))
        with self._sealed:
            # Searches compare all fresh nodes: a caller that adds them faster than they are sealed waits.
            self._sealed.wait_for(
                lambda: self._unsealed[collection.collection_id] <= _MAX_FRESH * self._min_nodes, timeout=_SEAL_WITHIN_S
            )

    def finish(self, collection: Collection) -> bool:
        """Seal the fresh nodes if there are enough; returns whether it did. Waits a few seconds at most, for no merge.

        Raises:
            StoreError: mostly; any error of the sealing is raised here.
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
        """Stop now; a merge under way is ended, and the next process or ``ragstore maintain`` does it."""
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
            # After a fork the child has the object, but neither the thread nor its orders.
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
        except Exception as error:  # edge of the thread: passed to the caller that waits, then the next order
            if done is None:
                # The next order tries again; until then searches compare more nodes one by one.
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
            # Also where another process or role seals: no caller waits for what this process cannot do.
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
        # The process that declared filter keys may have failed or died before it built their indexes.
        build_missing(self._pool, collection)
        if not wants_merge(self._pool, collection, memory_mb=self._memory_mb, at_rest=at_rest):
            return False
        build = Build(self._pool.url, self._pool.schema, collection.name, self._memory_mb, at_rest)
        self._merges[collection.collection_id] = Merge(build)
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
        # When this process dies its end of the pipe closes, which ends the child.
        self._stdin = self._process.stdin
        with suppress(BrokenPipeError):
            self._stdin.write(orjson.dumps(asdict(build)) + b"\n")
            self._stdin.flush()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, alive: Callable[[], None]) -> None:
        """Wait for the end, calling ``alive`` each second; raises RagstoreError if the merge failed."""
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
        """Kill the process; its transaction is rolled back."""
        with suppress(OSError):
            self._stdin.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def merge_in_child(
    pool: PostgresPool, collection: Collection, *, memory_mb: int, at_rest: bool, alive: Callable[[], None]
) -> None:
    """Run ``merge_all`` in a child process; ``alive`` is called each second.

    Raises:
        RagstoreError: the merge failed.
    """
    merge = Merge(Build(pool.url, pool.schema, collection.name, memory_mb, at_rest))
    try:
        merge.wait(alive)
    finally:
        merge.stop()
