"""Outbox of changes that MongoDB must still get, and the ledger's state of the documents and nodes in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orjson import loads

from ragstore.model.collection import Collection
from ragstore.model.epoch import Mark, StorePosition
from ragstore.model.node import TYPE_KEYS, LiveNode, Struct, content_with_text
from ragstore.model.run import OutboxItem, RefDoc, Written
from ragstore.postgres import epoch, statements
from ragstore.postgres.collections import hold_named
from ragstore.postgres.names import array
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import fetch, fetch_ids

_ONCE = 1


class TakenOutbox:
    """Outbox rows that this transaction has locked, so that no other process works on them.

    State is read from the collection that has the item's name now, because its nodes are in the namespace. The item
    may be of a dropped collection with the same name.
    """

    def __init__(self, cursor: Cursor, rows: Sequence[tuple[Any, ...]]) -> None:
        self._cursor = cursor
        self._held: dict[str, Collection] = {}
        self.items = [OutboxItem(*row[:7]) for row in rows]
        self.position = StorePosition(rows[0][7], Mark(rows[0][8], rows[0][9])) if rows else StorePosition()
        """Position of PostgreSQL before these rows were taken."""
        self.mark = max((Mark(item.outbox_id, item.token) for item in self.items), default=Mark())

    def knows(self, mark: Mark) -> bool:
        """Whether PostgreSQL has the outbox row of this mark, or has noted it or a later one."""
        return epoch.knows(self._cursor, mark)

    def ref_docs(self, item: OutboxItem) -> list[RefDoc]:
        """The ledger's present state of the documents of a ``put_ref_docs`` item."""
        collection = self._hold(item)
        if collection is None:
            return [RefDoc(document_id, revision, None) for document_id, revision in self.revisions(item).items()]
        return ref_docs(self._cursor, collection, item.ids)

    def revisions(self, item: OutboxItem) -> dict[str, int]:
        """Present revisions of these documents, by id; ``ref_docs`` of a document changes only with its revision."""
        collection = self._hold(item)
        if collection is None:
            # The last revision, not a later one: a new collection of this name may soon have that.
            return dict(fetch(self._cursor, statements.LAST_REVISIONS, name=item.namespace, ids=array(item.ids)))
        return dict(fetch(self._cursor, statements.REVISIONS, collection, ids=array(item.ids)))

    def garbage(self, item: OutboxItem) -> list[str]:
        """The node ids of a ``delete_nodes`` item that are not live."""
        collection = self._hold(item)
        if collection is None:
            return item.ids
        live = set(fetch_ids(self._cursor, statements.LIVE_NODE_IDS, collection, ids=array(item.ids)))
        return [node_id for node_id in item.ids if node_id not in live]

    def structs(self, item: OutboxItem) -> list[tuple[str, Struct]]:
        """Index structs of a put that PostgreSQL still has, each with the name of its collection."""
        rows = fetch(self._cursor, statements.STRUCTS, ids=array(item.ids))
        return [(name, Struct(*values)) for name, *values in rows]

    def live_nodes(self, item: OutboxItem, written: Written | None = None) -> list[LiveNode]:
        """The live nodes of a ``put_nodes`` item, in their present state.

        Args:
            written: nodes of a transaction; rows that it wrote last are not read again.
        """
        collection = self._hold(item)
        if collection is None:
            return []
        unchanged = _unchanged(self._cursor, collection, item.ids, written) if written is not None else []
        known = {node.node_id for node in unchanged}
        others = [node_id for node_id in item.ids if node_id not in known]
        return unchanged + (live_nodes(self._cursor, collection, others) if others else [])

    def _hold(self, item: OutboxItem) -> Collection | None:
        """The collection with the item's name; held, so that it cannot be dropped. A missing one is looked up again."""
        if item.namespace not in self._held:
            found = hold_named(self._cursor, item.namespace)
            if found is None:
                return None
            self._held[item.namespace] = found
        return self._held[item.namespace]

    def done(self, items: Sequence[OutboxItem], *, grace_s: float) -> None:
        """Delete these rows with the end of the transaction, and note their mark.

        Args:
            grace_s: seconds after which puts that another process tried before are checked again, because its commands
                may arrive late; 0 for never.
        """
        own = {
            "outbox_ids": [item.outbox_id for item in items],
            "mark": self.mark.number,
            "token": self.mark.token,
            "grace_s": grace_s,
        }
        if grace_s and any(item.is_put and item.stamp > _ONCE for item in items):
            self._cursor.execute(statements.QUEUE_SWEEPS, own)
        self._cursor.execute(statements.DELETE_OUTBOX, own)


def tried(pool: PostgresPool, *, limit: int) -> list[int]:
    """Ids of due rows, oldest first; one more attempt is noted in each."""
    return [row[0] for row in fetch(pool, statements.TRY_OUTBOX, limit=limit)]


@contextmanager
def taken(pool: PostgresPool, outbox_ids: Sequence[int]) -> Iterator[TakenOutbox]:
    """Lock the ones among these rows that are free; they are due again if the block raises or the process dies."""
    with pool.transaction() as cursor:
        yield TakenOutbox(cursor, fetch(cursor, statements.TAKE_OUTBOX, outbox_ids=list(outbox_ids)))


@contextmanager
def taken_rows(pool: PostgresPool, outbox_ids: Sequence[int]) -> Iterator[TakenOutbox]:
    """Lock these rows, and wait for a process that has them; rows that it completed are not among the items."""
    with pool.transaction() as cursor:
        yield TakenOutbox(cursor, fetch(cursor, statements.TAKE_OUTBOX_ROWS, outbox_ids=list(outbox_ids)))


def ref_docs(cursor: Cursor, collection: Collection, document_ids: Sequence[str]) -> list[RefDoc]:
    """The ledger's state of documents: revision, node ids in order, hash and metadata."""
    rows = fetch(cursor, statements.REF_DOCS, collection, document_ids=array(document_ids))
    return [
        RefDoc(document_id, revision, node_ids if live else None, doc_hash, metadata)
        for document_id, revision, live, node_ids, doc_hash, metadata in rows
    ]


def live_nodes(cursor: Cursor, collection: Collection, ids: Sequence[str]) -> list[LiveNode]:
    """The live ones among these nodes, with a vector or without, in any order."""
    named = array(ids)
    nodes = [
        LiveNode(node_id, stamp, _type_key(class_name), content_with_text(class_name, loads(content), text))
        for node_id, stamp, class_name, content, text in fetch(cursor, statements.LIVE_NODES, collection, ids=named)
    ]
    return nodes + [LiveNode(*row) for row in fetch(cursor, statements.LIVE_BODIES, collection, ids=named)]


def _unchanged(cursor: Cursor, collection: Collection, ids: Sequence[str], written: Written) -> list[LiveNode]:
    parameters = {"ids": array(ids), "transaction": written.transaction}
    rows = fetch(cursor, statements.STAMPS_OF_TRANSACTION, collection, **parameters)
    stamps = [(written.nodes[node_id], stamp) for node_id, stamp in rows if node_id in written.nodes]
    return [
        LiveNode(n.node_id, stamp, _type_key(n.class_name), content_with_text(n.class_name, n.content, n.text))
        for n, stamp in stamps
    ]


def _type_key(class_name: str) -> str:
    return TYPE_KEYS.get(class_name, "1")
