"""Index structs in the form that ``MongoIndexStore`` reads: in ``index_store/data``, shared by all collections."""

from __future__ import annotations

from collections.abc import Sequence

import bson
from pymongo.errors import DuplicateKeyError

from ragstore.model.node import NAMESPACE, Struct
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

MAX_BYTES = 16 * 1024 * 1024
"""MongoDB's limit for one entry."""

_NAME = f"{NAMESPACE}/data"
_OWNER = "collection"
"""Field with the collection of a struct; LlamaIndex ignores it."""


def encoded_size(document: Document) -> int:
    """Size in bytes as MongoDB counts it."""
    return len(bson.encode(document))


def struct_size(namespace: str, struct: Struct) -> int:
    """Size of a struct's entry in bytes as MongoDB counts it."""
    return encoded_size(_entry(namespace, struct, 2**62))


def owner_and_stamp(database: MongoDatabase, index_id: str) -> tuple[str | None, int | None] | None:
    """Owning collection and stamp of the struct of that id; None if there is no such struct."""
    with translation():
        found = database[_NAME].find_one({"_id": index_id}, {_OWNER: 1, "stamp": 1})
    return None if found is None else (found.get(_OWNER), found.get("stamp"))


def put_struct(database: MongoDatabase, namespace: str, struct: Struct, stamp: int) -> None:
    """Write a struct; the newer stamp wins.

    Crash safety:
        Idempotent and independent of order.
    """
    older = {"_id": struct.index_id, "stamp": {"$not": {"$gte": stamp}}}
    with translation():
        try:
            database[_NAME].replace_one(older, _entry(namespace, struct, stamp), upsert=True)
        except DuplicateKeyError:
            # A newer struct exists: the upsert did not match it, and tried to insert.
            return


def replace_struct(database: MongoDatabase, namespace: str, struct: Struct, found: Document) -> None:
    """Replace an entry that is still as it was found by a struct.

    Crash safety:
        As ``put_struct``.
    """
    assert struct.stamp is not None
    with translation():
        database[_NAME].replace_one(
            {"_id": struct.index_id, "stamp": found.get("stamp"), "__data__": found.get("__data__")},
            _entry(namespace, struct, struct.stamp),
        )


def delete_struct(database: MongoDatabase, namespace: str, index_id: str) -> None:
    """Delete a struct of this collection, if it exists."""
    with translation():
        database[_NAME].delete_one({"_id": index_id, _OWNER: namespace})


def delete_structs(database: MongoDatabase, namespace: str, *, stamp: int) -> None:
    """Delete the structs of a collection that were written no later than ``stamp``.

    Crash safety:
        Idempotent; structs that a new collection of this name wrote later stay.
    """
    with translation():
        database[_NAME].delete_many({_OWNER: namespace, "stamp": {"$not": {"$gt": stamp}}})


def delete_states(database: MongoDatabase, index_ids: Sequence[str], *, stamp: int) -> None:
    """Delete the ones among these structs that ragstore wrote no later than ``stamp``.

    Crash safety:
        Idempotent; structs that were written later stay.
    """
    with translation():
        database[_NAME].delete_many({"_id": {"$in": list(index_ids)}, "stamp": {"$lte": stamp}})


def find_struct(database: MongoDatabase, namespace: str, index_id: str) -> Struct | None:
    """The struct of that id, if it belongs to this collection."""
    with translation():
        found = database[_NAME].find_one({"_id": index_id, _OWNER: namespace})
    return None if found is None else struct_of(found)


def entries(database: MongoDatabase, namespace: str, *, but: Sequence[str] = ()) -> list[Document]:
    """All entries of this collection except those with ids in ``but``, by id."""
    with translation():
        return list(database[_NAME].find({_OWNER: namespace, "_id": {"$nin": list(but)}}).sort("_id"))


def entry(database: MongoDatabase, index_id: str) -> Document | None:
    """The entry of that id, of any collection."""
    with translation():
        return database[_NAME].find_one({"_id": index_id})


def struct_of(found: Document) -> Struct:
    """The struct in an entry."""
    return Struct(found["_id"], str(found.get("__type__")), str(found.get("__data__")), found.get("stamp"))


def _entry(namespace: str, struct: Struct, stamp: int) -> Document:
    own = {"_id": struct.index_id, "__type__": struct.kind, "__data__": struct.payload}
    return own | {_OWNER: namespace, "stamp": stamp}
