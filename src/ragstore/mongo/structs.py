"""Index structs in the shape that ``MongoIndexStore`` reads: ``index_store/data``, shared by all collections."""

from __future__ import annotations

from collections.abc import Sequence

import bson
from pymongo.errors import DuplicateKeyError

from ragstore.model.node import NAMESPACE, Struct
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

MAX_BYTES = 16 * 1024 * 1024
"""Of one entry of MongoDB."""

_NAME = f"{NAMESPACE}/data"
_OWNER = "collection"
"""Field that says to which collection a struct belongs; LlamaIndex ignores it."""


def encoded_size(document: Document) -> int:
    """Bytes that MongoDB counts."""
    return len(bson.encode(document))


def struct_size(namespace: str, struct: Struct) -> int:
    """Bytes that MongoDB counts of a struct."""
    return encoded_size(_entry(namespace, struct, 2**62))


def owner_and_stamp(database: MongoDatabase, index_id: str) -> tuple[str | None, int | None] | None:
    """Whose the struct of that id is, and its stamp; None where there is none."""
    with translation():
        found = database[_NAME].find_one({"_id": index_id}, {_OWNER: 1, "stamp": 1})
    return None if found is None else (found.get(_OWNER), found.get("stamp"))


def put_struct(database: MongoDatabase, namespace: str, struct: Struct, stamp: int) -> None:
    """Write a struct; a newer stamp wins.

    Crash safety:
        Idempotent, and in any order.
    """
    older = {"_id": struct.index_id, "stamp": {"$not": {"$gte": stamp}}}
    with translation():
        try:
            database[_NAME].replace_one(older, _entry(namespace, struct, stamp), upsert=True)
        except DuplicateKeyError:
            # It found only a newer one, and tried to insert.
            return


def replace_struct(database: MongoDatabase, namespace: str, struct: Struct, found: Document) -> None:
    """Put a struct in the place of an entry that is still as it was found.

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
    """Remove a struct of this collection, if it is there."""
    with translation():
        database[_NAME].delete_one({"_id": index_id, _OWNER: namespace})


def delete_structs(database: MongoDatabase, namespace: str, *, stamp: int) -> None:
    """Remove the structs of a collection that were written no later than ``stamp``.

    Crash safety:
        Idempotent; what a new collection of this name wrote later stays.
    """
    with translation():
        database[_NAME].delete_many({_OWNER: namespace, "stamp": {"$not": {"$gt": stamp}}})


def delete_states(database: MongoDatabase, index_ids: Sequence[str], *, stamp: int) -> None:
    """Remove these structs where ragstore wrote them no later than ``stamp``.

    Crash safety:
        Idempotent; what was written later stays.
    """
    with translation():
        database[_NAME].delete_many({"_id": {"$in": list(index_ids)}, "stamp": {"$lte": stamp}})


def find_struct(database: MongoDatabase, namespace: str, index_id: str) -> Struct | None:
    """The struct of that id, if it is this collection's."""
    with translation():
        found = database[_NAME].find_one({"_id": index_id, _OWNER: namespace})
    return None if found is None else struct_of(found)


def entries(database: MongoDatabase, namespace: str, *, but: Sequence[str] = ()) -> list[Document]:
    """All entries of this collection, but those of these ids."""
    with translation():
        return list(database[_NAME].find({_OWNER: namespace, "_id": {"$nin": list(but)}}).sort("_id"))


def entry(database: MongoDatabase, index_id: str) -> Document | None:
    """The entry of that id, whosever it is."""
    with translation():
        return database[_NAME].find_one({"_id": index_id})


def struct_of(found: Document) -> Struct:
    """An entry's struct."""
    return Struct(found["_id"], str(found.get("__type__")), str(found.get("__data__")), found.get("stamp"))


def _entry(namespace: str, struct: Struct, stamp: int) -> Document:
    own = {"_id": struct.index_id, "__type__": struct.kind, "__data__": struct.payload}
    return own | {_OWNER: namespace, "stamp": stamp}
