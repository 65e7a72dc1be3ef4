"""Memory of a process between questions: collections by name, and the vectors of the last questions."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ragstore.errors import FilterError, RagstoreError, StoreUnavailableError
from ragstore.model.collection import Collection
from ragstore.postgres.collections import get_collection
from ragstore.postgres.effort import N_ASKED, keep_asked
from ragstore.postgres.pool import PostgresPool

T = TypeVar("T")

_KEPT_EACH_S = 60.0


class CollectionCache:
    """Collections by their names, as this process last saw them; safe to use from several threads.

    Other processes may have dropped one, made another with its name, or built indexes. A search is correct with any old
    state of the collection, and returns the current one: nothing here must be up to date.
    """

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._by_name: dict[str, Collection] = {}

    def ask(self, name: str, run_query: Callable[[Collection], T]) -> T:
        """The result of ``run_query`` for the collection with this name.

        It is called with the remembered collection. If it raises, and the name now means another collection, it is
        called again with that one.

        Raises:
            CollectionNotFoundError: there is no collection with this name.
        """
        known = self._by_name.get(name)
        if known is None:
            return run_query(self._read(name))
        try:
            return run_query(known)
        except (FilterError, StoreUnavailableError):
            raise  # it would be the same with any collection
        except RagstoreError:
            now = self._read(name)
            if now.collection_id == known.collection_id:
                raise
        return run_query(now)

    def learn(self, seen: Collection) -> None:
        """Remember a collection as a search saw it."""
        if self._by_name.get(seen.name) is seen:
            return
        with self._lock:
            known = self._by_name.get(seen.name)
            if known is not None and known.collection_id == seen.collection_id:
                self._by_name[seen.name] = seen

    def _read(self, name: str) -> Collection:
        found = get_collection(self._pool, name)
        with self._lock:
            self._by_name[name] = found
        return found


class AskedQuestions:
    """The vectors of the last questions, saved to the database from time to time.

    They serve to measure how far searches must look. Safe to use from several threads. A process with few questions
    saves none, and no question waits for it.
    """

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._vectors: dict[int, deque[Sequence[float]]] = {}
        self._kept_at = time.monotonic()

    def note(self, collection: Collection, vector: ArrayLike | None) -> None:
        """Remember the vector of a question."""
        # In a small collection every vector is compared: nothing needs to be measured.
        if vector is None or not any(segment.n_cells for segment in collection.segments):
            return
        with self._lock:
            last = self._vectors.setdefault(collection.collection_id, deque(maxlen=N_ASKED))
            last.append(np.asarray(vector, dtype=np.float32).tolist())
            if time.monotonic() - self._kept_at < _KEPT_EACH_S or len(last) < N_ASKED // 2:
                return
            self._kept_at = time.monotonic()
            kept = {each: list(vectors) for each, vectors in self._vectors.items()}
            self._vectors = {}
        threading.Thread(target=self._keep, args=(kept,), name="ragstore-asked", daemon=True).start()

    def _keep(self, vectors: dict[int, list[Sequence[float]]]) -> None:
        # The role may only read, or the server may be unreachable: losing a sample does no harm.
        with suppress(RagstoreError):
            for collection_id, asked in vectors.items():
                keep_asked(self._pool, collection_id, asked)
