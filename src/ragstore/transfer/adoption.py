"""Adopt: import of a plain PGVectorStore and a plain MongoDocumentStore into a collection."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ragstore.errors import InvalidNodeError
from ragstore.model.node import Node
from ragstore.model.report import MAX_EXAMPLES, LeftBehind, Listener, Noted, TransferReport
from ragstore.model.run import Vectors
from ragstore.model.storable import storable_text
from ragstore.mongo.plain_docstore import PlainDocstore
from ragstore.postgres.plain_table import PlainRow, PlainTable
from ragstore.transfer.loader import ImportContext, Loader, usable
from ragstore.transfer.nodes import node_of_body, node_of_row
from ragstore.transfer.spill import Spill


def adopt(
    table: PlainTable, docstore: PlainDocstore | None, into: ImportContext, tell: Listener | None = None
) -> TransferReport:
    """Import nodes and vectors of the table, and hashes and further nodes of the document store, into a collection.

    Raises:
        EmbeddingSpaceError: the collection has another vector length or model; nothing was written.

    Crash safety:
        Run again, it finds the written nodes and continues; nothing is doubled. The plain stores are only read.
    """
    begun = time.monotonic()
    with Spill() as spill:
        for page in docstore.hashes() if docstore is not None else ():
            hashes = {storable_text(each["_id"]): each.get("doc_hash") for each in page}
            spill.put_hashes({i: storable_text(h) for i, h in hashes.items() if isinstance(h, str) and h})
        loader = Loader(into, into.collection(table.dim()), spill, tell)
        n_rows, n_nodes = table.n_rows()
        expected = n_nodes if docstore is None else None
        for rows in table.batches():
            loader.put(*_taken(rows, loader), expected=expected)
        for nodes in _bodies(docstore, loader, spill) if docstore is not None else ():
            loader.put(nodes, {})
        doubled = (
            (f"{storable_text(str(i))}: {n} rows" for i, n in table.doubled(MAX_EXAMPLES)) if n_rows > n_nodes else ()
        )
        _note_doubled(loader, list(doubled), n_rows - n_nodes)
        report = loader.finish()
    report.seconds = time.monotonic() - begun
    return report


def _note_doubled(loader: Loader, examples: Sequence[str], n_too_many: int) -> None:
    if n_too_many > 0:
        loader.report.noted.add(Noted.DOUBLED_NODES, examples)
        loader.report.noted.counts[Noted.DOUBLED_NODES] = n_too_many


def _taken(rows: Sequence[PlainRow], loader: Loader) -> tuple[list[Node], dict[str, Vectors | None]]:
    """The nodes of these rows and their vectors; rows that are no node are reported."""
    dim = loader.collection.space.dim
    nodes: list[Node] = []
    vectors: dict[str, Vectors | None] = {}
    for row in rows:
        node_id = row.node_id or ""
        try:
            node = node_of_row(node_id, row.metadata or {}, row.content, row.text)
        except InvalidNodeError as error:
            loader.leave_behind(storable_text(node_id), error.message, _named_source(row))
            continue
        nodes.append(node)
        if row.vector is not None:
            vectors[node_id] = usable(row.vector) if len(row.vector) == dim else None
            if vectors[node_id] is None:
                loader.report.left_behind.add(LeftBehind.UNUSABLE_VECTORS, [f"{node_id}: {_why(row.vector, dim)}"])
    return nodes, vectors


def _why(vector: Vectors, dim: int) -> str:
    return f"{len(vector)} dimensions, not {dim}" if len(vector) != dim else "not finite, or of no length"


def _named_source(row: PlainRow) -> str | None:
    """The document that an unusable row says it belongs to."""
    found = (row.metadata or {}).get("ref_doc_id")
    return storable_text(found) if isinstance(found, str) and found != "None" else None


def _bodies(docstore: PlainDocstore, loader: Loader, spill: Spill) -> Iterator[list[Node]]:
    """Batches of nodes of the document store that the table does not have."""
    for page in docstore.bodies():
        existing = spill.seen([storable_text(each["_id"]) for each in page])
        nodes = []
        for entry in page:
            node_id = entry["_id"]
            if node_id in existing:
                continue
            try:
                nodes.append(node_of_body(node_id, entry))
            except InvalidNodeError as error:
                loader.leave_behind(storable_text(node_id), error.message)
        yield nodes
