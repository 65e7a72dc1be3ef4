"""Upkeep of a deployment, in addition to its workers, by the role that owns the tables."""

from __future__ import annotations

from ragstore.errors import as_owner
from ragstore.model.collection import Collection
from ragstore.postgres import segments, vectors
from ragstore.postgres.collections import find_collection, list_collections
from ragstore.postgres.filter_keys import build_missing
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.indexing import merge_in_child, wants_merge
from ragstore.protocol.recover import Recoverer
from ragstore.telemetry.logging import get_logger
from ragstore.worker.health import Health

_log = get_logger(__name__)


class Upkeep:
    """One round recovers, empties the outbox, seals and merges segments and refreshes statistics.

    Args:
        min_nodes: least number of fresh nodes for which a segment is made.
        memory_mb: memory of a merge.
        is_last: no other round follows: merge as if nothing were being added.
    """

    def __init__(
        self,
        pool: PostgresPool,
        recoverer: Recoverer,
        *,
        min_nodes: int,
        memory_mb: int,
        health: Health,
        is_last: bool = False,
    ) -> None:
        self._pool = pool
        self._recoverer = recoverer
        self._min_nodes = min_nodes
        self._memory_mb = memory_mb
        self._is_last = is_last
        self._health = health
        self._has_warned = False

    def go_round(self) -> bool:
        """Run one round; returns whether there was something to do.

        Raises:
            StoreError

        Crash safety:
            Every step is idempotent; the next round completes the work of a killed one.
        """
        recovery = self._recoverer.recover()
        self._health.alive()
        built = self._build_indexes()
        refreshed = vectors.refresh_changed(self._pool)
        if built or refreshed:
            _log.info("kept up", action="maintain", built=", ".join(built), refreshed=", ".join(refreshed))
        return bool(recovery.runs_abandoned or recovery.outbox_done or built or refreshed)

    def _build_indexes(self) -> list[str]:
        """Build all missing indexes; returns the names of their collections."""
        wanted = [s.name for s in list_collections(self._pool) if s.nodes]
        if wanted:
            self._warn_unless_owner()
        built = []
        for name in wanted:
            collection = find_collection(self._pool, name)
            with self._health.long_step():
                if collection and self._build_indexes_of(collection):
                    built.append(name)
        return built

    def _build_indexes_of(self, collection: Collection) -> bool:
        built_keys = build_missing(self._pool, collection)
        room = segments.room(collection, self._memory_mb)
        n_sealed = segments.seal_fresh(self._pool, collection, min_nodes=self._min_nodes, room=room)
        at_rest = self._is_last or not n_sealed
        has_merged = wants_merge(self._pool, collection, memory_mb=self._memory_mb, at_rest=at_rest)
        if has_merged:
            merge_in_child(self._pool, collection, memory_mb=self._memory_mb, at_rest=at_rest, alive=self._health.alive)
        return bool(n_sealed) or built_keys or has_merged

    def _warn_unless_owner(self) -> None:
        if self._has_warned:
            return
        owner = vectors.other_owner(self._pool)
        if owner:
            _log.warning(
                "builds no index: the tables belong to another role",
                action="maintain",
                owner=owner,
                hint=as_owner("maintain", owner),
            )
        self._has_warned = True
