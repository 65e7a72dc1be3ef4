"""Adopt: import of a vector store of any system, and of a document and index store beside it, into a collection."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ragstore.errors import EmbeddingSpaceError, InvalidNodeError, NotFoundError, UsageError
from ragstore.model.node import Node
from ragstore.model.report import MAX_EXAMPLES, Findings, LeftBehind, Listener, Noted, Progress, TransferReport
from ragstore.model.run import Vectors
from ragstore.model.storable import storable_text
from ragstore.transfer.index_structs import put_structs
from ragstore.transfer.loader import CHARS_AT_ONCE, NODES_AT_ONCE, ImportContext, Loader, usable
from ragstore.transfer.nodes import node_of_body
from ragstore.transfer.persist_dir import FoundStruct, struct_of_entry
from ragstore.transfer.records import (
    RecordKeys,
    has_node_content,
    keys_of,
    named_document,
    node_id_of,
    node_of_record,
    text_of,
    value_at,
)
from ragstore.transfer.spill import Spill
from ragstore.transfer.systems.key_values import KeyValues
from ragstore.transfer.systems.reader import COSINE, DOT, EUCLID, UNKNOWN, Described, Record, VectorReader

SAME_LENGTH = 1e-3
"""How far the lengths of vectors may differ, relatively, for every metric to give cosine's order."""

_MAX_KEYS = 30


@dataclass(frozen=True, slots=True)
class Sources:
    """What is adopted.

    Args:
        place: the vector store's address without secrets, for messages.
        namespace: of the document store; its parts are ``namespace/data`` and ``namespace/metadata``.
        index_namespace: of the index store.
    """

    place: str
    vectors: VectorReader
    keys: RecordKeys = field(default_factory=lambda: RecordKeys(None, None))
    docstore: KeyValues | None = None
    docstore_place: str = ""
    namespace: str = "docstore"
    index_store: KeyValues | None = None
    index_namespace: str = "index_store"


@dataclass(slots=True)
class _Survey:
    """Findings of the reading; nothing is written before all was read once.

    Args:
        unusable: ids of entries that are no node.
        n_foreign: entries that LlamaIndex did not write.
        n_with_text: of these, those with a text.
        shortest: length of the shortest vector; only measured for metrics other than cosine.
    """

    described: Described
    left_behind: Findings = field(default_factory=Findings)
    findings: Findings = field(default_factory=Findings)
    unusable: list[str] = field(default_factory=list)
    unusable_bodies: dict[str, str] = field(default_factory=dict)
    broken_documents: list[str] = field(default_factory=list)
    structs: list[FoundStruct] = field(default_factory=list)
    unreadable_structs: list[str] = field(default_factory=list)
    keys: dict[str, None] = field(default_factory=dict)
    n_records: int = 0
    n_foreign: int = 0
    n_with_text: int = 0
    n_with_document: int = 0
    shortest: float = np.inf
    longest: float = 0.0

    def noted(self, kind: Noted, examples: Sequence[str], n: int | None = None) -> None:
        """Note findings; ``n`` is their number, if it is not that of the examples."""
        self.findings.add(kind, examples, n_more=(len(examples) if n is None else n) - len(examples))

    def refuse(self, node_id: str, why: str, document_id: str | None) -> None:
        self.left_behind.add(LeftBehind.INVALID_NODES, [f"{storable_text(node_id)}: {why}"])
        self.unusable.append(storable_text(node_id))
        if document_id is not None:
            self.broken_documents.append(document_id)

    def note_keys(self, record: Record, keys: RecordKeys, *, has_text: bool) -> None:
        self.n_foreign += 1
        self.n_with_text += has_text
        self.n_with_document += bool(keys.document) and value_at(record.metadata, keys.document or "") is not None
        if len(self.keys) < _MAX_KEYS:
            self.keys.update(dict.fromkeys(keys_of(record.metadata)))

    def measure(self, vectors: Iterable[Vectors | None]) -> None:
        if self.described.metric != COSINE:
            for vector in vectors:
                if vector is not None:
                    length = float(np.linalg.norm(vector.astype(np.float64)))
                    self.shortest, self.longest = min(self.shortest, length), max(self.longest, length)

    def shown_keys(self) -> str:
        return ", ".join(list(self.keys)[:_MAX_KEYS]) or "none"


def adopt(
    sources: Sources, into: ImportContext, tell: Listener | None = None, *, dry_run: bool = False
) -> TransferReport:
    """Import nodes and vectors, and hashes, further nodes and index structs of the stores beside them.

    Everything is read once, into a temporary database; what cannot fit is refused before anything is written.

    Args:
        dry_run: write nothing, and report what would be written.

    Raises:
        EmbeddingSpaceError: the collection has another vector length or model, or cosine would give another order than
            the store's own metric; nothing was written.
        UsageError: nothing says where entries that LlamaIndex did not write keep their text; nothing was written.

    Crash safety:
        Run again, it finds the written nodes and continues; nothing is doubled. The other stores are only read.
    """
    begun = time.monotonic()
    with Spill() as spill:
        survey = _surveyed(sources, spill, tell)
        dim = next(iter(spill.dims()), None)
        collection = into.preview(dim) if dry_run else into.collection(dim)
        if collection is None:
            report = _all_new(spill, dim)
        else:
            loader = Loader(into, collection, spill, tell, dry_run=dry_run)
            report = _loaded(survey, spill, loader, into)
        _report_the_survey(report, survey)
    report.seconds = time.monotonic() - begun
    return report


def _loaded(survey: _Survey, spill: Spill, loader: Loader, into: ImportContext) -> TransferReport:
    dim = loader.collection.space.dim
    spill.mark_broken(survey.broken_documents)
    spill.see(survey.unusable)
    n_nodes, _ = spill.n_nodes()
    for nodes in spill.nodes(NODES_AT_ONCE, CHARS_AT_ONCE, by_document=not survey.described.is_ordered):
        loader.put(nodes, spill.join_vectors([node.node_id for node in nodes], dim), expected=n_nodes)
    loader.report_vectors()
    if not loader.dry_run and (survey.structs or survey.unreadable_structs):
        put_structs(loader, into, survey.structs, survey.unreadable_structs)
    return loader.finish()


def _all_new(spill: Spill, dim: int | None) -> TransferReport:
    """The report of a dry run into a collection that does not exist."""
    report = TransferReport()
    report.nodes, report.documents = spill.n_nodes()
    for nodes in spill.nodes(NODES_AT_ONCE, CHARS_AT_ONCE, by_document=False):
        spill.join_vectors([node.node_id for node in nodes], dim or 0)
    report.left_behind.add(LeftBehind.VECTORS_WITHOUT_NODE, spill.vectors_without_node())
    unusable = (f"{node_id}: {n} dimensions, or not finite" for node_id, n in spill.unusable_vectors(dim or 0))
    report.left_behind.add(LeftBehind.UNUSABLE_VECTORS, unusable)
    return report


# Reading


def _surveyed(sources: Sources, spill: Spill, tell: Listener | None) -> _Survey:
    survey = _Survey(sources.vectors.described())
    if sources.docstore is not None:
        _read_docstore(sources, sources.docstore, spill, survey, tell)
    _check_metric(sources, survey)
    begun = time.monotonic()
    for page in sources.vectors.pages():
        _take_page(page, sources, spill, survey)
        if survey.n_foreign == survey.n_records and survey.n_with_text == 0:
            _refuse_without_text(sources, survey)
        if tell is not None:
            tell(Progress("vectors", survey.n_records, survey.described.n_records, time.monotonic() - begun))
    _check_keys(sources, survey)
    _check_lengths(sources, survey)
    if sources.index_store is not None:
        _read_structs(sources.index_store, sources.index_namespace, survey)
    known = spill.known(list(survey.unusable_bodies))
    for node_id, why in survey.unusable_bodies.items():
        if node_id not in known:
            survey.refuse(node_id, why, None)
    n_doubled, examples = sources.vectors.doubled(MAX_EXAMPLES)
    survey.noted(Noted.DOUBLED_NODES, [storable_text(each) for each in examples], n_doubled)
    return survey


def _read_docstore(sources: Sources, docstore: KeyValues, spill: Spill, survey: _Survey, tell: Listener | None) -> None:
    """Put hashes and nodes of the document store into the spill.

    Raises:
        NotFoundError: it has no such namespace.
    """
    namespace, n_entries, begun = sources.namespace, 0, time.monotonic()
    for entries in docstore.pages(f"{namespace}/metadata"):
        hashes = {storable_text(i): each.get("doc_hash") for i, each in entries if isinstance(each, Mapping)}
        spill.put_hashes({i: storable_text(h) for i, h in hashes.items() if isinstance(h, str) and h})
        n_entries += len(entries)
    for entries in docstore.pages(f"{namespace}/data"):
        nodes = []
        for node_id, body in entries:
            try:
                nodes.append(node_of_body(node_id, body))
            except InvalidNodeError as error:
                survey.unusable_bodies[storable_text(node_id)] = error.message
        spill.put_nodes(nodes, is_known=True)
        n_entries += len(entries)
        if tell is not None:
            tell(Progress("nodes read", n_entries, None, time.monotonic() - begun))
    if not n_entries:
        found = sorted({name.removesuffix("/data") for name in docstore.collections() if name.endswith("/data")})
        spaces = ", ".join(found) or "none"
        raise NotFoundError(
            f"{sources.docstore_place} has no document store {namespace!r}",
            hint=f"name one that is there behind #, or with --namespace: {spaces}",
            in_python=f"give namespace= one that is there: {spaces}",
            namespace=namespace,
        )


def _read_structs(index_store: KeyValues, namespace: str, survey: _Survey) -> None:
    for entries in index_store.pages(f"{namespace}/data"):
        for index_id, entry in entries:
            found = struct_of_entry(index_id, entry)
            if found is None:
                survey.unreadable_structs.append(index_id)
            else:
                survey.structs.append(found)


def _take_page(page: Sequence[Record], sources: Sources, spill: Spill, survey: _Survey) -> None:
    """Put the nodes and vectors of a page into the spill; entries that are no node are reported."""
    records = {node_id_of(record): record for record in page}  # of one given twice the last counts
    known = spill.known(list(records))
    nodes: list[Node] = []
    vectors: dict[str, Vectors | None] = {}
    for node_id, record in records.items():
        node = _node(record, sources, survey, is_known=known.get(node_id, False))
        if isinstance(node, Node):
            nodes.append(node)
        if node is not None and record.vector is not None:
            vectors[storable_text(node_id)] = usable(record.vector)
    again = [node_id for node_id, is_known in known.items() if not is_known]
    survey.noted(Noted.DOUBLED_NODES, again, len(page) - len(records) + len(again))
    spill.put_nodes(nodes, is_known=False)
    spill.put_vectors(vectors)
    survey.n_records += len(page)
    survey.measure(vectors.values())


def _node(record: Record, sources: Sources, survey: _Survey, *, is_known: bool) -> Node | str | None:
    """The node of an entry; its id if its node is in the document store or nowhere; None if it cannot be taken over."""
    keys, text, is_ours = sources.keys, text_of(record, sources.keys), has_node_content(record)
    if not text and (is_known or (not record.metadata and record.text is None)):
        return record.record_id
    if not is_ours:
        survey.note_keys(record, keys, has_text=text is not None)
    try:
        node = node_of_record(record, keys)
    except InvalidNodeError as error:
        survey.refuse(node_id_of(record), error.message, named_document(record))
        return None
    if is_ours and not text and node.class_name == "TextNode":
        survey.noted(Noted.NODES_WITHOUT_TEXT, [node.node_id])
    if not is_ours and node.document_id is None:
        survey.noted(Noted.NODES_WITHOUT_DOCUMENT, [node.node_id])
    return node


# Refusals


def _check_metric(sources: Sources, survey: _Survey) -> None:
    metric = survey.described.metric
    if metric not in (COSINE, EUCLID, DOT, UNKNOWN):
        raise EmbeddingSpaceError(
            f"{sources.place} compares by {metric}, and a collection by cosine, which gives another order",
            hint="embed its documents again with a model for cosine",
            metric=metric,
        )


def _check_lengths(sources: Sources, survey: _Survey) -> None:
    """Refuse vectors of different lengths under another metric: only with equal lengths all give one order."""
    shortest, longest, metric = survey.shortest, survey.longest, survey.described.metric
    if metric == COSINE or longest <= shortest * (1 + SAME_LENGTH):
        return
    raise EmbeddingSpaceError(
        f"{sources.place} compares by {metric}, and its vectors have lengths from {shortest:.4g} to {longest:.4g}: "
        "cosine, by which a collection compares, would give another order",
        hint="only vectors of one length can come over from it; embed its documents again with a model for cosine",
        metric=metric,
        shortest=shortest,
        longest=longest,
    )


def _check_keys(sources: Sources, survey: _Survey) -> None:
    if survey.n_foreign and survey.n_with_text == 0:
        _refuse_without_text(sources, survey)
    if survey.n_foreign and sources.keys.document and survey.n_with_document == 0:
        raise UsageError(
            f"no entry of {sources.place} has a document's id at {sources.keys.document!r}",
            hint=f"name another key with --document-key: {survey.shown_keys()}",
            in_python=f"give document_key= another: {survey.shown_keys()}",
            keys=list(survey.keys),
        )


def _refuse_without_text(sources: Sources, survey: _Survey) -> None:
    where = f"at {sources.keys.text!r}" if sources.keys.text else "where LlamaIndex or the system itself keeps it"
    raise UsageError(
        f"the entries of {sources.place} have no text {where}",
        hint=f"name the key of the text with --text-key, and that of its document with --document-key, or the document "
        f"store with --docstore; keys that are there: {survey.shown_keys()}",
        in_python=f"give text_key=, document_key= or docstore=; keys that are there: {survey.shown_keys()}",
        keys=list(survey.keys),
    )


# Report


def _report_the_survey(report: TransferReport, survey: _Survey) -> None:
    described = survey.described
    report.left_behind.merge(survey.left_behind)
    report.noted.merge(survey.findings)
    report.noted.add(
        Noted.SPARSE_VECTORS, (f"{name}: words are searched in the text here" for name in described.sparse)
    )
    report.noted.add(Noted.OTHER_VECTOR_STORES, described.others)
    if described.is_lossy:
        report.noted.add(
            Noted.LOSSY_VECTORS, ["the index stores its vectors in a shorter form, which is what came over"]
        )
