"""The place in MongoDB where nothing reads: what no longer belongs to a collection is moved there, not deleted."""

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
"""Everything that ragstore writes has a number as its stamp; nothing of LlamaIndex's own has."""


def place_of(label: str, name: str) -> str:
    """Where what was in a collection of MongoDB is set aside under a label.

    No store of LlamaIndex takes it for its own: those end in ``/data``, ``/ref_doc_info`` or ``/metadata``.
    """
    return f"{_PREFIX}/{label}/{name.replace('/', '.')}"


def copy(database: MongoDatabase, label: str, name: str, documents: Sequence[Document]) -> None:
    """Put documents of a collection aside, and leave them where they are too.

    Crash safety:
        Idempotent.
    """
    place = database[place_of(label, name)]
    with translation():
        place.bulk_write([ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in documents], ordered=False)


def remove(database: MongoDatabase, name: str, documents: Sequence[Document]) -> None:
    """Delete documents that are still as they were found.

    Crash safety:
        Idempotent; one that was written again meanwhile stays.
    """
    with translation():
        database[name].bulk_write([DeleteOne(_as_found(each)) for each in documents], ordered=False)


def namespaces(database: MongoDatabase) -> list[str]:
    """Names of collections, as ragstore names them, of which there is something of ours in MongoDB."""
    with translation():
        names = database.list_collection_names()
        found = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in _PARTS and name != STRUCTS}
        found = {name for name in found if NAME_PATTERN.fullmatch(name)}
        found |= {str(name) for name in database[STRUCTS].distinct("collection")}
        return sorted(name for name in found if any(True for _ in ours(database, name)))


def ours(database: MongoDatabase, namespace: str) -> Iterator[tuple[str, list[Document]]]:
    """Everything of ours in a namespace: name of the collection of MongoDB, and a page of what is in it."""
    for part in _PARTS:
        yield from _pages(database, f"{namespace}/{part}", _OURS)
    yield from _pages(database, STRUCTS, {"collection": namespace})


def largest_stamp(database: MongoDatabase, *, at_most: int) -> int:
    """The largest stamp of anything of ours, wherever it is; what is larger than ``at_most`` is not ours."""
    with translation():
        names = [name for name in database.list_collection_names() if name.rpartition("/")[2] in _PARTS]
        condition: Document = {"stamp": {"$type": _NUMBERS, "$lte": at_most}}
        # Page by page: one command over a large collection would take longer than a command may.
        pages = (database[name].find(condition, {"_id": 0, "stamp": 1}, batch_size=_PAGE_STAMPS) for name in names)
        return max((int(each["stamp"]) for page in pages for each in page), default=0)


def _pages(database: MongoDatabase, name: str, condition: Document) -> Iterator[tuple[str, list[Document]]]:
    with translation(), database[name].find(condition, batch_size=_PAGE) as cursor:
        while page := cursor.to_list(_PAGE):
            yield name, page


def _as_found(document: Document) -> Document:
    # Stamps are never used twice; what has none is compared whole.
    found: dict[str, Any] = {"_id": {"$eq": document["_id"]}, "stamp": {"$eq": document.get("stamp")}}
    if not isinstance(document.get("stamp"), int):
        found |= {"__data__": {"$eq": document.get("__data__")}, "__type__": {"$eq": document.get("__type__")}}
    return found
