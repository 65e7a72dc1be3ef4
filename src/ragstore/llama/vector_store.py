"""Vector store of a collection: LlamaIndex's PostgreSQL vector store on ragstore's two databases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn, cast

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.vector_stores.postgres import PGVectorStore
from sqlalchemy.orm import Session, sessionmaker

from ragstore.errors import UsageError
from ragstore.llama.backend import Backend, CurrentCollection, NotCopied, engine_on, single_database_error
from ragstore.llama.document_store import all_ref_doc_info
from ragstore.llama.filters import to_restriction
from ragstore.llama.instrumentation import this_operation
from ragstore.llama.nodes import from_live, from_row
from ragstore.llama.shared import Shared
from ragstore.llama.structs import (
    is_called_by_summaries,
    mixed_vectors_error,
    name_of_existing_index,
    second_vector_index_error,
    summaries_asked,
)
from ragstore.model.storable import storable_text
from ragstore.postgres import live
from ragstore.postgres.live import NodeQuery
from ragstore.postgres.pool import PostgresPool
from ragstore.query.search import MAX_TOP_K, Question, find
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)


class RagstoreVectorStore(NotCopied, PGVectorStore):
    """The nodes of a collection that have a vector.

    A node is added to both databases, and replaces a node with the same id. Filters are bound parameters; if k nodes
    match, k are found; deletes use filters too. Nothing here issues DDL.
    """

    _backend: Backend = PrivateAttr()
    _current: CurrentCollection = PrivateAttr()
    _shared: Shared = PrivateAttr()

    def __init__(self, backend: Backend, shared: Shared) -> None:
        current = shared.writer.current
        collection = current.get()
        super().__init__(
            table_name=collection.name,
            schema_name="ragstore",
            hybrid_search=True,
            text_search_config=collection.text_search_config,
            embed_dim=collection.space.dim,
            perform_setup=False,
            use_jsonb=True,
            use_halfvec=collection.vector_type == "halfvec",
            initialization_fail_on_error=True,
        )
        self._backend = backend
        self._current = current
        self._shared = shared
        self._engine = engine_on(backend.pool)

    @classmethod
    def from_params(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused: the store uses two databases."""
        raise single_database_error(cls.__name__)

    @classmethod
    def from_dict(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused, as ``from_params``."""
        raise single_database_error(cls.__name__)

    @classmethod
    def from_json(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused, as ``from_params``."""
        raise single_database_error(cls.__name__)

    @property
    def client(self) -> Any:
        """A SQLAlchemy engine on ragstore's pool."""
        return self._engine

    async def close(self) -> None:
        """Does nothing: the pool belongs to ragstore."""

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:  # noqa: ARG002
        """Add nodes with their embeddings to both stores; a node with the same id is replaced.

        Raises:
            InvalidNodeError, EmbeddingSpaceError: nothing was written.

        Crash safety:
            Readers see all of the nodes or none; when it returns, both stores have them.
        """
        return self._add(nodes, this_operation(), existing_index=name_of_existing_index())

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:  # noqa: ARG002
        """Delete a document, its hash and all its nodes from both stores.

        Within ``update_ref_doc`` and a pipeline's upserts the old version stays until the new one replaces it.
        """
        self._delete(ref_doc_id, this_operation())

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Delete the nodes with one of these ids that match the filter from both stores; none if neither is given."""
        if not node_ids and not (filters and filters.filters):
            return
        if filters and filters.filters:
            found = self._found(node_ids or None, filters, with_embeddings=False)
            node_ids = [node.node_id for node in found]
        if node_ids:
            self._shared.prefetch.forget()
            self._shared.writer.delete_nodes(node_ids)
            self._shared.opened.leave_out(node_ids)

    def clear(self) -> None:
        """Delete everything in the collection from both stores."""
        self._shared.prefetch.forget()
        self._shared.writer.clear()
        self._shared.opened.deleted(set)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes that have one of these ids and match the filter, with their embeddings; ``[]`` finds none."""
        if node_ids is None and filters is None:
            raise UsageError("get_nodes was asked for nothing", hint="give node_ids, filters or both")
        return self._found(node_ids, filters, with_embeddings=True)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes that answer best, best first.

        Raises:
            UsageError, FilterError, EmbeddingSpaceError
        """
        summaries = summaries_asked()
        if summaries is not None:
            if not summaries:
                return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
            query = replace(query, node_ids=summaries)
        return answer(self._backend.pool, self._current, query, kwargs)

    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """All documents with their nodes and metadata, for an index on this store."""
        return all_ref_doc_info(self._backend.pool, self._current.get())

    # Asynchronous forms. They run in a thread, because a connection must not be bound to one event loop.

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002
        """As ``add``."""
        existing_index = name_of_existing_index()
        return await asyncio.to_thread(self._add, nodes, this_operation(), existing_index=existing_index)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:  # noqa: ARG002
        """As ``delete``."""
        await asyncio.to_thread(self._delete, ref_doc_id, this_operation())

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """As ``delete_nodes``."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        """As ``clear``."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """As ``get_nodes``."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As ``query``."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _add(self, nodes: Sequence[BaseNode], owner: int, *, existing_index: str | None) -> list[str]:
        if not nodes:
            return []
        pool, collection = self._backend.pool, self._current.get()
        # An id that cannot be stored is refused below, with its name.
        ids = [node.node_id for node in nodes if node.node_id == storable_text(node.node_id)]
        given, is_of_summaries = live.before_adding(pool, collection, ids)
        if is_of_summaries and not is_called_by_summaries():
            raise mixed_vectors_error(collection)
        if existing_index is not None and self._shared.writer.joining != owner:
            self._refuse_second_index(nodes, existing_index)
            self._shared.writer.joining = owner
        self._shared.prefetch.forget(node.ref_doc_id for node in nodes)
        return self._shared.writer.add(nodes, owner=owner, given=given)

    def _refuse_second_index(self, nodes: Sequence[BaseNode], name: str) -> None:
        """Refuse an index of other documents than those of the named one; building that one again is allowed."""
        pool, collection = self._backend.pool, self._current.get()
        ids = list({node.ref_doc_id or node.node_id for node in nodes})
        is_joined = live.document_hashes(pool, collection, ids) or len(live.missing(pool, collection, ids)) < len(ids)
        if not is_joined and live.hashes_from(pool, collection, "", 2):
            raise second_vector_index_error(collection, name)

    def _delete(self, ref_doc_id: str, owner: int) -> None:
        self._shared.prefetch.forget([ref_doc_id])
        self._shared.writer.delete_or_replace(ref_doc_id, owner=owner)
        self._shared.opened.deleted(lambda ids: live.missing(self._backend.pool, self._current.get(), ids))

    def _initialize(self) -> None:
        if not self._is_initialized:
            # LlamaIndex declares the session that this makes.
            self._session = cast("Session", sessionmaker(self._engine))
            self._is_initialized = True

    def _found(
        self, node_ids: list[str] | None, filters: MetadataFilters | None, *, with_embeddings: bool
    ) -> list[BaseNode]:
        allowed = to_restriction(filters, node_ids=node_ids)
        query = NodeQuery(node_ids=allowed.node_ids, document_ids=allowed.document_ids, filter=allowed.filter)
        found = live.find_nodes(self._backend.pool, self._current.get(), query, with_embeddings=with_embeddings)
        nodes = []
        for each, embedding in found:
            node = from_live(each)
            node.embedding = None if embedding is None else embedding.tolist()
            nodes.append(node)
        return nodes


_MMR_LAMBDA = 0.5  # LlamaIndex's default


def answer(
    pool: PostgresPool, current: CurrentCollection, query: VectorStoreQuery, options: dict[str, Any]
) -> VectorStoreQueryResult:
    """The nodes that answer a query, best first, in one round trip.

    If a filter matches nothing because no node has its key, a warning is logged: a retriever cannot return it.

    Args:
        options: ``vector_store_kwargs`` of a retriever; only ``mmr_threshold`` is used.

    Raises:
        UsageError, FilterError, EmbeddingSpaceError
    """
    question = _question(query, options)
    found = find(pool, current.get(), question, with_bodies=True)
    current.learn(found.collection)
    if not found.rows and question.filters is not None:
        for note in current.advice.notes(found.collection, question.filters):
            _log.warning(note, action="query", collection=found.collection.name)
    current.asked.note(found.collection, query.query_embedding)
    return VectorStoreQueryResult(
        nodes=[from_row(row) for row in found.rows],
        similarities=[row.score for row in found.rows],
        ids=[row.node_id for row in found.rows],
    )


def _question(query: VectorStoreQuery, options: dict[str, Any]) -> Question:
    # A retriever passes the node ids of its struct, which are none: that means all nodes. An empty doc_ids means none.
    allowed = to_restriction(query.filters, document_ids=query.doc_ids, node_ids=query.node_ids or None)
    asked: dict[str, Any] = {
        "text": query.query_str,
        "vector": query.query_embedding,
        "top_k": query.similarity_top_k,
        "filters": allowed.filter,
        "document_ids": allowed.document_ids,
        "node_ids": allowed.node_ids,
    }
    match query.mode:
        case VectorStoreQueryMode.DEFAULT:
            return Question(**asked | {"mode": "vector"})
        case VectorStoreQueryMode.MMR:
            weight = query.mmr_threshold if query.mmr_threshold is not None else options.get("mmr_threshold")
            return Question(**asked | {"mode": "vector", "mmr_lambda": _MMR_LAMBDA if weight is None else weight})
        case VectorStoreQueryMode.SPARSE | VectorStoreQueryMode.TEXT_SEARCH:
            return Question(**asked | {"mode": "keyword", "top_k": query.sparse_top_k or query.similarity_top_k})
        case VectorStoreQueryMode.HYBRID:
            return Question(**asked | {"top_k": _hybrid_top_k(query)} | _hybrid(query.alpha))
    raise UsageError(
        f"query mode {query.mode.value!r} is not supported",
        hint="use default, sparse, text_search, hybrid or mmr",
        mode=query.mode.value,
    )


def _hybrid_top_k(query: VectorStoreQuery) -> int:
    """Number of hits: ``hybrid_top_k``, else the most that PGVectorStore returns, which joins both lists of hits."""
    return query.hybrid_top_k or min(query.similarity_top_k + (query.sparse_top_k or 0), MAX_TOP_K)


def _hybrid(alpha: float | None) -> dict[str, Any]:
    """Options of a hybrid search; ``alpha`` is the weight of vectors, from 0 (only words) to 1 (only vectors)."""
    if alpha is None:
        return {"mode": "hybrid"}
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha {alpha} is out of range", hint="use 0 (words alone) to 1 (vectors alone)")
    if alpha in (0, 1):
        return {"mode": "vector" if alpha else "keyword"}
    return {"mode": "hybrid", "dense_weight": alpha / (1 - alpha)}
