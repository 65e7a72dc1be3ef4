"""Documents of a folder that was moved: they get ids below its new place, with their vectors, through the protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ragstore.ingest.deletion import DELETED_AT_ONCE
from ragstore.ingest.nodes import file_metadata
from ragstore.ingest.retry import retry_transient
from ragstore.model.collection import Collection
from ragstore.model.document import IN_CONTAINER, DocumentState, SourceItem
from ragstore.model.node import Node
from ragstore.model.report import MoveReport
from ragstore.model.run import PlannedRevision, new_node_id
from ragstore.postgres import documents
from ragstore.postgres.documents import KnownSource
from ragstore.postgres.live import NodeRow, nodes_of_documents, with_bodies
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Publisher
from ragstore.protocol.recover import Recoverer
from ragstore.sources.bounds import below, document_id_of, is_too_long, read_path, source_uri_of

NOT_READ = "no ingest read it from a file"
HAS_OTHER_NODES = "LlamaIndex code added nodes to it"
IS_TAKEN = "another document has the new id"
IS_TOO_LONG = "the new path is too long"

_TRIES = 3
_RELATIONS = ("2", "3")  # LlamaIndex's keys of the node before and the node after; "1" is the document


@dataclass(slots=True)
class Move:
    """Gives documents below one path ids below another one.

    Args:
        old, new: absolute paths of which neither lies in the other.
        batch_chunks: nodes that are published together, about.
    """

    pool: PostgresPool
    collection: Collection
    publisher: Publisher
    recoverer: Recoverer
    old: str
    new: str
    batch_chunks: int
    report: MoveReport = field(default_factory=MoveReport)

    def run(self) -> MoveReport:
        """Move all of them; a document that is at its new place already, with the same content, only leaves the old.

        Crash safety:
            Each batch is published as a whole, old ids out and new ids in; run again, it moves the rest.
        """
        for batch in self._batches():
            remaining = batch
            for _ in range(_TRIES):
                remaining = retry_transient(partial(self._move, remaining))
                if not remaining:
                    break
            self.report.left.add("others change it", remaining)
        quarantined = documents.find_below(self.pool, self.collection, below(self.old), quarantined=True)
        gone = [source.document_id for source in quarantined]
        retry_transient(lambda: documents.forget_quarantined(self.pool, self.collection, gone))
        retry_transient(self.recoverer.recover)
        return self.report

    def _batches(self) -> Iterator[list[str]]:
        found = find_at_or_below(self.pool, self.collection, self.old)
        for i in range(0, len(found), DELETED_AT_ONCE):
            states = self._states([source.document_id for source in found[i : i + DELETED_AT_ONCE]])
            batch: list[str] = []
            n_nodes = 0
            for document_id, state in sorted(states.items()):
                batch.append(document_id)
                n_nodes += state.n_nodes
                if n_nodes >= self.batch_chunks:
                    yield batch
                    batch, n_nodes = [], 0
            if batch:
                yield batch

    def _move(self, document_ids: Sequence[str]) -> list[str]:
        """Move these documents once; returns those that another writer changed meanwhile."""
        states = {i: state for i, state in self._states(document_ids).items() if state.live}
        targets = {i: self._target(state) for i, state in states.items()}
        at_targets = self._states([item.document_id for item in targets.values()])
        mixed = with_bodies(self.pool, self.collection, list(states))
        there, moving = [], []
        for document_id, state in states.items():
            at_target = at_targets.get(targets[document_id].document_id)
            if reason := _obstacle(state, targets[document_id], at_target, has_bodies=document_id in mixed):
                self.report.left.add(reason, [document_id])
            elif at_target is not None and at_target.live:
                there.append(document_id)
            else:
                moving.append(document_id)
        late = self._delete(there, states)
        rows = nodes_of_documents(self.pool, self.collection, moving)
        planned = {
            i: _planned(states[i], targets[i], at_targets.get(targets[i].document_id), rows.get(i, [])) for i in moving
        }
        published = set(self.publisher.publish(self.collection, list(planned.values())).published)
        self.recoverer.retire()
        for document_id, revision in planned.items():
            if revision.document_id in published:
                self.report.moved += 1
                self.report.nodes += len(revision.nodes)
            else:
                late.append(document_id)
        return late

    def _delete(self, document_ids: Sequence[str], states: dict[str, DocumentState]) -> list[str]:
        """Delete documents that are at their new place already; returns those that moved on."""
        planned_from = {i: states[i].revision for i in document_ids}
        deleted = (
            self.publisher.delete_live(self.collection, document_ids, planned_from=planned_from) if planned_from else []
        )
        self.report.already_there += len(deleted)
        return [i for i in document_ids if i not in set(deleted)]

    def _states(self, document_ids: Sequence[str]) -> dict[str, DocumentState]:
        return documents.get_documents(self.pool, self.collection, document_ids)

    def _target(self, state: DocumentState) -> SourceItem:
        path = os.fspath(read_path(state.source_uri)) if state.source_uri else state.document_id
        moved = self.new + path.removeprefix(self.old)
        # The source of a container's member is the container; its id begins with that of the container.
        of_file = document_id_of(path)
        is_member = state.document_id.startswith(f"{of_file}{IN_CONTAINER}")
        member = state.document_id.removeprefix(of_file) if is_member else ""
        return SourceItem(document_id_of(moved) + member, source_uri_of(moved), state.size or 0, state.mtime_ns)


def find_at_or_below(pool: PostgresPool, collection: Collection, path: str) -> list[KnownSource]:
    """The live document with this path, and those below it, in the order of their ids."""
    itself = documents.get_documents(pool, collection, [document_id_of(path)]).values()
    found = [KnownSource(state.document_id, state.source_uri, state.revision) for state in itself if state.live]
    return found + documents.find_below(pool, collection, below(path))


def _obstacle(
    state: DocumentState, target: SourceItem, at_target: DocumentState | None, *, has_bodies: bool
) -> str | None:
    if state.fingerprint is None:
        return NOT_READ
    if has_bodies:
        return HAS_OTHER_NODES
    if is_too_long(target.document_id):
        return IS_TOO_LONG
    is_other = at_target is not None and at_target.live and at_target.content_hash != state.content_hash
    return IS_TAKEN if is_other else None


def _planned(
    state: DocumentState, target: SourceItem, at_target: DocumentState | None, rows: Sequence[NodeRow]
) -> PlannedRevision:
    own = file_metadata(target.document_id)
    container = state.metadata.get("container")
    if isinstance(container, str) and state.document_id.startswith(f"{container}{IN_CONTAINER}"):
        own["container"] = target.document_id.removesuffix(state.document_id.removeprefix(container))
    new_ids = {row.node.node_id: new_node_id() for row in rows}
    return PlannedRevision(
        document_id=target.document_id,
        source_uri=target.source_uri,
        planned_from=at_target.revision if at_target else 0,
        action="renamed",
        nodes=[_moved(row.node, target.document_id, own, dict(new_ids)) for row in rows],
        vectors=np.stack([row.vector for row in rows]) if rows else np.empty((0, 1), dtype=np.float32),
        fingerprint=state.fingerprint,
        content_hash=state.content_hash,
        doc_hash=state.doc_hash,
        size=state.size,
        mtime_ns=state.mtime_ns,
        etag=state.etag,
        metadata=state.metadata | own,
        replaces=(state.document_id, state.revision),
        ctime_ns=state.ctime_ns,
        notes=state.notes,
    )


def _moved(node: Node, document_id: str, own: dict[str, Any], new_ids: dict[str, str]) -> Node:
    metadata = node.metadata | own
    relationships = dict(node.content.get("relationships") or {})
    for kind, related in relationships.items():
        if kind == "1":
            relationships[kind] = related | {"node_id": document_id}
        elif kind in _RELATIONS:
            relationships[kind] = related | {"node_id": new_ids.get(related["node_id"], related["node_id"])}
    node_id = new_ids[node.node_id]
    content = node.content | {"id_": node_id, "metadata": metadata, "relationships": relationships}
    return replace(node, node_id=node_id, document_id=document_id, metadata=metadata, content=content)
