"""Import: a persist_dir of plain LlamaIndex copied into a collection, with its vectors unchanged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ragstore.errors import InvalidNodeError, NotFoundError
from ragstore.model.graph import MAX_RELATION_BYTES, checked_key
from ragstore.model.node import Node
from ragstore.model.report import LeftBehind, Listener, Noted, Progress, TransferReport
from ragstore.model.run import Vectors
from ragstore.model.storable import storable_text
from ragstore.postgres.triplets import Triplet, put_triplets
from ragstore.transfer.index_structs import put_structs
from ragstore.transfer.loader import CHARS_AT_ONCE, NODES_AT_ONCE, ImportContext, Loader, usable
from ragstore.transfer.nodes import node_of_body
from ragstore.transfer.persist_dir import (
    DEFAULT_NAMESPACE,
    DOCSTORE,
    GRAPH_STORE,
    INDEX_STORE,
    PROPERTY_GRAPH_STORE,
    Entry,
    FoundStruct,
    PersistDir,
    struct_of_entry,
)
from ragstore.transfer.spill import Spill


@dataclass(slots=True)
class _Survey:
    """Findings of the first reading; nothing is written before all files were read once."""

    n_nodes: int = 0
    structs: list[FoundStruct] = field(default_factory=list)
    unreadable_structs: list[str] = field(default_factory=list)
    n_in_property_graph: int = 0
    other_stores: list[str] = field(default_factory=list)


def import_persist_dir(
    source: PersistDir, namespace: str, into: ImportContext, tell: Listener | None = None
) -> TransferReport:
    """Import nodes, vectors, hashes and index structs into a collection.

    Files are read twice, never as a whole into memory: first all are checked, and vectors and hashes go to a temporary
    database; then nodes are joined to their vectors and written.

    Args:
        namespace: which of several vector stores to import.

    Raises:
        NotFoundError: there is no such vector store.
        TransferError: a file is damaged; nothing was written.
        EmbeddingSpaceError: the collection has another vector length or model; nothing was written.

    Crash safety:
        If it is run again, it finds the written nodes and continues; nothing is doubled.
    """
    begun = time.monotonic()
    _check_namespace(source, namespace)
    with Spill() as spill:
        survey = _surveyed(source, namespace, spill, tell)
        dim = next(iter(spill.dims()), None)
        collection = into.collection(dim)
        loader = Loader(into, collection, spill, tell)
        for batch in _batches(source, loader, spill) if source.has(DOCSTORE) else ():
            vectors = spill.join_vectors([node.node_id for node in batch], collection.space.dim)
            loader.put(batch, vectors, expected=survey.n_nodes)
        loader.report_vectors()
        put_structs(loader, into, survey.structs, survey.unreadable_structs)
        _put_triplets(loader, into, source)
        report = loader.finish()
    _report_the_rest(report, source, survey)
    report.seconds = time.monotonic() - begun
    return report


def _check_namespace(source: PersistDir, namespace: str) -> None:
    if namespace in source.vector_stores or (namespace == DEFAULT_NAMESPACE and source.has(DOCSTORE)):
        return
    namespaces = ", ".join(sorted(source.vector_stores)) or "none"
    raise NotFoundError(
        f"{source.folder.url} has no vector store {namespace!r}",
        hint=f"name one that is there with --namespace: {namespaces}",
        in_python=f"give namespace= one that is there: {namespaces}",
        namespaces=sorted(source.vector_stores),
    )


def _surveyed(source: PersistDir, namespace: str, spill: Spill, tell: Listener | None) -> _Survey:
    survey, begun = _Survey(), time.monotonic()
    n_vectors = 0
    for vectors in _vector_batches(source, namespace):
        spill.put_vectors(vectors)
        n_vectors += len(vectors)
        if tell is not None:
            tell(Progress("vectors", n_vectors, None, time.monotonic() - begun))
    for other in sorted(set(source.vector_stores) - {namespace}):
        for vectors in _vector_batches(source, other):
            spill.put_elsewhere(vectors)
            # LlamaIndex always writes a vector store for images too, which is empty.
            if vectors and other not in survey.other_stores:
                survey.other_stores.append(other)
    survey.n_nodes = _survey_docstore(source, spill)
    for entry in source.entries(INDEX_STORE) if source.has(INDEX_STORE) else ():
        if entry.key is not None:
            found = struct_of_entry(entry.key, entry.value)
            if found is None:
                survey.unreadable_structs.append(entry.key)
            else:
                survey.structs.append(found)
    for _ in triplets(source):
        """Read whole, and so not damaged."""
    survey.n_in_property_graph = n_in_property_graph(source)
    return survey


def _survey_docstore(source: PersistDir, spill: Spill) -> int:
    """Put the hashes into the spill; returns the number of nodes."""
    n_nodes = 0
    hashes: dict[str, str] = {}
    for entry in source.entries(DOCSTORE) if source.has(DOCSTORE) else ():
        part = _part(entry)
        n_nodes += part == "data"
        if part == "metadata" and isinstance(entry.value, dict):
            doc_hash = entry.value.get("doc_hash")
            if isinstance(doc_hash, str) and doc_hash:
                hashes[storable_text(str(entry.key))] = storable_text(doc_hash)
        if len(hashes) == NODES_AT_ONCE:
            spill.put_hashes(hashes)
            hashes.clear()
    spill.put_hashes(hashes)
    return n_nodes


def _part(entry: Entry) -> str | None:
    """The part of the document store that an entry is in: ``data`` for ``docstore/data``, in any namespace."""
    return entry.section.rpartition("/")[2] if entry.key is not None else None


def _vector_batches(source: PersistDir, namespace: str) -> Iterator[dict[str, Vectors | None]]:
    batch: dict[str, Vectors | None] = {}
    name = source.vector_stores.get(namespace)
    for entry in source.entries(name) if name is not None else ():
        if entry.section != "embedding_dict" or entry.key is None:
            continue
        batch[storable_text(entry.key)] = _vector(entry)
        if len(batch) == NODES_AT_ONCE:
            yield batch
            batch = {}
    yield batch


def _vector(entry: Entry) -> Vectors | None:
    try:
        # A null becomes NaN: some exporters write null for it.
        floats = np.array(entry.value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # such as an integer of hundreds of digits
        return None
    return usable(floats) if floats.ndim == 1 and floats.size else None


def _batches(source: PersistDir, loader: Loader, spill: Spill) -> Iterator[list[Node]]:
    """Batches of nodes of the document store, without those of other vector stores; bad nodes are reported."""
    for batch in _all_batches(source, loader):
        elsewhere = spill.elsewhere([node.node_id for node in batch])
        yield [node for node in batch if node.node_id not in elsewhere]


def _all_batches(source: PersistDir, loader: Loader) -> Iterator[list[Node]]:
    batch: list[Node] = []
    n_chars = 0
    for entry in source.entries(DOCSTORE):
        if _part(entry) != "data" or entry.key is None:
            continue
        try:
            batch.append(node_of_body(entry.key, entry.value))
        except InvalidNodeError as error:
            loader.leave_behind(storable_text(entry.key), error.message, _named_source(entry))
            continue
        n_chars += entry.n_chars
        if len(batch) == NODES_AT_ONCE or n_chars >= CHARS_AT_ONCE:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def _named_source(entry: Entry) -> str | None:
    """The document that an unusable node says it belongs to."""
    try:
        found = entry.value["__data__"]["relationships"]["1"]["node_id"]
    except (KeyError, TypeError, IndexError):
        return None
    return storable_text(found) if isinstance(found, str) else None


def _put_triplets(loader: Loader, into: ImportContext, source: PersistDir) -> None:
    """Add triplets that do not exist yet."""
    for batch in triplets(source):
        put_triplets(into.pool, loader.collection, [each for each in batch if not isinstance(each, str)])
        loader.report.left_behind.add(LeftBehind.GRAPHS, (each for each in batch if isinstance(each, str)))


def _report_the_rest(report: TransferReport, source: PersistDir, survey: _Survey) -> None:
    commands = (f"ragstore import {source.folder.url} --namespace {i} -c COLLECTION" for i in survey.other_stores)
    report.noted.add(Noted.OTHER_VECTOR_STORES, commands)
    if survey.n_in_property_graph:
        report.left_behind.add(LeftBehind.GRAPHS, [PROPERTY_GRAPH_STORE], n_more=survey.n_in_property_graph - 1)


_AT_ONCE = 1_000


def triplets(source: PersistDir) -> Iterator[list[Triplet | str]]:
    """The triplets of the graph store in batches; for a triplet that cannot be imported, a text that says why.

    Raises:
        TransferError: the file is damaged.
    """
    batch: list[Triplet | str] = []
    for entry in source.entries(GRAPH_STORE) if source.has(GRAPH_STORE) else ():
        if entry.section == "graph_dict" and entry.key is not None:
            batch += _of_subject(entry)
        if len(batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def n_in_property_graph(source: PersistDir) -> int:
    """Number of nodes and relations of the property graph."""
    found = 0
    for entry in source.entries(PROPERTY_GRAPH_STORE) if source.has(PROPERTY_GRAPH_STORE) else ():
        found += entry.section in ("nodes", "relations") and entry.key is not None
    return found


def _of_subject(entry: Entry) -> Iterator[Triplet | str]:
    for each in entry.value if isinstance(entry.value, list) else ():
        if not isinstance(each, list) or len(each) != 2:
            yield f"{entry.key}: no relation and object"
            continue
        subject, relation, other = (storable_text(str(part)) for part in (entry.key, *each))
        try:
            yield (
                checked_key(subject, "subject"),
                checked_key(relation, "relation", MAX_RELATION_BYTES),
                checked_key(other, "object"),
            )
        except InvalidNodeError as error:
            yield error.message
