"""Search of one collection: by vector, by words, or by both, as one statement that sees one state of the ledger.

A statement that was not allowed to look far enough says so, and the next, wider one replaces its answer whole; two
statements never share an answer, because between them a new revision of a document may have been published.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from ragstore.model.collection import Collection
from ragstore.model.filters import Filter
from ragstore.postgres.filters import to_sql
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Connection
from ragstore.postgres.vectors import MAX_INDEXED_DIM, index_expression

Vector = NDArray[np.float32]

DENSE_WEIGHT = 3.0
"""A good embedding model finds more than words do: weighting both the same makes natural questions worse."""

_RRF_K = 60
_MIN_FUSED = 50
"""Each side of a hybrid search brings so many candidates, or twice the wanted hits if that is more."""

_MIN_EF_SEARCH = 100
_MAX_EF_SEARCH = 1000  # pgvector's own limit
_MAX_FEW = 5_000
"""Up to so many nodes that a filter allows, comparing all of them costs as much as a deep look into the index."""

_MAX_CHOSEN = 2_500
"""Rarer words choose the nodes to rank as long as they stand in about so many; more did not find better ones."""

_MAX_RANKED = 5_000
"""A keyword search ranks so many nodes at most, of each choice: each costs some microseconds."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to find, apart from the question itself.

    Args:
        k: hits wanted, 1 to 1,000.
        filters: a condition on the user's metadata.
        document_ids: only nodes of these documents; an empty sequence allows none.
        node_ids: only these nodes; an empty sequence allows none.
        exact: compare with every allowed vector, without the index.
        dense_weight: how much the rank by vector counts in a hybrid search, where the rank by words counts 1.
        with_embeddings: fetch the vectors of the hits too.
    """

    k: int
    filters: Filter | None = None
    document_ids: Sequence[str] | None = None
    node_ids: Sequence[str] | None = None
    exact: bool = False
    dense_weight: float = DENSE_WEIGHT
    with_embeddings: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One hit as the database has it; ``embedding`` has shape ``(dim,)`` and is there when it was asked for."""

    node_id: str
    document_id: str | None
    source_uri: str | None
    text: str
    user_metadata: dict[str, Any]
    start_char: int | None
    end_char: int | None
    score: float
    embedding: Vector | None


def vector_search(connection: Connection, collection: Collection, vector: Vector, query: Query) -> list[Row]:
    """The nodes nearest to a vector; the score is the cosine similarity, and 0 where either vector is zero.

    With k allowed nodes in the collection it returns k hits, whatever the filter. Those are the nearest among the
    allowed ones as far as the index is right about the nearest of all; where it does not show k allowed nodes at
    once, all allowed nodes are compared. (Scanning the index until k allowed nodes turn up, as
    ``hnsw.iterative_scan`` can, finds nodes, but not the nearest: 0.5 to 0.7 of them when the filter excludes the
    neighbourhood of the vector.)
    """
    return _first_complete(connection, collection, query, _Question("vector", vector=vector))


def keyword_search(connection: Connection, collection: Collection, text: str, query: Query) -> list[Row]:
    """The nodes that hold any word of a text, best first; none when it has only stop words.

    The score is the mean ``ts_rank`` of the words, weighted by how rare they are in the collection. When every word
    is a common one, 5,000 of the nodes that hold it are ranked and no more.
    """
    return _first_complete(connection, collection, query, _Question("keyword", text=text))


def hybrid_search(connection: Connection, collection: Collection, text: str, vector: Vector, query: Query) -> list[Row]:
    """Both searches at once; the score is the weighted sum of ``1 / (60 + rank)``, reciprocal rank fusion.

    A zero vector ranks nothing, so words alone decide then.
    """
    return _first_complete(connection, collection, query, _Question("hybrid", text=text, vector=vector))


@dataclass(frozen=True, slots=True)
class _Question:
    mode: Literal["vector", "keyword", "hybrid"]
    text: str | None = None
    vector: Vector | None = None

    @property
    def is_zero(self) -> bool:
        return self.vector is not None and not self.vector.any()


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the vector side of a statement looks for nodes; each kind is one file of SQL."""

    kind: Literal["none", "nearest", "near_or_few", "exact"]
    n_near: int = 0
    ef_search: int = _MIN_EF_SEARCH
    iterative_scan: Literal["off", "relaxed_order"] = "off"


def _plans(collection: Collection, query: Query, question: _Question) -> Iterator[_Plan]:
    """From the narrowest look to the widest; the last is always complete."""
    if question.vector is None:
        yield _Plan("none")
        return
    has_index = collection.index_state == "ready" and collection.space.dim <= MAX_INDEXED_DIM
    if has_index and not query.exact and not question.is_zero:
        yield from _index_plans(collection, query, _n_dense(query, question))
    yield _Plan("exact")


def _index_plans(collection: Collection, query: Query, n_dense: int) -> Iterator[_Plan]:
    if query.filters is None and query.document_ids is None and query.node_ids is None:
        # float16 in the index: more candidates than hits, to rank again with the full vectors.
        yield _near("nearest", n_dense + 10 if index_expression(collection) == "embedding" else 2 * n_dense + 20)
    elif query.document_ids is not None or query.node_ids is not None:
        # They have indexes of their own and usually mean few nodes: not worth a look at the nearest of all.
        yield _Plan("near_or_few")
    else:
        yield _near("near_or_few", min(100 + 10 * query.k, _MAX_EF_SEARCH // 2))
    if query.k <= _MAX_EF_SEARCH // 2:
        yield _near("nearest", _MAX_EF_SEARCH // 2)


def _near(kind: Literal["nearest", "near_or_few"], n_near: int) -> _Plan:
    """A look at the nearest; the index is right about the nearer half of what it was told to search.

    It also returns nodes that are deleted and not vacuumed, which do not count: where they leave too few, the next
    plan has to look. Only where so many are wanted that this would always happen may the index search on by itself.
    """
    ef_search = min(max(2 * n_near, _MIN_EF_SEARCH), _MAX_EF_SEARCH)
    return _Plan(kind, n_near, ef_search, "relaxed_order" if 2 * n_near > ef_search else "off")


def _n_dense(query: Query, question: _Question) -> int:
    return query.k if question.mode == "vector" else max(2 * query.k, _MIN_FUSED)


def _first_complete(connection: Connection, collection: Collection, query: Query, question: _Question) -> list[Row]:
    params = _params(collection, query, question)
    condition, condition_params = _condition(query)
    with connection.cursor() as cursor:
        for plan in _plans(collection, query, question):
            statement = _statement(plan, collection, query, question, condition)
            cursor.execute(statement, params | condition_params | {"n_near": plan.n_near})
            (complete, *first), *others = cursor.fetchall()
            if complete:
                break
    return [_row(values) for values in (first, *(other[1:] for other in others)) if values[0] is not None]


def _params(collection: Collection, query: Query, question: _Question) -> dict[str, Any]:
    n_dense = _n_dense(query, question)
    return {
        "collection_id": collection.collection_id,
        "table_name": collection.table,
        "config": collection.text_search_config,
        "text": None if question.text is None else _storable(question.text),
        "vector": None if question.vector is None else _vector_text(question.vector),
        "k": query.k,
        "n_dense": n_dense,
        "n_keyword": max(2 * query.k, _MIN_FUSED),
        "max_few": _MAX_FEW,
        "max_chosen": _MAX_CHOSEN,
        "max_ranked": _MAX_RANKED,
        "rrf_k": _RRF_K,
        "dense_weight": 0.0 if question.is_zero else query.dense_weight,
    }


def _statement(plan: _Plan, collection: Collection, query: Query, question: _Question, condition: str) -> str:
    indexed = index_expression(collection)
    exact_distance = _or_one("embedding <=> %(vector)s::vector")
    index_vector = "%(vector)s::" + ("vector" if indexed == "embedding" else f"halfvec({collection.space.dim})")
    parts = [f"dense_{plan.kind}", *(["keyword"] if question.text is not None else []), f"winner_{question.mode}"]
    text = "WITH\n" + ",\n".join(map(_sql, parts)) + "\n" + _sql("hits")
    # In one string with the statement they end with it, and cost no round trip.
    settings = "SET LOCAL jit = off; "
    if plan.n_near:
        # The planner does not count the cost of reading long vectors from where they are stored, and would rather sort
        # them all. Without sorting the index is the only way to have the nearest first; other sorts have no other way.
        settings += "SET LOCAL enable_sort = off; "
        settings += f"SET LOCAL hnsw.ef_search = {plan.ef_search}; "
        settings += f"SET LOCAL hnsw.iterative_scan = {plan.iterative_scan}; "
    return settings + text.format(
        table=quoted_table(collection),
        condition=condition,
        index_distance=f"{indexed} <=> {index_vector}",
        candidate_distance=_or_one("index_distance") if indexed == "embedding" else exact_distance,
        exact_distance=exact_distance,
        embedding="vector_send(node.embedding)" if query.with_embeddings else "NULL",
    )


def _or_one(distance: str) -> str:
    """A zero vector has no direction: no similarity instead of NaN."""
    return f"COALESCE(NULLIF({distance}, 'NaN'), 1)"


def _condition(query: Query) -> tuple[str, dict[str, Any]]:
    """What a node must fulfil, over the columns user_metadata, document_id and node_id."""
    texts: list[str] = []
    params: dict[str, Any] = {}
    if query.filters is not None:
        text, values = to_sql(query.filters)
        params = {f"filter_{position}": value for position, value in enumerate(values)}
        positions = itertools.count()
        texts.append(re.sub("%s", lambda _: f"%(filter_{next(positions)})s", text))
    for column in ("document_id", "node_id"):
        ids: Sequence[str] | None = getattr(query, f"{column}s")
        if ids is not None:
            texts.append(f"{column} = ANY (%({column}s)s::text[])")
            params[f"{column}s"] = [one for one in ids if one == _storable(one)]
    return " AND ".join(texts) or "true", params


def _storable(text: str) -> str:
    """Without what PostgreSQL cannot hold: NUL and lone surrogates."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def _vector_text(vector: Vector) -> str:
    """pgvector's text form, of length one so that no sum of squares overflows a float."""
    wide = vector.astype(np.float64)
    wide /= np.linalg.norm(wide) or 1.0
    return orjson.dumps(wide.astype(np.float32), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _row(values: Sequence[Any]) -> Row:
    node_id, document_id, source_uri, text, user_metadata, start_char, end_char, score, sent = values
    embedding = None if sent is None else np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)
    return Row(node_id, document_id, source_uri, text, user_metadata, start_char, end_char, score, embedding)


@functools.cache
def _sql(name: str) -> str:
    return importlib.resources.files("ragstore.postgres").joinpath(f"sql/search_{name}.sql").read_text("utf-8").strip()
