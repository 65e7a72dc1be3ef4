"""Advice for a filter that matched nothing: keys that no node has, and the key that was probably meant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from difflib import get_close_matches

from ragstore.model.collection import Collection
from ragstore.model.filters import Filter, keys_of
from ragstore.postgres.filter_keys import SampledKeys, sampled_keys
from ragstore.postgres.pool import PostgresPool
from ragstore.query.filter_text import SPELLINGS

LOOK_AGAIN_AFTER_S = 10.0
"""Seconds between two samples: a service may find nothing a thousand times a second."""

_OF_COLUMNS = frozenset({"document_id", "doc_id", "ref_doc_id"})
"""Names of the document's id, which filters find even if no metadata has it."""


class Advice:
    """Samples the keys of collections from a bounded number of nodes; safe to use from several threads."""

    def __init__(self, pool: PostgresPool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._lock = threading.Lock()
        self._looks: dict[int, tuple[float, SampledKeys]] = {}

    def notes(self, collection: Collection, filters: Filter) -> list[str]:
        """One sentence for each key of a filter that no node seems to have."""
        keys = [key for key in keys_of(filters) if key not in _OF_COLUMNS and key not in collection.filter_keys]
        if not keys:
            return []
        sample = self._sample(collection)
        return [_note(key, collection, sample) for key in keys if key not in sample.keys]

    def _sample(self, collection: Collection) -> SampledKeys:
        with self._lock:
            looked_at, sample = self._looks.get(collection.collection_id, (None, None))
        if sample is None or looked_at is None or self._clock() - looked_at > LOOK_AGAIN_AFTER_S:
            sample = sampled_keys(self._pool, collection)
            with self._lock:
                self._looks[collection.collection_id] = (self._clock(), sample)
        return sample


def _note(key: str, collection: Collection, sample: SampledKeys) -> str:
    if not sample.n_nodes:
        return f"collection {collection.name} has no nodes"
    nodes = "no node" if sample.is_all else f"none of {sample.n_nodes:,} nodes that were looked at"
    return f"{nodes} has metadata key {key!r}{_meant(key, {*sample.keys, *collection.filter_keys})}"


def _meant(key: str, known: set[str]) -> str:
    name, colon, word = key.rpartition(":")
    if colon and name in known:
        return f"; key {name!r} is there, and {word!r} is no operator: they are {SPELLINGS}"
    by_lower = {each.lower(): each for each in sorted(known)}
    near = get_close_matches(key.lower(), by_lower, n=1)
    if near:
        return f"; did you mean {by_lower[near[0]]!r}?"
    return f"; there are {', '.join(sorted(known)[:20])}" if known else ""
