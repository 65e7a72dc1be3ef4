"""LlamaIndex's vector store queries, answered by ragstore's search, with the nodes whole."""

from __future__ import annotations

from typing import Any

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode, VectorStoreQueryResult

from ragstore.errors import UsageError
from ragstore.llama.backend import CurrentCollection
from ragstore.llama.filters import to_restriction
from ragstore.llama.nodes import from_row
from ragstore.postgres.pool import PostgresPool
from ragstore.query.search import MAX_TOP_K, Question, find
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)
_MMR_LAMBDA = 0.5  # LlamaIndex's own where a query says none


def answer(
    pool: PostgresPool, current: CurrentCollection, query: VectorStoreQuery, options: dict[str, Any]
) -> VectorStoreQueryResult:
    """The nodes that answer a query, best first, in one round trip.

    Where a filter allows nothing because no node has its key, the log says so: a retriever has no other place for it.

    Args:
        options: ``vector_store_kwargs`` of a retriever; only ``mmr_threshold`` means something here.

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
    # An index's retriever names its struct's nodes, which are none: that means all. No documents means none.
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
    """As many hits as PGVectorStore gives at most, which joins those of both sides, unless ``hybrid_top_k`` says it."""
    return query.hybrid_top_k or min(query.similarity_top_k + (query.sparse_top_k or 0), MAX_TOP_K)


def _hybrid(alpha: float | None) -> dict[str, Any]:
    """``alpha`` is the share of the vector side: 0 is words alone, 1 vectors alone."""
    if alpha is None:
        return {"mode": "hybrid"}
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha {alpha} is out of range", hint="use 0 (words alone) to 1 (vectors alone)")
    if alpha in (0, 1):
        return {"mode": "vector" if alpha else "keyword"}
    return {"mode": "hybrid", "dense_weight": alpha / (1 - alpha)}
