"""Checks of tables, indexes, index structs and the registry, and of leftovers of dropped collections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ragstore.migrate import mongo as mongo_steps
from ragstore.model.collection import Collection
from ragstore.model.drift import Kind
from ragstore.model.node import NAMESPACE, VECTOR_STORE, Struct
from ragstore.model.node import NAMESPACE as STRUCTS
from ragstore.model.report import Findings
from ragstore.mongo import scan
from ragstore.mongo import structs as in_mongo
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation
from ragstore.mongo.scan import index_structs
from ragstore.postgres import filter_keys
from ragstore.postgres import structs as in_postgres
from ragstore.postgres.collections import get_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.scan import PostgresScan, is_unused, pending_ids, unused_names
from ragstore.postgres.segments import LOCK_SPACE
from ragstore.protocol.repair import Repairer

MAX_STRUCT_BYTES = 1_024
_SUFFIXES = ("pkey", "node_id_key", "document_idx", "chunk_hash_idx", "text_idx", "metadata_idx")


@dataclass(frozen=True, slots=True)
class StaleStruct:
    """A struct that MongoDB has in another state than PostgreSQL, or that only MongoDB has.

    Args:
        struct: the correct state; without a stamp if PostgreSQL lost it.
        found: MongoDB's entry; None if it is missing.
    """

    struct: Struct
    found: Document | None


def has_registry(database: MongoDatabase) -> bool:
    """Whether MongoDB says which PostgreSQL database it belongs to."""
    with translation():
        return mongo_steps.current(database) is not None and mongo_steps.deployment_id(database) is not None


def unusable_indexes(pool: PostgresPool, scan: PostgresScan) -> dict[str, str]:
    """Indexes of the vector table that are invalid or missing, with the reason."""
    if not scan.has_table or not _broken(pool, scan):
        return {}
    found = _unusable(pool, scan)
    # An index that another process was just completing is valid at the second check.
    return {name: reason for name, reason in _unusable(pool, scan).items() if name in found} if found else {}


def stale_structs(database: MongoDatabase, collection: Collection) -> Iterator[dict[str, Any]]:
    """Structs that still have node ids, which only the ledger should have, and so grow with the collection."""
    for struct in index_structs(database, collection.name, min_bytes=MAX_STRUCT_BYTES):
        if emptied(struct) != struct:
            yield struct


def stale_copies(pool: PostgresPool, database: MongoDatabase, collection: Collection) -> list[StaleStruct]:
    """Structs in which the stores disagree, at two checks: at the first, one may be just being written."""
    found = _stale_copies(pool, database, collection)
    if not found:
        return []
    pending = pending_ids(pool, NAMESPACE, [each.struct.index_id for each in found])
    again = [each for each in _stale_copies(pool, database, collection) if each in found]
    return [each for each in again if each.struct.index_id not in pending]


def emptied(struct: dict[str, Any]) -> dict[str, Any]:
    """The same struct without node ids; unchanged if it cannot be read."""
    try:
        data = orjson.loads(struct.get("__data__") or "{}")
    except (orjson.JSONDecodeError, TypeError):
        return struct
    if not isinstance(data, dict) or not data.get("nodes_dict"):
        return struct
    return struct | {"__data__": orjson.dumps(data | {"nodes_dict": {}}).decode()}


def _stale_copies(pool: PostgresPool, database: MongoDatabase, collection: Collection) -> list[StaleStruct]:
    entries = {entry["_id"]: entry for entry in in_mongo.entries(database, collection.name)}
    stale = []
    for struct in in_postgres.list_structs(pool, collection):
        entry = entries.pop(struct.index_id, None)
        # A vector index's struct is small, unless plain LlamaIndex wrote node ids into it: see stale_structs.
        if (
            entry is None
            or entry.get("stamp") != struct.stamp
            or (struct.kind != VECTOR_STORE and not struct.is_same(in_mongo.struct_of(entry)))
        ):
            stale.append(StaleStruct(struct, entry))
    lost = (in_mongo.struct_of(entry) for entry in entries.values())
    return stale + [
        StaleStruct(Struct(each.index_id, each.kind, each.payload), entries[each.index_id])
        for each in lost
        if each.kind != VECTOR_STORE
    ]


def _unusable(pool: PostgresPool, scan: PostgresScan) -> dict[str, str]:
    is_building = scan.is_building(LOCK_SPACE)
    broken = _broken(pool, scan)
    if is_building or scan.is_building(LOCK_SPACE):
        return {name: reason for name, reason in broken.items() if not _is_built_concurrently(name)}
    return broken


def _broken(pool: PostgresPool, scan: PostgresScan) -> dict[str, str]:
    collection = get_collection(pool, scan.collection.name)
    indexes = scan.indexes()
    wanted = {f"{collection.table}_{suffix}" for suffix in _SUFFIXES}
    broken = dict.fromkeys(wanted.difference(indexes), "is missing")
    broken |= dict.fromkeys(scan.missing_segments(collection), "is missing")
    return broken | {name: "is invalid" for name, valid in indexes.items() if not valid}


def _is_built_concurrently(name: str) -> bool:
    return filter_keys.is_index_name(name)


_KIND = {"data": Kind.ORPHAN_IN_MONGO, "ref_doc_info": Kind.STALE_ENTRY, "metadata": Kind.STALE_ENTRY}


@dataclass(frozen=True, slots=True)
class Leftover:
    """Entries in MongoDB of a ragstore collection that does not exist.

    Args:
        namespace: name of the ragstore collection.
        place: MongoDB's collection.
        stamps: stamp of each entry, by its id.
        was_dropped: the audit trail has the drop; otherwise PostgreSQL may have lost the collection.
    """

    namespace: str
    place: str
    stamps: dict[str, int]
    was_dropped: bool

    @property
    def kind(self) -> Kind:
        """The kind of drift that it counts as."""
        return Kind.STALE_STRUCT if self.place == f"{STRUCTS}/data" else _KIND[self.place.rpartition("/")[2]]

    def named(self) -> Iterator[str]:
        """Lines that name each entry, with the reason why it should not exist."""
        reason = "was dropped" if self.was_dropped else "is not known: PostgreSQL may have lost it"
        return (f"{self.place} {i}: collection {self.namespace!r} {reason}" for i in self.stamps)


def leftovers(pool: PostgresPool, database: MongoDatabase) -> Iterator[Leftover]:
    """Leftovers of all collections that do not exist, in pages; without entries that the outbox names."""
    found = scan.namespaces(database) | scan.struct_owners(database)
    for name, was_dropped in unused_names(pool, sorted(found)).items():
        for place, stamps in scan.owned(database, name):
            pending = pending_ids(pool, STRUCTS if place == f"{STRUCTS}/data" else name, list(stamps))
            left = {i: stamp for i, stamp in stamps.items() if i not in pending}
            # Checked after MongoDB was read: a new collection of this name writes with other stamps.
            if left and is_unused(pool, name):
                yield Leftover(name, place, left, was_dropped)


def count_leftovers(pool: PostgresPool, database: MongoDatabase, tally: Findings) -> None:
    """Add all leftovers to the drift."""
    for left in leftovers(pool, database):
        tally.add(left.kind, left.named())


def remove_leftovers(
    pool: PostgresPool, database: MongoDatabase, repairer: Repairer | None, done: Findings, kept: Findings
) -> None:
    """Remove leftovers of dropped collections; without a repairer, only report them."""
    for left in leftovers(pool, database):
        (done if left.was_dropped else kept).add(left.kind, left.named())
        if repairer is not None and left.was_dropped:
            repairer.delete_left_over(left.place, left.stamps)
