"""What the LlamaIndex faces of a collection stand on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ragstore.embedding import Embedder
from ragstore.errors import UsageError
from ragstore.model.collection import Collection
from ragstore.mongo.client import Client, MongoDatabase
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.collections import find_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Timing
from ragstore.protocol.recover import Recoverer

_LOOK_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of an opened ragstore that the faces use.

    Args:
        embedder: the model of a collection, loaded when first asked for.
        index_min_nodes: nodes from which a collection gets an HNSW index.
    """

    pool: PostgresPool
    client: Client
    database: MongoDatabase
    nodes: NodeStore
    recoverer: Recoverer
    worker: str
    timing: Timing
    embedder: Callable[[Collection], Embedder]
    index_min_nodes: int = 10_000


def not_made_so(name: str) -> UsageError:
    """For constructors of LlamaIndex's stores that know one database."""
    return UsageError(
        f"a {name} cannot be made from the parameters of one database",
        hint="take it from rs.storage_context(collection)",
    )


class CurrentCollection:
    """A collection whose index may get ready while a process lives."""

    def __init__(self, pool: PostgresPool, collection: Collection) -> None:
        self._pool = pool
        self._collection = collection
        self._lock = threading.Lock()
        self._look_again_at = time.monotonic() + _LOOK_AGAIN_S

    def get(self) -> Collection:
        """The collection as it was some seconds ago at most, as long as its index is not ready."""
        if self._collection.index_state == "ready" or time.monotonic() < self._look_again_at:
            return self._collection
        return self.look_again()

    def look_again(self) -> Collection:
        """The collection as it is now."""
        found = find_collection(self._pool, self._collection.name)
        with self._lock:
            self._look_again_at = time.monotonic() + _LOOK_AGAIN_S
            if found is not None and found.collection_id == self._collection.collection_id:
                self._collection = found
            return self._collection
