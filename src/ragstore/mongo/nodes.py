"""Node bodies and per-document entries, in the shape that MongoDocumentStore reads.

``<collection>/data`` holds ``{_id: node_id, __data__: node, __type__: type, stamp}``; ``/ref_doc_info`` and
``/metadata`` hold one entry per document. ``stamp`` orders the writes of one ``_id``: 0 for a staged node, whose id
is never used twice; LlamaIndex ignores it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pymongo import DeleteOne, ReplaceOne
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import BulkWriteError

from ragstore.model.node import LiveNode, Node, content_with_text
from ragstore.model.run import RefDoc
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

BATCH_BYTES = 8_000_000
"""Bytes of one insert command; MongoDB accepts 48 MB, smaller commands keep memory and latency even."""

BATCH_IDS = 10_000
BATCH_NODES = 1_000
_PER_NODE_BYTES = 1_500
_DUPLICATE_KEY = 11000

Older = Callable[[Document], Document]
"""Makes the condition on the document that a given one replaces."""


def has_nodes(database: MongoDatabase, namespace: str) -> bool:
    """Whether a namespace has any body."""
    with translation():
        return database[f"{namespace}/data"].find_one({}, {"_id": 1}) is not None


class NodeStore:
    """Bulk writes and reads of one MongoDB database."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    @property
    def database(self) -> MongoDatabase:
        return self._database

    def stage(self, namespace: str, nodes: Sequence[Node], *, between: Callable[[], None]) -> None:
        """Insert new nodes in batches by bytes; ``between`` is called after each batch.

        Crash safety:
            Acknowledged by a majority and journaled when it returns. Inserting a node again is harmless.
        """
        data = self._data(namespace)
        for batch in _batches(nodes):
            # A retried insert meets the nodes of its first attempt.
            _insert(data, [_body(node) for node in batch])
            between()

    def put_nodes(self, namespace: str, nodes: Sequence[LiveNode]) -> None:
        """Write nodes whose ids may exist; the newer stamp wins.

        Crash safety:
            Idempotent and independent of order: an older write never replaces a newer one.
        """
        bodies = [
            {"_id": node.node_id, "__data__": node.content, "__type__": node.type_key, "stamp": node.stamp}
            for node in nodes
        ]
        self._put(self._data(namespace), bodies, lambda body: {"stamp": {"$not": {"$gte": body["stamp"]}}})

    def delete_nodes(self, namespace: str, ids: Sequence[str], *, stamp: int, between: Callable[[], None]) -> None:
        """Delete nodes that were written no later than ``stamp``; ``between`` is called after each batch.

        Crash safety:
            Idempotent; a node with the same id that was put later stays.
        """
        data = self._data(namespace)
        for i in range(0, len(ids), BATCH_IDS):
            with translation():
                data.delete_many({"_id": {"$in": list(ids[i : i + BATCH_IDS])}, "stamp": {"$not": {"$gt": stamp}}})
            between()

    def stamps(self, namespace: str, ids: Sequence[str]) -> dict[str, int | None]:
        """Stamps of the existing ones among these nodes, by id; None for one that another program wrote."""
        with translation():
            found = self._data(namespace).find({"_id": {"$in": list(ids)}}, {"stamp": 1})
            return {node["_id"]: node.get("stamp") for node in found}

    def delete_states(self, namespace: str, stamps: Mapping[str, int | None]) -> None:
        """Delete nodes that still have this stamp."""
        self._bulk(self._data(namespace), [DeleteOne({"_id": i, "stamp": stamp}) for i, stamp in stamps.items()])

    def put_ref_docs(self, namespace: str, entries: Sequence[RefDoc], *, between: Callable[[], None]) -> None:
        """Write or delete entries in ``ref_doc_info`` and ``metadata``; the newer revision wins.

        Crash safety:
            Idempotent; an older revision never replaces a newer one.
        """
        live = [e for e in entries if e.node_ids is not None]
        gone = [
            DeleteOne({"_id": e.document_id, "stamp": {"$not": {"$gt": e.revision}}})
            for e in entries
            if e.node_ids is None
        ]
        info, hashes = self._database[f"{namespace}/ref_doc_info"], self._database[f"{namespace}/metadata"]
        self._put(info, [_entry(e, node_ids=e.node_ids, metadata=e.metadata) for e in live], _of_older_revision)
        self._bulk(info, gone)
        between()
        self._put(hashes, [_entry(e, doc_hash=e.doc_hash or "") for e in live], _of_older_revision)
        self._bulk(hashes, gone)

    def get_nodes(self, namespace: str, ids: Sequence[str]) -> Iterator[Document]:
        """The existing bodies of these ids, in any order."""
        with translation():
            yield from self._data(namespace).find({"_id": {"$in": list(ids)}})

    def count_nodes(self, namespace: str) -> int:
        """Number of node bodies, including staged ones and those that are not retired yet."""
        with translation():
            return self._data(namespace).count_documents({})

    def _data(self, namespace: str) -> MongoCollection[Document]:
        return self._database[f"{namespace}/data"]

    def _put(self, collection: MongoCollection[Document], documents: Sequence[Document], older: Older) -> None:
        """Insert, then replace older documents with existing ids: an upsert costs five times as much as an insert."""
        existing = _insert(collection, documents)
        self._bulk(
            collection,
            [ReplaceOne({"_id": document["_id"]} | older(document), document, upsert=True) for document in existing],
        )

    def _bulk(self, collection: MongoCollection[Document], operations: Sequence[Any]) -> None:
        if not operations:
            return
        with translation():
            try:
                collection.bulk_write(operations, ordered=False)
            except BulkWriteError as error:
                # If only a newer stamp exists, an upsert tries to insert and meets that document.
                _raise_unless_duplicates(error)


def _body(node: Node) -> Document:
    return {
        "_id": node.node_id,
        "__data__": content_with_text(node.class_name, node.content, node.text),
        "__type__": node.type_key,
        "stamp": 0,
    }


def _entry(entry: RefDoc, **fields: Any) -> Document:
    return {"_id": entry.document_id, "stamp": entry.revision} | fields


def _of_older_revision(entry: Document) -> Document:
    return {"stamp": {"$lt": entry["stamp"]}}


def _insert(collection: MongoCollection[Document], documents: Sequence[Document]) -> list[Document]:
    """Insert; returns the documents whose ids exist already, which are not changed."""
    if not documents:
        return []
    with translation():
        try:
            collection.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            _raise_unless_duplicates(error)
            return [documents[each["index"]] for each in (error.details or {}).get("writeErrors", [])]
    return []


def _batches(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    batch: list[Node] = []
    size = 0
    for node in nodes:
        batch.append(node)
        size += _PER_NODE_BYTES + len(node.text)
        if size >= BATCH_BYTES or len(batch) == BATCH_NODES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _raise_unless_duplicates(error: BulkWriteError) -> None:
    details = error.details or {}
    others = [e for e in details.get("writeErrors", []) if e.get("code") != _DUPLICATE_KEY]
    if others or details.get("writeConcernErrors"):
        raise error
