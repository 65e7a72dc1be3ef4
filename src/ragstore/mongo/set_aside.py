"""Collections of MongoDB that no reader uses, for documents that are set aside instead of deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pymongo import DeleteOne, ReplaceOne

from ragstore.model.collection import NAME_PATTERN
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

STRUCTS = "index_store/data"

_PREFIX = "ragstore/set_aside"
_PARTS = ("data", "ref_doc_info", "metadata")
_PAGE = 500
_PAGE_STAMPS = 10_000
_NUMBERS = ["int", "long", "double", "decimal"]
_OURS: Document = {"_id": {"$type": "string"}, "stamp": {"$type": _NUMBERS}}
"""All documents that ragstore writes have a number as stamp; LlamaIndex's own have none."""


def place_of(label: str, name: str) -> str:
    """Name of the collection for documents of another one that are set aside under a label.

    No store of LlamaIndex reads it: their collections end in ``/data``, ``/ref_doc_info`` or ``/metadata``.
    """
    return f"{_PREFIX}/{label}/{name.replace('/', '.')}"


def copy(database: MongoDatabase, label: str, name: str, documents: Sequence[Document]) -> None:
    """Copy documents of a collection to where they are set aside.

    Crash safety:
        Idempotent.
    """
    place = database[place_of(label, name)]
    with translation():
        place.bulk_write([ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in documents], ordered=False)


def remove(database: MongoDatabase, name: str, documents: Sequence[Document]) -> None:
    """Delete documents that are still as they were found.

    Crash safety:
        Idempotent; a document that was written again in between stays.
    """
    with translation():
        database[name].bulk_write([DeleteOne(_as_found(each)) for each in documents], ordered=False)


def namespaces(database: MongoDatabase) -> list[str]:
    """Names of collections, in ragstore's sense, that have documents of ragstore in MongoDB."""
    with translation():
        names = database.list_collection_names()
        found = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in _PARTS and name != STRUCTS}
        found = {name for name in found if NAME_PATTERN.fullmatch(name)}
        found |= {str(name) for name in database[STRUCTS].distinct("collection")}
        return sorted(name for name in found if any(True for _ in ours(database, name)))


def ours(database: MongoDatabase, namespace: str) -> Iterator[tuple[str, list[Document]]]:
    """Pages of ragstore's documents in a namespace, each with the name of its MongoDB collection."""
    for part in _PARTS:
        yield from _pages(database, f"{namespace}/{part}", _OURS)
    yield from _pages(database, STRUCTS, {"collection": namespace})


def largest_stamp(database: MongoDatabase, *, at_most: int) -> int:
    """The largest stamp of ragstore in the database; numbers above ``at_most`` are not ragstore's."""
    with translation():
        names = [name for name in database.list_collection_names() if name.rpartition("/")[2] in _PARTS]
        condition: Document = {"stamp": {"$type": _NUMBERS, "$lte": at_most}}
        # In pages: one command over a large collection would exceed the time limit of commands.
        pages = (database[name].find(condition, {"_id": 0, "stamp": 1}, batch_size=_PAGE_STAMPS) for name in names)
        return max((int(each["stamp"]) for page in pages for each in page), default=0)


def _pages(database: MongoDatabase, name: str, condition: Document) -> Iterator[tuple[str, list[Document]]]:
    with translation(), database[name].find(condition, batch_size=_PAGE) as cursor:
        while page := cursor.to_list(_PAGE):
            yield name, page


def _as_found(document: Document) -> Document:
    # Stamps are never used twice; a document without one is compared by its content.
    found: dict[str, Any] = {"_id": {"$eq": document["_id"]}, "stamp": {"$eq": document.get("stamp")}}
    if not isinstance(document.get("stamp"), int):
        found |= {"__data__": {"$eq": document.get("__data__")}, "__type__": {"$eq": document.get("__type__")}}
    return found
