"""What ragstore wrote to MongoDB under names that no collection has: left of collections that were dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ragstore.model.drift import Kind, Tally
from ragstore.model.struct import NAMESPACE as STRUCTS
from ragstore.mongo import scan
from ragstore.mongo.client import MongoDatabase
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.scan import is_unused, pending_ids, unused_names
from ragstore.protocol.repair import Repairer

_KIND = {"data": Kind.ORPHAN_IN_MONGO, "ref_doc_info": Kind.STALE_ENTRY, "metadata": Kind.STALE_ENTRY}


@dataclass(frozen=True, slots=True)
class Leftover:
    """Some of what is left of one collection.

    Args:
        place: MongoDB's collection.
        stamps: of each entry, by its id.
        was_dropped: the audit trail says so; otherwise PostgreSQL may have lost the collection.
    """

    namespace: str
    place: str
    stamps: dict[str, int]
    was_dropped: bool

    @property
    def kind(self) -> Kind:
        """What it is as drift."""
        return Kind.STALE_STRUCT if self.place == f"{STRUCTS}/data" else _KIND[self.place.rpartition("/")[2]]

    def named(self) -> Iterator[str]:
        """Each with the reason why it should not be there."""
        reason = "was dropped" if self.was_dropped else "is not known: PostgreSQL may have lost it"
        return (f"{self.place} {i}: collection {self.namespace!r} {reason}" for i in self.stamps)


def leftovers(pool: PostgresPool, database: MongoDatabase) -> Iterator[Leftover]:
    """All that is left of collections which are not there, but what the outbox names; in pages."""
    found = scan.namespaces(database) | scan.struct_owners(database)
    for name, was_dropped in unused_names(pool, sorted(found)).items():
        for place, stamps in scan.owned(database, name):
            pending = pending_ids(pool, STRUCTS if place == f"{STRUCTS}/data" else name, list(stamps))
            left = {i: stamp for i, stamp in stamps.items() if i not in pending}
            # Asked after MongoDB: what a new collection of this name writes from here on has another stamp.
            if left and is_unused(pool, name):
                yield Leftover(name, place, left, was_dropped)


def count_leftovers(pool: PostgresPool, database: MongoDatabase, tally: Tally) -> None:
    """Add them as drift."""
    for left in leftovers(pool, database):
        tally.add(left.kind, left.named())


def remove_leftovers(
    pool: PostgresPool, database: MongoDatabase, repairer: Repairer | None, done: Tally, kept: Tally
) -> None:
    """Remove those of dropped collections; without a repairer only say so."""
    for left in leftovers(pool, database):
        (done if left.was_dropped else kept).add(left.kind, left.named())
        if repairer is not None and left.was_dropped:
            repairer.delete_left_over(left.place, left.stamps)
