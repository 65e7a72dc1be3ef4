"""Collections that a process has met, so that it can ask them a question without asking for them first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ragstore.errors import FilterError, RagstoreError, StoreUnavailableError
from ragstore.model.collection import Collection
from ragstore.postgres.collections import get_collection
from ragstore.postgres.pool import PostgresPool

T = TypeVar("T")


class KnownCollections:
    """What a process remembers of collections by their names; safe to use from several threads.

    Others may have dropped one since, have made another of its name, or have built indexes. A search is right with any
    memory of the collection, and its statement says what is true now: nothing here has to be fresh.
    """

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._by_name: dict[str, Collection] = {}

    def ask(self, name: str, asking: Callable[[Collection], T]) -> T:
        """What ``asking`` returns for the collection of that name.

        It is called with what is remembered. Where it raises, and the name means another collection by now, it is
        called again with that one.

        Raises:
            CollectionNotFoundError: there is none of that name.
        """
        known = self._by_name.get(name)
        if known is None:
            return asking(self._read(name))
        try:
            return asking(known)
        except (FilterError, StoreUnavailableError):
            raise  # the same of any collection
        except RagstoreError:
            now = self._read(name)
            if now.collection_id == known.collection_id:
                raise
        return asking(now)

    def learn(self, seen: Collection) -> None:
        """Remember a collection as a search has seen it."""
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
