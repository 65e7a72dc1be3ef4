"""Reads of a collection's state in MongoDB for audits: all of it in the byte order of ids, or some ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pymongo.collection import Collection as MongoCollection

from ragstore.model.node import NAMESPACE
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

PAGE_IDS = 10_000
PAGE_NODES = 1_000

Entries = Literal["ref_doc_info", "metadata"]

_STRINGS: Document = {"_id": {"$gte": ""}}
"""Ids of other types are neither LlamaIndex's nor ragstore's."""

_ORIGIN = {"stamp": 1, "__type__": 1, "__data__.relationships.1": 1}
_SOURCE = "1"
_KINDS = ("data", "ref_doc_info", "metadata")
_STRUCTS = f"{NAMESPACE}/data"
_STAMPED: Document = {"stamp": {"$type": "number"}}
"""Only documents of ragstore have a numeric stamp."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a body.

    Args:
        stamp: the stored value; None if another program wrote the body.
        document_id: the document that the body names as its source, or its own id if it is a document.
        source_hash: hash of that document's version, if the body has it.
    """

    node_id: str
    stamp: Any
    document_id: str | None
    source_hash: str | None


class MongoScan:
    """Reads one collection for a comparison."""

    def __init__(self, database: MongoDatabase, namespace: str) -> None:
        self._database = database
        self._namespace = namespace

    def node_ids(self) -> Iterator[list[str]]:
        """Ids of all bodies in byte order, in pages."""
        for page in self._stream(self._data(), {"_id": 1}, PAGE_IDS):
            yield [body["_id"] for body in page]

    def bodies(self) -> Iterator[list[Document]]:
        """All bodies in the byte order of their ids, in pages."""
        return self._stream(self._data(), None, PAGE_NODES)

    def entries(self, name: Entries) -> Iterator[list[Document]]:
        """All per-document entries without node ids and metadata, in the byte order of their ids, in pages."""
        return self._stream(self._entries(name), {"stamp": 1, "doc_hash": 1}, PAGE_IDS)

    def bodies_of(self, ids: Sequence[str]) -> dict[str, Document]:
        """The existing ones among these bodies, by id."""
        return self._some(self._data(), ids, None)

    def present(self, ids: Sequence[str]) -> set[str]:
        """The ones among these ids that have a body."""
        return set(self._some(self._data(), ids, {"_id": 1}))

    def origins_of(self, ids: Sequence[str]) -> dict[str, Origin]:
        """Origins of the existing ones among these bodies, by id."""
        return {i: origin_of(body) for i, body in self._some(self._data(), ids, _ORIGIN).items()}

    def entries_of(self, name: Entries, document_ids: Sequence[str]) -> dict[str, Document]:
        """The existing ones among these entries, by document id."""
        return self._some(self._entries(name), document_ids, None)

    def _data(self) -> MongoCollection[Document]:
        return self._database[f"{self._namespace}/data"]

    def _entries(self, name: Entries) -> MongoCollection[Document]:
        return self._database[f"{self._namespace}/{name}"]

    def _some(
        self, collection: MongoCollection[Document], ids: Sequence[str], projection: Mapping[str, int] | None
    ) -> dict[str, Document]:
        with translation():
            return {found["_id"]: found for found in collection.find({"_id": {"$in": list(ids)}}, projection)}

    def _stream(
        self, collection: MongoCollection[Document], projection: Mapping[str, int] | None, n_documents: int
    ) -> Iterator[list[Document]]:
        with translation(), collection.find(_STRINGS, projection, batch_size=n_documents).sort("_id") as cursor:
            while page := cursor.to_list(n_documents):
                yield page


def origin_of(body: Document) -> Origin:
    """Origin of a body, which may have any form."""
    data = body.get("__data__")
    relationships = data.get("relationships") if isinstance(data, dict) else None
    source = relationships.get(_SOURCE) if isinstance(relationships, dict) else None
    if not isinstance(source, dict):
        is_document = body.get("__type__") == "4"
        return Origin(body["_id"], body.get("stamp"), body["_id"] if is_document else None, None)
    return Origin(body["_id"], body.get("stamp"), source.get("node_id"), source.get("hash"))


def index_structs(database: MongoDatabase, namespace: str, *, min_bytes: int) -> Iterator[Document]:
    """Structs of the collection's vector indexes that are larger than ``min_bytes``."""
    own = [{"collection": namespace}, {"_id": namespace, "collection": {"$exists": False}}]
    large = {"$expr": {"$gt": [{"$bsonSize": "$$ROOT"}, min_bytes]}}
    with translation():
        yield from database[_STRUCTS].find({"$or": own, "__type__": "vector_store", **large})


def namespaces(database: MongoDatabase) -> set[str]:
    """Namespaces with bodies or per-document entries, of ragstore or of other programs."""
    with translation():
        names = database.list_collection_names()
    found = {name.rpartition("/") for name in names}
    return {name for name, _, kind in found if name and kind in _KINDS and name != NAMESPACE}


def struct_owners(database: MongoDatabase) -> set[str]:
    """Names of the collections that the index structs of ragstore name as their owners."""
    with translation():
        return set(database[_STRUCTS].distinct("collection", _STAMPED))


def owned(database: MongoDatabase, namespace: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Documents that ragstore wrote for a collection: pages of stamps by id, each with its MongoDB collection."""
    places: list[tuple[str, Document]] = [(f"{namespace}/{kind}", {}) for kind in _KINDS]
    for place, condition in [*places, (_STRUCTS, {"collection": namespace})]:
        with translation(), database[place].find(_STRINGS | _STAMPED | condition, {"stamp": 1}) as cursor:
            while page := cursor.to_list(PAGE_IDS):
                yield place, {each["_id"]: each["stamp"] for each in page}
