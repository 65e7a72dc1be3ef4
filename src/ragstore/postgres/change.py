"""The transaction of a change: every write to nodes and documents is made of these steps, by whichever writer.

A change locks the documents concerned, in the order of their ids, before it takes a stamp. So of two writes of one node
id, the one that commits later has the larger stamp. Readers see all steps of a change or none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from ragstore.model.collection import Collection
from ragstore.model.document import check_entry_size
from ragstore.model.node import LiveNode, Node, content_with_text
from ragstore.model.run import PlannedRevision, Run
from ragstore.postgres import copy, node_statements, statements
from ragstore.postgres.collections import hold
from ragstore.postgres.copy import pgvector_metadata
from ragstore.postgres.names import array, quoted_table
from ragstore.postgres.outbox import live_nodes
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import Rows

_IDS_PER_ITEM = 2_048
"""Most ids of one outbox row, which are read and written at once; LlamaIndex adds this many nodes in one call."""

_ENTRY_ALWAYS_FITS = 1_000
"""Nodes of a document that one entry of MongoDB can always name, however long their ids are."""

_LOCK_SPACE = 0x5241_474E  # "RAGN": nodes without a document

_PARAMETER = re.compile(r"%\((\w+)\)s")

Noted = tuple[str, str, int, str | None]
"""A line of the audit trail: document id, action, number of new vectors, detail as JSON."""


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """A document that gets nodes.

    Args:
        replace_existing: its former content is replaced, so its hash and what an ingest knew of it are removed.
        source_hash: of the version that the nodes were cut from; if the document has another hash, that is removed.
        metadata: the ``RefDocInfo.metadata`` of the document.
    """

    document_id: str
    source_uri: str
    replace_existing: bool
    source_hash: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeLocation:
    """The document of a live node, and whether it is in the vector table."""

    document_id: str | None
    has_vector: bool


@dataclass(frozen=True, slots=True)
class LockedDocument:
    """The ledger's row of a locked document."""

    revision: int
    live: bool
    doc_hash: str | None


class Change:
    """The steps of one transaction; lock first.

    A step without a result waits, and is sent in one message with the next step that has one, or at the end.

    Args:
        run: names the change in the audit trail and in the outbox.

    Attributes:
        outbox_ids: outbox rows that ``queue`` has added so far.
        transaction: the transaction's id, set when something is queued.
    """

    def __init__(self, cursor: Cursor, collection: Collection, run: Run) -> None:
        self._cursor = cursor
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self.collection = collection
        self.run = run
        self.outbox_ids: list[int] = []
        self.transaction = ""

    @property
    def cursor(self) -> Cursor:
        """For other statements of this transaction, after all steps so far."""
        self.send()
        return self._cursor

    # Locks

    def lock_documents(self, document_ids: Iterable[str]) -> dict[str, int]:
        """Lock these documents in order, new ones included; returns their present revisions."""
        ids = array(sorted(set(document_ids)))
        return dict(self._fetch(statements.LOCK_DOCUMENTS, document_ids=ids))

    def lock_live(self, document_ids: Iterable[str]) -> dict[str, int]:
        """Lock the live ones among these documents in order; returns their present revisions."""
        ids = array(sorted(set(document_ids)))
        return dict(self._fetch(statements.LOCK_LIVE_DOCUMENTS, document_ids=ids))

    def lock_nodes(
        self, document_ids: Iterable[str], node_ids: Sequence[str], *, lock_sourceless: bool = False
    ) -> dict[str, NodeLocation]:
        """Lock these documents and the documents of these nodes; returns the locations of the nodes.

        Documents that the ledger does not have get a row first.

        Args:
            lock_sourceless: also take the lock that serialises writers of nodes without a document.
        """
        locked: set[str] = set()
        wanted = set(document_ids)
        sourceless_locked = False
        while True:
            rows = self._fetch(node_statements.PLACES, node_ids=array(node_ids))
            locations = {node_id: NodeLocation(*location) for node_id, *location in rows}
            lock_sourceless = lock_sourceless or any(location.document_id is None for location in locations.values())
            missing = wanted.union(p.document_id for p in locations.values() if p.document_id is not None) - locked
            if not missing and lock_sourceless == sourceless_locked:
                return locations
            # Before the documents, so that all writers take these locks in one order.
            if lock_sourceless and not sourceless_locked:
                self._run(node_statements.LOCK_NODES_WITHOUT_DOCUMENT, space=_LOCK_SPACE)
                sourceless_locked = True
            if missing:
                self.lock_documents(missing)
                locked |= missing

    # What is locked

    def states(self, document_ids: Iterable[str]) -> dict[str, LockedDocument]:
        """State of each of these documents that the ledger has."""
        ids = list(document_ids)
        rows = self._fetch(node_statements.STATES, document_ids=array(ids)) if ids else []
        return {document_id: LockedDocument(*state) for document_id, *state in rows}

    def live_nodes(self, node_ids: Sequence[str]) -> dict[str, LiveNode]:
        """The live ones among these nodes, by id."""
        return {node.node_id: node for node in live_nodes(self.cursor, self.collection, node_ids)}

    def without_vectors(self, document_ids: Sequence[str]) -> list[str]:
        """The ones among these documents that have no node with a vector."""
        return self._ids(node_statements.WITHOUT_VECTORS, document_ids=array(document_ids))

    def all_documents(self) -> list[str]:
        """Ids of live documents."""
        return self._ids(node_statements.ALL_DOCUMENTS)

    def all_nodes_without_document(self) -> list[str]:
        return self._ids(node_statements.ALL_NODES_WITHOUT_DOCUMENT)

    # Nodes

    def retire_nodes(self, document_ids: Sequence[str], *, grace_s: float) -> None:
        """Delete the live nodes of these documents and queue them for deletion from MongoDB."""
        self._run(statements.RETIRE_NODES, document_ids=array(document_ids), grace_s=grace_s)

    def copy_rows(self, rows: Sequence[bytes]) -> None:
        """COPY rows that ``copy.encode_rows`` made into the vector table."""
        stream = io.BytesIO(b"".join([copy.HEADER, *rows, copy.TRAILER]))
        columns = ", ".join(copy.COLUMNS)
        self.cursor.copy_expert(
            f"COPY {quoted_table(self.collection)} ({columns}) FROM STDIN (FORMAT binary)", stream, size=1 << 18
        )

    def put_bodies(self, nodes: Sequence[Node]) -> None:
        """Insert nodes without a vector; none of these ids may be live."""
        self._run(
            node_statements.PUT_BODIES,
            node_id=array([n.node_id for n in nodes]),
            document_id=array([n.document_id for n in nodes]),
            type_key=array([n.type_key for n in nodes]),
            content=array([orjson.dumps(content_with_text(n.class_name, n.content, n.text)).decode() for n in nodes]),
        )

    def update_rows(self, nodes: Sequence[Node]) -> None:
        """Change text and content of nodes that have a vector; the vector stays."""
        self._run(
            node_statements.UPDATE_ROWS,
            node_id=array([n.node_id for n in nodes]),
            text=array([n.text for n in nodes]),
            metadata_=array([pgvector_metadata(n).decode() for n in nodes]),
            user_metadata=array([orjson.dumps(n.metadata).decode() for n in nodes]),
            document_id=array([n.document_id for n in nodes]),
        )

    def delete_nodes(self, node_ids: Sequence[str]) -> list[str]:
        """Delete these nodes, with a vector or without; returns the ids of those that were live."""
        return self._ids(node_statements.DELETE_NODES, node_ids=array(node_ids))

    def delete_nodes_of(self, document_ids: Iterable[str]) -> list[str]:
        """Delete all nodes of these documents; returns their ids."""
        return self._ids(node_statements.DELETE_NODES_OF_DOCUMENTS, document_ids=array(document_ids))

    def delete_other_vectors(self, document_ids: Sequence[str], keep: Sequence[str]) -> list[str]:
        """Delete these documents' nodes with a vector except the ones to keep; returns the deleted ids."""
        statement = node_statements.DELETE_OTHER_VECTORS
        return self._ids(statement, document_ids=array(document_ids), keep=array(keep))

    def delete_other_versions(self, hashes: Mapping[str, str]) -> list[str]:
        """Delete nodes with a vector that name another version of their document as source; returns their ids."""
        statement = node_statements.DELETE_OTHER_VERSIONS
        return self._ids(statement, document_id=array(hashes), doc_hash=array(hashes.values()))

    def delete_other_bodies(self, document_ids: Sequence[str], keep: Sequence[str]) -> list[str]:
        """As ``delete_other_vectors``, for nodes without a vector; a document's own node stays."""
        statement = node_statements.DELETE_OTHER_BODIES
        return self._ids(statement, document_ids=array(document_ids), keep=array(keep))

    def delete_own_bodies(self, document_ids: Sequence[str]) -> list[str]:
        """Delete the bodies that are these documents themselves; returns their ids."""
        return self._ids(node_statements.DELETE_OWN_BODIES, document_ids=array(document_ids))

    # Documents

    def publish_documents(self, revisions: Sequence[PlannedRevision]) -> None:
        """Move these documents to the next revision, of which all is known."""
        self._run(
            statements.PUBLISH_DOCUMENTS,
            document_id=array([r.document_id for r in revisions]),
            source_uri=array([r.source_uri for r in revisions]),
            n_nodes=array([len(r.nodes) for r in revisions]),
            fingerprint=array([r.fingerprint for r in revisions]),
            content_hash=array([r.content_hash for r in revisions]),
            doc_hash=array([r.doc_hash for r in revisions]),
            size=array([r.size for r in revisions]),
            mtime_ns=array([r.mtime_ns for r in revisions]),
            etag=array([r.etag for r in revisions]),
            metadata=array([orjson.dumps(r.metadata).decode() for r in revisions]),
            ctime_ns=array([r.ctime_ns for r in revisions]),
            notes=array([orjson.dumps(r.notes).decode() for r in revisions]),
        )

    def put_documents(self, documents: Sequence[WrittenDocument]) -> None:
        """Move documents that got nodes to their next revision.

        Raises:
            LimitExceededError: a document has more nodes than one entry of MongoDB can name.
        """
        if not documents:
            return
        rows = self._fetch(
            node_statements.PUT_DOCUMENTS,
            document_id=array([d.document_id for d in documents]),
            source_uri=array([d.source_uri for d in documents]),
            metadata=array([orjson.dumps(d.metadata).decode() for d in documents]),
            anew=array([d.replace_existing for d in documents]),
            source_hash=array([d.source_hash for d in documents]),
        )
        large = array([document_id for document_id, n_nodes in rows if n_nodes > _ENTRY_ALWAYS_FITS])
        if large != "{}":
            for document_id, size in self._fetch(node_statements.ENTRY_SIZES, document_ids=large):
                check_entry_size(document_id, int(size))

    def recount_documents(self, document_ids: Iterable[str]) -> dict[str, bool]:
        """Count the nodes of live documents that lost some, delete empty ones; returns by id whether it was deleted."""
        ids = array(sorted(document_ids))
        return dict(self._fetch(node_statements.RECOUNT_DOCUMENTS, document_ids=ids))

    def set_hashes(self, hashes: Mapping[str, str]) -> None:
        """Set the hash of complete documents, which moves them to their next revision."""
        self._run(node_statements.SET_HASHES, document_id=array(hashes), doc_hash=array(hashes.values()))

    def mark_deleted(self, document_ids: Iterable[str]) -> None:
        self._run(statements.MARK_DELETED, document_ids=array(document_ids))

    def clear_quarantine(self, document_ids: Iterable[str]) -> None:
        self._run(statements.CLEAR_QUARANTINE, document_ids=array(document_ids))

    def add_events(self, events: Sequence[Noted]) -> None:
        """Append to the audit trail."""
        if events:
            self._run(
                statements.ADD_EVENTS,
                worker=self.run.worker,
                document_id=array([e[0] for e in events]),
                action=array([e[1] for e in events]),
                n_embedded=array([e[2] for e in events]),
                detail=array([e[3] for e in events]),
            )

    # What MongoDB must get

    def queue(self, *, put: Iterable[str] = (), delete: Iterable[str] = (), ref_docs: Iterable[str] = ()) -> None:
        """Add outbox rows that this process carries out as soon as the change is committed."""
        rows: list[str] = []
        values: dict[str, str] = {}
        for action, ids in (("put_nodes", put), ("delete_nodes", delete), ("put_ref_docs", ref_docs)):
            listed = sorted(set(ids))
            for i in range(0, len(listed), _IDS_PER_ITEM):
                n = len(rows)
                rows.append(node_statements.QUEUED.replace("action", f"action_{n}").replace("ids", f"ids_{n}"))
                values |= {f"action_{n}": action, f"ids_{n}": array(listed[i : i + _IDS_PER_ITEM])}
        if rows:
            queued = self._fetch(node_statements.QUEUE.replace("{rows}", ", ".join(rows)), **values)
            self.outbox_ids += [outbox_id for outbox_id, _ in queued]
            self.transaction = queued[0][1]

    def queue_ref_docs(self, document_ids: Iterable[str]) -> None:
        """Queue the update of MongoDB's entries of these documents, for whoever retires next."""
        self._run(statements.QUEUE_REF_DOCS, ids=array(document_ids))

    def queue_garbage(self, node_ids: Iterable[str], *, grace_s: float = 0.0) -> None:
        """Queue staged nodes that will not be published for deletion from MongoDB."""
        self._run(statements.QUEUE_GARBAGE, ids=array(node_ids), grace_s=grace_s)

    def send(self) -> None:
        """Send the steps that wait."""
        if self._waiting:
            texts, values = zip(*self._waiting, strict=True)
            self._waiting = []
            self._cursor.execute(";".join(texts), {name: value for each in values for name, value in each.items()})

    def _run(self, statement: str, **parameters: Any) -> None:
        parameters |= {
            "collection_id": self.collection.collection_id,
            "name": self.collection.name,
            "run_id": self.run.run_id,
        }
        n = len(self._waiting)
        text = _PARAMETER.sub(rf"%(\1__{n})s", statement.replace("{table}", quoted_table(self.collection)))
        self._waiting.append((text, {f"{name}__{n}": value for name, value in parameters.items()}))

    def _fetch(self, statement: str, **parameters: Any) -> Rows:
        self._run(statement, **parameters)
        self.send()
        return self._cursor.fetchall() if self._cursor.description else []

    def _ids(self, statement: str, **parameters: Any) -> list[str]:
        return [row[0] for row in self._fetch(statement, **parameters)]


@contextmanager
def changing(pool: PostgresPool, collection: Collection, run: Run) -> Iterator[Change]:
    """The transaction of a change that stages nothing, committed at the end of the block.

    Raises:
        CollectionNotFoundError: the collection was dropped.
    """
    with pool.transaction() as cursor:
        hold(cursor, collection)
        change = Change(cursor, collection, run)
        yield change
        change.send()
