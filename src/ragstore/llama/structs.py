"""Index structs that name nodes: their nodes, removal of nodes that are not live, and the index that calls."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as Ids
from types import FrameType
from typing import TypeVar
from weakref import ReferenceType, ref

from llama_index.core import DocumentSummaryIndex, VectorStoreIndex
from llama_index.core.data_structs.data_structs import KG, IndexGraph, IndexList, IndexStruct, KeywordTable
from llama_index.core.data_structs.document_summary import IndexDocumentSummary
from llama_index.core.indices.document_summary import DocumentSummaryIndexEmbeddingRetriever
from llama_index_instrumentation.span import active_span_id

from ragstore.errors import UsageError
from ragstore.model.collection import Collection

T = TypeVar("T")

FindMissing = Callable[[Sequence[str]], set[str]]
"""Returns those of the given node ids that are not live."""


class OpenStructs:
    """The structs of the indexes of one collection that this process has in memory; safe to use from several threads.

    Other indexes and processes delete nodes. They are removed from every struct here that names them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._structs: dict[int, ReferenceType[IndexStruct]] = {}
        self._elsewhere: set[int] = set()

    def opened(self, struct: IndexStruct, find_missing: FindMissing) -> None:
        """Track the struct of an index; nodes that are not live are removed, unless none of its nodes is live."""
        key, ids = id(struct), named_nodes(struct)
        missing = find_missing(sorted(ids)) if ids else set()
        if missing and not ids <= missing:
            remove_nodes(struct, missing)
        with self._lock:
            self._structs[key] = ref(struct, lambda dead: self._forget(key, dead))
            (self._elsewhere.add if ids and ids <= missing else self._elsewhere.discard)(key)

    def deleted(self, find_missing: FindMissing) -> None:
        """Remove nodes after unknown ones were deleted; they are looked up only if an index in memory names nodes."""
        structs = [struct for struct in self._alive() if id(struct) not in self._elsewhere]
        ids = {node_id for struct in structs for node_id in named_nodes(struct)}
        if ids and (missing := find_missing(sorted(ids))):
            for struct in structs:
                remove_nodes(struct, missing)

    def leave_out(self, removed: Iterable[str]) -> set[str]:
        """Remove these nodes, which are not live, from all structs; returns those that a struct named."""
        removed, named = set(removed), set()
        for struct in self._alive():
            if found := named_nodes(struct) & removed:
                named |= found
                remove_nodes(struct, removed)
        return named

    def _alive(self) -> list[IndexStruct]:
        with self._lock:
            references = list(self._structs.values())
        return [struct for reference in references if (struct := reference()) is not None]

    def _forget(self, key: int, dead: ReferenceType[IndexStruct]) -> None:
        # A new struct may already have the id of the dead one. Without the lock: this may run inside any statement.
        if self._structs.get(key) is dead:
            self._structs.pop(key, None)


def leave_out_missing(structs: Sequence[IndexStruct], find_missing: FindMissing) -> None:
    """Remove nodes that are not live from these structs; one look-up, or none if they name no nodes.

    A struct without any live node stays as it is: its nodes may be in a document store of another program.
    """
    named = [(struct, ids) for struct in structs if (ids := named_nodes(struct))]
    missing = find_missing(sorted({node_id for _, ids in named for node_id in ids})) if named else set()
    for struct, ids in named:
        if not missing.isdisjoint(ids) and not ids <= missing:
            remove_nodes(struct, missing)


def named_nodes(struct: IndexStruct) -> set[str]:
    """Ids of the nodes that a struct names; none for an index that keeps no list of them."""
    match struct:
        case IndexList():
            return set(struct.nodes)
        case KeywordTable() | KG():
            return {node_id for ids in struct.table.values() for node_id in ids}
        case IndexGraph():
            return set(struct.all_nodes.values()) | set(struct.root_nodes.values())
        case IndexDocumentSummary():
            return set(struct.summary_id_to_node_ids) | set(struct.node_id_to_summary_id)
    return set()


def remove_nodes(struct: IndexStruct, removed: Ids[str]) -> None:
    """Remove nodes from a struct. Its containers are replaced, not changed: another thread may be reading them."""
    match struct:
        case IndexList():
            struct.nodes = [node_id for node_id in struct.nodes if node_id not in removed]
        case KeywordTable() | KG():
            left = {keyword: ids.difference(removed) for keyword, ids in struct.table.items()}
            struct.table = {keyword: ids for keyword, ids in left.items() if ids}
        case IndexGraph():
            _remove_from_tree(struct, set(removed))
        case IndexDocumentSummary():
            _remove_from_summaries(struct, removed)


def _remove_from_tree(struct: IndexGraph, removed: set[str]) -> None:
    children = struct.node_id_to_children_ids
    while True:
        # A summary without any remaining child still has the deleted text, so it is removed too.
        empty = {i for i, below in children.items() if below and removed.issuperset(below)} - removed
        if not empty:
            break
        removed |= empty
    left = [(number, node_id) for number, node_id in sorted(struct.all_nodes.items()) if node_id not in removed]
    # LlamaIndex numbers the next node by the count of nodes, so numbers must have no gaps.
    renumbered = {number: i for i, (number, _) in enumerate(left)}
    roots = [(number, node_id) for number, node_id in struct.root_nodes.items() if number in renumbered]
    struct.root_nodes = {renumbered[number]: node_id for number, node_id in roots}
    struct.all_nodes = {renumbered[number]: node_id for number, node_id in left}
    struct.node_id_to_children_ids = {
        i: [child for child in below if child not in removed] for i, below in children.items() if i not in removed
    }


def _remove_from_summaries(struct: IndexDocumentSummary, removed: Ids[str]) -> None:
    summaries = {
        summary: [node_id for node_id in ids if node_id not in removed]
        for summary, ids in struct.summary_id_to_node_ids.items()
        if summary not in removed
    }
    struct.summary_id_to_node_ids = {summary: ids for summary, ids in summaries.items() if ids}
    struct.node_id_to_summary_id = {i: summary for summary, ids in summaries.items() for i in ids}
    struct.doc_id_to_summary_id = {
        document: summary for document, summary in struct.doc_id_to_summary_id.items() if summaries.get(summary)
    }


_MAX_FRAMES = 12
"""Most stack frames between a method of an index and the store that it calls."""

_ASKS_SUMMARIES = "DocumentSummaryIndexEmbeddingRetriever."


def is_called_by_summaries() -> bool:
    """Whether the caller is a DocumentSummaryIndex that embeds its summaries."""
    index = _caller(DocumentSummaryIndex)
    return index is not None and bool(index._embed_summaries)


def is_built_by_summaries() -> bool:
    """Whether the caller is such an index that is just being built."""
    index = _caller(DocumentSummaryIndex)
    return index is not None and bool(index._embed_summaries) and "_index_struct" not in vars(index)


def summaries_asked() -> list[str] | None:
    """Ids of the summaries that the calling retriever of a DocumentSummaryIndex searches; None for another caller."""
    if not (active_span_id.get() or "").startswith(_ASKS_SUMMARIES):
        return None
    retriever = _caller(DocumentSummaryIndexEmbeddingRetriever)
    return None if retriever is None else list(retriever._index_struct.summary_id_to_node_ids)


def mixed_vectors_error(collection: Collection) -> UsageError:
    """The error for two indexes of which each would find and replace the nodes of the other."""
    return UsageError(
        f"collection {collection.name!r} would hold vectors of nodes and of a DocumentSummaryIndex's summaries",
        hint="give the DocumentSummaryIndex a collection of its own, or make it with embed_summaries=False; "
        "what is left of a build that failed goes by vector_store.clear()",
        collection=collection.name,
    )


def name_of_existing_index() -> str | None:
    """The name of the vector index of a storage context on which another vector index is being built; else None."""
    index = _caller(VectorStoreIndex)
    if index is None or "_index_struct" in vars(index):
        return None
    return getattr(index.storage_context.index_store, "named_index", None)


def second_vector_index_error(collection: Collection, name: str) -> UsageError:
    """The error for an index of other documents: its own name would be refused after they are stored."""
    return UsageError(
        f"collection {collection.name!r} has one vector index, of all its nodes, which this context named {name!r}, "
        "and another one is being built, of documents that are not in it",
        hint="nothing was stored: add documents to the index by insert() or insert_nodes(), or make another collection "
        "for nodes that are to be found apart",
        index_id=name,
        collection=collection.name,
    )


def _caller(kind: type[T]) -> T | None:
    """The calling LlamaIndex object of this class, from the stack: LlamaIndex does not pass it to its stores."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        caller = frame.f_locals.get("self") if frame is not None else None
        if frame is None or isinstance(caller, kind):
            return caller
        frame = frame.f_back
    return None
