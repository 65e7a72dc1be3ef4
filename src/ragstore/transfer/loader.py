"""Loader of plain LlamaIndex nodes into a collection; nodes that exist already and are equal are skipped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ragstore.errors import LimitExceededError
from ragstore.model.collection import Collection
from ragstore.model.document import DocumentState
from ragstore.model.node import Node, content_with_text
from ragstore.model.report import LeftBehind, Listener, Noted, Progress, TransferReport
from ragstore.model.run import Vectors
from ragstore.postgres import live
from ragstore.postgres.documents import get_documents
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.vectors import LONGEST, SHORTEST, as_stored, refresh_statistics, unholdable
from ragstore.protocol.completion import Completion
from ragstore.protocol.direct import DirectWriter
from ragstore.protocol.indexing import Indexer
from ragstore.protocol.structs import StructWriter
from ragstore.transfer.nodes import source_hash
from ragstore.transfer.spill import Spill

NODES_AT_ONCE = 1_000
CHARS_AT_ONCE = 16_000_000
"""Most characters of one batch, so that large nodes make small batches."""

_DOCUMENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ImportContext:
    """The collection to import into, and the parts that write to it.

    Args:
        collection: makes the collection for vectors of this length, or finds it; the length is None without vectors.
        preview: the same for a dry run: None for a collection that would be made.
        structs: returns the writer of a collection's index structs.
    """

    pool: PostgresPool
    writer: DirectWriter
    collection: Callable[[int | None], Collection]
    preview: Callable[[int | None], Collection | None]
    structs: Callable[[Collection], StructWriter]
    indexer: Indexer


def usable(vector: np.ndarray[Any, np.dtype[Any]]) -> Vectors | None:
    """The vector in float32; None if a query could not compare it: it is not finite, or its norm is out of range."""
    with np.errstate(over="ignore"):
        floats = vector.astype(np.float32)
    norm = float(np.linalg.norm(floats.astype(np.float64)))
    return floats if np.isfinite(norm) and SHORTEST <= norm <= LONGEST else None


class Loader:
    """Writes batches of nodes to one collection, and marks their documents as complete.

    Args:
        dry_run: count what would be written, and write nothing.
    """

    def __init__(
        self,
        into: ImportContext,
        collection: Collection,
        spill: Spill,
        tell: Listener | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        self.report = TransferReport()
        self.collection = collection
        self.dry_run = dry_run
        self._into = into
        self._spill = spill
        self._tell = tell
        self._begun = time.monotonic()

    def put(self, nodes: Sequence[Node], vectors: Mapping[str, Vectors | None], *, expected: int | None = None) -> None:
        """Write nodes that do not exist yet.

        Args:
            vectors: by node id; None for an unusable vector, whose node then goes only to the document store.
            expected: total number of nodes that will come, for the progress.

        Crash safety:
            Each batch is in both stores when it returns. If it is run again, it finds these nodes and continues.
        """
        # If a node is twice in a batch, the last one counts, as in LlamaIndex.
        nodes = list({node.node_id: node for node in nodes}.values())
        self._spill.see([node.node_id for node in nodes])
        good = self._holdable(vectors)
        embedded = self._numbered([node for node in nodes if node.node_id in good])
        bodies = [_with_document(node) for node in nodes if node.node_id not in good]
        self._spill.count_vectors({_owner(node): 0 for node in bodies if node.document_id is not None})
        self._spill.mark_broken(_owner(n) for n in bodies if n.node_id in vectors and n.document_id is not None)
        self._note_bodies([node for node in bodies if node.node_id not in vectors])
        new = self._of_this_version(self._not_there(embedded, good) + self._bodies_not_there(bodies))
        self._write([node for node in new if node.node_id in good], good)
        self._write_bodies([node for node in new if node.node_id not in good])
        self.tell("nodes", self.report.nodes + self.report.skipped, expected)

    def leave_behind(self, node_id: str, why: str, document_id: str | None = None) -> None:
        """Report a node that cannot be imported; its document is then not complete."""
        self.report.left_behind.add(LeftBehind.INVALID_NODES, [f"{node_id}: {why}"])
        self._spill.see([node_id])
        self._spill.mark_broken([document_id] if document_id else [])

    def report_vectors(self) -> None:
        """Report vectors in the spill that no node was joined to, and those that cannot be compared."""
        left, dim = self.report.left_behind, self.collection.space.dim
        left.add(LeftBehind.VECTORS_WITHOUT_NODE, self._spill.vectors_without_node())
        left.add(
            LeftBehind.UNUSABLE_VECTORS,
            (
                f"{node_id}: {f'{n} dimensions, not {dim}' if n else 'not finite, or of no length'}"
                for node_id, n in self._spill.unusable_vectors(dim)
            ),
        )

    def finish(self) -> TransferReport:
        """Mark the complete documents, index the collection, and return the report.

        Crash safety:
            A document gets its hash only when all its nodes are in both stores: until then a refresh by LlamaIndex code
            adds it again.
        """
        spill, report = self._spill, self.report
        for batch in spill.whole_documents(_DOCUMENTS_AT_ONCE) if not self.dry_run else ():
            self._close(batch)
        report.left_behind.add(LeftBehind.CHANGED_DOCUMENTS, spill.other_versions())
        report.noted.add(Noted.HASHES_WITHOUT_NODES, spill.hashes_without_nodes())
        report.documents = spill.n_written()
        if report.nodes and not self.dry_run:
            self.tell("index", 0, None)
            refresh_statistics(self._into.pool, self.collection)
            self._into.indexer.finish(self.collection)
        report.seconds = time.monotonic() - self._begun
        return report

    def tell(self, step: str, done: int, expected: int | None) -> None:
        """Report progress, if there is a listener."""
        if self._tell is not None:
            self._tell(Progress(step, done, expected, time.monotonic() - self._begun))

    def _holdable(self, vectors: Mapping[str, Vectors | None]) -> dict[str, Vectors]:
        """The vectors that the collection can store; the others are reported."""
        good = {node_id: vector for node_id, vector in vectors.items() if vector is not None}
        bad = [i for i, vector in good.items() if unholdable(self.collection, vector[np.newaxis]) is not None]
        why = "its values are too large, or all too small, for the type in which the collection stores them"
        self.report.left_behind.add(LeftBehind.UNUSABLE_VECTORS, [f"{node_id}: {why}" for node_id in bad])
        return {node_id: vector for node_id, vector in good.items() if node_id not in set(bad)}

    def _numbered(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes with their positions in their documents."""
        before = self._spill.count_vectors(Counter(_owner(n) for n in nodes if n.document_id is not None))
        numbers: Counter[str] = Counter(before)
        numbered = []
        for node in nodes:
            if node.document_id is not None:
                numbered.append(replace(node, ordinal=numbers[node.document_id]))
                numbers[node.document_id] += 1
            else:
                numbered.append(node)
        return numbered

    def _note_bodies(self, nodes: Sequence[Node]) -> None:
        # A document's own text is not embedded; its chunks are.
        parts = [node.node_id for node in nodes if node.document_id != node.node_id]
        self.report.noted.add(Noted.NODES_WITHOUT_VECTOR, parts)

    def _not_there(self, nodes: Sequence[Node], vectors: Mapping[str, Vectors]) -> list[Node]:
        query = live.NodeQuery(node_ids=[node.node_id for node in nodes])
        found = live.find_nodes(self._into.pool, self.collection, query, with_embeddings=True) if nodes else []
        existing = {node.node_id: (node.type_key, node.content, vector) for node, vector in found}
        new = []
        for node in nodes:
            type_key, content, vector = existing.get(node.node_id, ("", {}, None))
            is_same = type_key == node.type_key and content == _whole(node)
            expected = as_stored(self.collection, vectors[node.node_id])
            if not (is_same and vector is not None and np.array_equal(vector, expected)):
                new.append(node)
        self.report.skipped += len(nodes) - len(new)
        return new

    def _bodies_not_there(self, nodes: Sequence[Node]) -> list[Node]:
        found = live.live_nodes(self._into.pool, self.collection, [n.node_id for n in nodes]) if nodes else []
        existing = {node.node_id: (node.type_key, node.content) for node in found}
        new = [node for node in nodes if existing.get(node.node_id) != (node.type_key, _whole(node))]
        self.report.skipped += len(nodes) - len(new)
        return new

    def _of_this_version(self, nodes: Sequence[Node]) -> list[Node]:
        """These nodes, without documents of which the collection has another version: that is newer work and stays."""
        documents = {node.document_id: node for node in nodes if node.document_id is not None}
        states = get_documents(self._into.pool, self.collection, list(documents)) if documents else {}
        hashes = self._spill.hashes(list(states)) if states else {}
        others = {
            document_id
            for document_id, state in states.items()
            if _is_another(state, hashes.get(document_id) or source_hash(documents[document_id]))
        }
        self._spill.mark_another(others)
        return [node for node in nodes if node.document_id not in others]

    def _write(self, nodes: Sequence[Node], vectors: Mapping[str, Vectors]) -> None:
        def add(nodes: Sequence[Node]) -> None:
            self._into.writer.add(self.collection, nodes, np.stack([vectors[node.node_id] for node in nodes]))

        self._write_what_fits(nodes, add)

    def _write_bodies(self, nodes: Sequence[Node]) -> None:
        self._write_what_fits(nodes, lambda nodes: self._into.writer.add_bodies(self.collection, nodes))

    def _write_what_fits(self, nodes: Sequence[Node], write: Callable[[Sequence[Node]], None]) -> None:
        """Write nodes; a document with more nodes than one entry of MongoDB can name is left behind."""
        while nodes:
            try:
                if not self.dry_run:
                    write(nodes)
            except LimitExceededError as error:
                too_large = [node for node in nodes if node.document_id == error.facts.get("document_id")]
                if not too_large:
                    raise
                for node in too_large:
                    self.leave_behind(node.node_id, error.message, node.document_id)
                nodes = [node for node in nodes if node.document_id != error.facts.get("document_id")]
            else:
                self.report.nodes += len(nodes)
                self._spill.mark_written({_owner(node) for node in nodes if node.document_id is not None})
                return

    def _close(self, documents: Sequence[tuple[str, str, int]]) -> None:
        states = get_documents(self._into.pool, self.collection, [document_id for document_id, _, _ in documents])
        completions, others = [], []
        for document_id, doc_hash, n_vectors in documents:
            state = states.get(document_id)
            if state is None or not state.live or state.n_nodes != n_vectors:
                # It also has nodes of another origin: the hash would say that all are of this version.
                others.append(document_id)
            elif state.doc_hash != doc_hash:
                completions.append(Completion(document_id, doc_hash))
        self._into.writer.mark_complete(self.collection, completions)
        self._spill.mark_written([completion.document_id for completion in completions])
        self.report.noted.add(Noted.HASHES_NOT_TAKEN, others)


def _is_another(state: DocumentState, doc_hash: str | None) -> bool:
    if not state.live:
        return False
    return state.fingerprint is not None or (state.doc_hash is not None and state.doc_hash != doc_hash)


def _with_document(node: Node) -> Node:
    """The node; without a source it is a document of its own, as in LlamaIndex's document stores."""
    return node if node.document_id is not None else replace(node, document_id=node.node_id)


def _owner(node: Node) -> str:
    return node.document_id or node.node_id


def _whole(node: Node) -> dict[str, object]:
    return content_with_text(node.class_name, node.content, node.text)
