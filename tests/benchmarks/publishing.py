"""Precomputed vectors into a collection, all guarantees on, as an ingest publishes what it has embedded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ragstore.app import Ragstore
from ragstore.errors import StoreError
from ragstore.ingest.pipeline import STORED_AT_ONCE
from ragstore.model.collection import Collection
from ragstore.model.run import PlannedRevision
from tests.support.internals import writer_of

DOCUMENTS_PER_RUN = 100
_MOST_ROUNDS = 1_000


def publish(
    store: Ragstore, collection: Collection, revisions: Sequence[PlannedRevision], per_run: int = DOCUMENTS_PER_RUN
) -> None:
    """Publish new documents in runs of so many, as many runs at once as an ingest has."""
    writer = writer_of(store)
    runs = [revisions[i : i + per_run] for i in range(0, len(revisions), per_run)]
    with ThreadPoolExecutor(STORED_AT_ONCE) as storing:
        for result in storing.map(lambda run: writer.publisher.publish(collection, run), runs):
            if result.moved_on:
                raise StoreError(f"documents of {collection.name!r} were there before: {result.moved_on[:3]}")
    writer.recoverer.retire()


def index(store: Ragstore) -> None:
    """Do all that ``ragstore maintain`` would do by and by: build indexes, refresh statistics."""
    upkeep = store.upkeep()
    for _ in range(_MOST_ROUNDS):
        if not upkeep.go_round():
            return
    raise StoreError(f"upkeep found something to do {_MOST_ROUNDS} times in a row")
