"""Writes of a repair: each replaces or deletes a document only in the state in which it was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo import DeleteOne, ReplaceOne

from ragstore.model.node import LiveNode
from ragstore.model.run import RefDoc
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation
from ragstore.mongo.scan import Entries

_AT_ONCE = 500


def replace_bodies(database: MongoDatabase, namespace: str, nodes: Iterable[tuple[LiveNode, Any]]) -> None:
    """Replace bodies that still have this stamp by live nodes.

    Crash safety:
        Each is replaced atomically or not at all; a body that another writer changed in between stays as it is.
    """
    _write(
        database,
        f"{namespace}/data",
        [ReplaceOne({"_id": node.node_id, "stamp": stamp}, _body(node)) for node, stamp in nodes],
    )


def replace_entries(
    database: MongoDatabase, namespace: str, kind: Entries, found: Sequence[tuple[Document, RefDoc]]
) -> None:
    """Replace entries that are still as they were found by the ledger's state.

    Crash safety:
        As ``replace_bodies``.
    """
    _write(
        database,
        f"{namespace}/{kind}",
        [DeleteOne(old) if new.node_ids is None else ReplaceOne(old, _entry(kind, new)) for old, new in found],
    )


def replace_struct(database: MongoDatabase, found: Document, new: Document) -> None:
    """Replace a struct that is still as it was found.

    Crash safety:
        As ``replace_bodies``.
    """
    _write(database, "index_store/data", [ReplaceOne(found, new)])


def delete_stamped(database: MongoDatabase, place: str, stamps: Mapping[str, int]) -> None:
    """Delete documents that still have this stamp.

    Crash safety:
        As ``replace_bodies``.
    """
    _write(database, place, [DeleteOne({"_id": i, "stamp": stamp}) for i, stamp in stamps.items()])


def _body(node: LiveNode) -> Document:
    return {"_id": node.node_id, "__data__": node.content, "__type__": node.type_key, "stamp": node.stamp}


def _entry(kind: Entries, doc: RefDoc) -> Document:
    own = {"_id": doc.document_id, "stamp": doc.revision}
    if kind == "metadata":
        return own | {"doc_hash": doc.doc_hash or ""}
    return own | {"node_ids": doc.node_ids, "metadata": doc.metadata}


def _write(database: MongoDatabase, name: str, operations: list[Any]) -> None:
    with translation():
        for i in range(0, len(operations), _AT_ONCE):
            database[name].bulk_write(operations[i : i + _AT_ONCE], ordered=False)
