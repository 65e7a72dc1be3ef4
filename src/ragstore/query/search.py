"""Search in a collection: checks of a question, hits best first, MMR, and hits with context."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragstore.embedding.catalog import dense_weight
from ragstore.errors import EmbeddingSpaceError, MissingTableError, UsageError
from ragstore.model.chunk import n_repeated
from ragstore.model.collection import Collection
from ragstore.model.filters import Filter
from ragstore.model.hit import Hit
from ragstore.postgres.collections import dropped, find_collection, reporting_drop
from ragstore.postgres.filters import to_sql
from ragstore.postgres.pool import Connection, PostgresPool
from ragstore.postgres.search import Found, Mode, Query, Row, hybrid_search, keyword_search, vector_search
from ragstore.postgres.vectors import LONGEST, SHORTEST, lengths

_NEEDED: Mapping[Mode, Sequence[str]] = {"vector": ["vector"], "keyword": ["text"], "hybrid": ["text", "vector"]}

MAX_TOP_K = 1_000
MAX_CONTEXT = 50
_MIN_CANDIDATES = 20
_CANDIDATES_PER_HIT = 4


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a collection.

    Args:
        text: needed by ``keyword`` and ``hybrid``.
        vector: shape ``(dim,)``, finite, of any norm; needed by ``vector``, ``hybrid`` and ``mmr_lambda``.
        top_k: number of hits, 1 to 1,000.
        document_ids: only nodes of these documents; an empty sequence allows none.
        node_ids: only these nodes; an empty sequence allows none.
        exact: compare every allowed vector, without the index.
        dense_weight: weight of the rank by vector in ``hybrid``; the rank by words has weight 1. 0 or more, or None for
            the weight that suits the collection's model.
        mmr_lambda: None, or 0 (only different from each other) to 1 (only near the question).
        n_context: number of chunks on each side of a hit that are shown with it, 0 to 50.
    """

    text: str | None = None
    vector: ArrayLike | None = None
    mode: Mode = "hybrid"
    top_k: int = 10
    filters: Filter | None = None
    document_ids: Sequence[str] | None = None
    node_ids: Sequence[str] | None = None
    exact: bool = False
    dense_weight: float | None = None
    mmr_lambda: float | None = None
    n_context: int = 0


def search(pool: PostgresPool, collection: Collection, question: Question) -> list[Hit]:
    """The rows of ``find`` as hits; raises as ``find`` does."""
    return [to_hit(row) for row in find(pool, collection, question).rows]


def find(pool: PostgresPool, collection: Collection, question: Question, *, with_bodies: bool = False) -> Found:
    """The nodes that answer a question, in one round trip if one search is enough.

    With ``mmr_lambda`` the score is that of maximal marginal relevance, see ``mmr``.

    Args:
        collection: may be stale: index segments only affect speed.
        with_bodies: also fetch the content that LlamaIndex nodes are made from.

    Raises:
        UsageError: ``top_k``, ``mode`` or a weight cannot be used, or the required text or vector is missing.
        EmbeddingSpaceError: the vector's length is not the collection's ``dim``.
        FilterError: a filter cannot be understood.
        CollectionNotFoundError: the collection was dropped.
    """
    _check(question)
    if question.filters is not None:
        to_sql(question.filters)  # a bad filter is refused even if no server answers
    vector = _checked_vector(collection, question)
    n_rows = question.top_k
    if question.mmr_lambda is not None:
        n_rows = min(max(_CANDIDATES_PER_HIT * n_rows, _MIN_CANDIDATES), MAX_TOP_K)
    query = Query(
        k=n_rows,
        filters=question.filters,
        document_ids=question.document_ids,
        node_ids=question.node_ids,
        exact=question.exact,
        dense_weight=_dense_weight(collection, question),
        with_embeddings=question.mmr_lambda is not None,
        with_bodies=with_bodies,
        n_context=question.n_context,
    )
    with reporting_drop(pool, collection):
        found = _read(pool, collection, lambda connection, known: _found(connection, known, question, vector, query))
    rows = found.rows
    if question.mmr_lambda is not None and vector is not None and rows:
        candidates = np.array([row.embedding for row in rows])
        chosen = mmr(vector, candidates, question.top_k, question.mmr_lambda)
        rows = [rows[position]._replace(score=score) for position, score in chosen]
    return Found(rows, found.collection)


def _read(pool: PostgresPool, collection: Collection, run_search: Callable[[Connection, Collection], Found]) -> Found:
    """Search; again if a segment's table does not exist any more, because it was merged into another, or lost.

    Without segments every node is compared, which is always correct.
    """
    try:
        return pool.read(lambda connection: run_search(connection, collection))
    except MissingTableError:
        if not collection.segments:
            raise
    now = find_collection(pool, collection.name)
    if now is None or now.collection_id != collection.collection_id:
        raise dropped(collection)
    known = now if now.segments != collection.segments else replace(now, segments=())
    return pool.read(lambda connection: run_search(connection, known))


def mmr(vector: NDArray[Any], candidates: NDArray[Any], k: int, lambda_: float) -> list[tuple[int, float]]:
    """Choose k candidates that are near the vector and not near each other: maximal marginal relevance.

    Each next one has the highest ``lambda_ * similarity to the vector - (1 - lambda_) * highest similarity to one
    already chosen``, where a negative similarity to a chosen one counts 0. So the scores never rise.

    Args:
        candidates: shape ``(n, dim)``; among equal ones the first is chosen.

    Returns:
        Position and score of each chosen candidate, in the order of choice.
    """
    units = _units(candidates)
    relevance = units @ _units(vector[np.newaxis])[0]
    redundancy = np.zeros(len(units))
    available = np.ones(len(units), dtype=bool)
    chosen: list[tuple[int, float]] = []
    for _ in range(min(k, len(units))):
        scores = np.where(available, lambda_ * relevance - (1 - lambda_) * redundancy, -np.inf)
        best = int(np.argmax(scores))
        chosen.append((best, float(scores[best])))
        available[best] = False
        redundancy = np.maximum(redundancy, units @ units[best])
    return chosen


def _units(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """The vectors scaled to length one; a zero vector stays zero and is similar to nothing."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return units


def _found(
    connection: Connection,
    collection: Collection,
    question: Question,
    vector: NDArray[np.float32] | None,
    query: Query,
) -> Found:
    text = question.text or ""
    if question.mode == "keyword" or vector is None:
        return keyword_search(connection, collection, text, query)
    if question.mode == "vector":
        return vector_search(connection, collection, vector, query)
    return hybrid_search(connection, collection, text, vector, query)


def _check(question: Question) -> None:
    if question.mode not in get_args(Mode):
        raise UsageError(
            f"unknown search mode {question.mode!r}",
            hint=f"use one of {' '.join(get_args(Mode))} for --mode",
            in_python=f"give mode= one of {' '.join(get_args(Mode))}",
        )
    for needed in _NEEDED[question.mode]:
        if getattr(question, needed) is None:
            raise UsageError(
                f"a {question.mode} search needs the {needed} of the question",
                hint="give text and vector, or choose the mode 'vector' or 'keyword' that needs one of them",
            )
    if isinstance(question.top_k, bool) or not isinstance(question.top_k, int) or not 1 <= question.top_k <= MAX_TOP_K:
        raise UsageError(
            f"top_k is {question.top_k!r}",
            hint=f"use a number from 1 to {MAX_TOP_K} for -k",
            in_python=f"give top_k= a number from 1 to {MAX_TOP_K}",
        )
    weight = question.dense_weight
    if weight is not None and not (math.isfinite(weight) and weight >= 0):
        raise UsageError(f"dense_weight is {weight!r}", hint="use a number from 0 up")
    n_context = question.n_context
    if isinstance(n_context, bool) or not isinstance(n_context, int) or not 0 <= n_context <= MAX_CONTEXT:
        raise UsageError(
            f"context is {n_context!r}",
            hint=f"use a number from 0 to {MAX_CONTEXT} for --context",
            in_python=f"give context= a number from 0 to {MAX_CONTEXT}",
        )
    if question.mmr_lambda is None:
        return
    if not 0 <= question.mmr_lambda <= 1:
        raise UsageError(f"mmr_lambda is {question.mmr_lambda!r}", hint="use a number from 0 to 1")
    if question.vector is None:
        raise UsageError("mmr needs the vector of the question", hint="give a vector or leave mmr_lambda out")


def _dense_weight(collection: Collection, question: Question) -> float:
    return dense_weight(collection.space.model) if question.dense_weight is None else question.dense_weight


def _checked_vector(collection: Collection, question: Question) -> NDArray[np.float32] | None:
    if question.vector is None:
        return None
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(question.vector, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the question's vector is none: {error}", hint="check the embedding model") from error
    if vector.shape != (collection.space.dim,):
        shape = vector.shape[0] if vector.ndim == 1 else vector.shape
        raise EmbeddingSpaceError(
            f"the question's vector has {shape} dimensions, collection {collection.name!r} was made with "
            f"{collection.space}",
            hint=f"embed questions with {collection.space.model!r}, as the collection's documents were",
            dim=shape,
            collection_dim=collection.space.dim,
        )
    if not np.isfinite(vector).all():
        raise UsageError("the question's vector has NaN or infinite components", hint="check the embedding model")
    (length,) = lengths(vector[np.newaxis])
    # Scaled: the direction, and so every cosine, is the same, but at a length at which cosines can be computed.
    return vector if length == 0 or SHORTEST <= length <= LONGEST else (vector / length).astype(np.float32)


def to_hit(row: Row) -> Hit:
    """The hit of a row, in the form for users."""
    page, headings = row.user_metadata.get("page"), row.user_metadata.get("headings")
    return Hit(
        score=row.score,
        text=row.text,
        document_id=row.document_id or "",
        source=row.source_uri or "",
        node_id=row.node_id,
        metadata=row.user_metadata,
        start_char=row.start_char,
        end_char=row.end_char,
        page=page if isinstance(page, int) and not isinstance(page, bool) else None,
        headings=tuple(filter(_is_text, headings)) if isinstance(headings, list) else (),
        context=None if row.context is None else joined(row.context),
    )


def joined(chunks: Sequence[Sequence[Any]]) -> str | None:
    """The text that chunks of one document were split from; None if a position is not known.

    Text that two chunks share is there once; between chunks that do not touch there is a blank line.

    Args:
        chunks: each ``[start_char, end_char, text]``; a table's header that a text repeats is left out, but for the
            first one's.
    """
    if not chunks or any(start is None for start, _, _ in chunks):
        return None
    text, end = "", -1
    for start, stop, piece in sorted(chunks, key=lambda chunk: chunk[0]):
        n_head = 0 if stop is None else max(0, n_repeated(piece, start, stop))
        head, piece = piece[:n_head], piece[n_head:]  # noqa: PLW2901
        n_shared = end - start
        shared = text[len(text) - n_shared :][: len(piece)] if 0 <= n_shared <= len(text) else None
        if text and shared is not None and piece.startswith(shared):
            text += piece[len(shared) :]
        else:
            text += f"\n\n{piece}" if text else head + piece
        end = max(end, start + len(piece))
    return text


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
