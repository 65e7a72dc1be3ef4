"""Search of one collection by vector, by words, or by both, in one statement that sees one state of the ledger.

A statement whose limits were too narrow reports this, and the next, wider one replaces its whole answer. Two statements
never share an answer, because a new revision of a document may have been published between them.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from ragstore.model.collection import Collection, Effort, default_effort
from ragstore.model.filters import Filter
from ragstore.postgres.collections import dropped, to_effort, to_segments
from ragstore.postgres.filters import can_be_served, to_sql
from ragstore.postgres.names import quoted_literal, quoted_table
from ragstore.postgres.pairs import Some, Wanted, find_wanted, group_condition, mask_sql, node_condition
from ragstore.postgres.pool import Connection
from ragstore.postgres.prepared import PreparingConnection, Statement
from ragstore.postgres.segment_tables import table_of
from ragstore.postgres.segments import fresh_condition
from ragstore.postgres.vectors import decoded_vector

Vector = NDArray[np.float32]
Mode = Literal["vector", "keyword", "hybrid"]

_RRF_K = 15
_MIN_COSINE = 0.1
"""Least cosine of a vector hit that counts in a hybrid search; less similar ones may still fill up the hits."""

_MIN_FUSED = 50
"""Candidates of each side of a hybrid search, or twice the wanted hits if that is more."""

_WIDER = 4
"""Factor by which a second look compares more."""

_MAX_NEAR = 2_000
"""Most nodes whose rows are fetched to check which of them a filter allows."""

_MAX_FEW = 12_000
_MAX_FEW_COMPONENTS = 6_000_000
"""Most nodes that a filter allows, and most components of their vectors, for which comparing all of them costs no more
than a wide look into the segments."""

_ALWAYS_FEW, _SHARE_OF_FEW, _MOST_FEW = 1_000, 0.02, 4_000
"""All allowed nodes are compared at once up to the first number, or up to this share of all nodes but not above the
last number."""

_PRUNED_TIMES = 3
_LEAST_AROUND, _AROUND_SHARE, _AROUND_PER_ENTRY = 8_000, 25, 8
"""A search with a filter looks this many times farther than without, because allowed nodes may be far from all
questions that the effort was measured with. Of the nodes in cells with allowed ones it visits at least the first
number, or one of 25 of all nodes if that is more; most of them it need not compare. It visits an entry for each 8 of
these nodes."""

_MEASURED_FOR = 1.2
"""Factor of growth up to which a measured effort stays valid; above it, the effort grows with the number of nodes."""

_ENTRIES_OF_REGION, _NODES_OF_CELL, _FEWEST_SORTED = 10, 6, 100
"""Regions and cells have several times more, mostly."""

_MAX_COUNTED = 64
"""Limit to which a word is counted that the statistics do not have, to find out how rare it is."""

_MAX_SOLE, _MIN_FOR_SOLE = 3, 1_000
"""A word in at most 3 nodes, in a collection of at least 1,000, brings these to the top of a hybrid search."""

_MAX_CHOSEN = 600
"""The rarest words that together occur in about this many nodes choose the nodes to rank."""

_MAX_LISTED = 6_000
"""The index is used for words that together occur in about this many nodes; more common ones are searched for in a
sample of the table, which has enough of them."""

_MAX_RANKED = 600
"""Most nodes of each choice that a keyword search ranks, or twice the wanted hits if that is more."""

_N_FILL = 100
"""Nodes with more common words that are ranked too if the rarer words have found too few."""

_MAX_LOOKED_AT = 3_000
"""Rows of that sample, or 20 for each wanted hit."""

_ALL_WITH_COMMON_WORDS = """(
        SELECT ctid AS tid FROM {table}
        WHERE text_search_tsv @@ (SELECT common_words FROM question) AND {condition}
    )"""
"""Used in place of a sample if there is a filter, which may allow few rows."""


@dataclass(frozen=True, slots=True)
class Query:
    """Options of a search, without the question itself.

    Args:
        k: hits wanted, 1 to 1,000.
        filters: a condition on the user's metadata.
        document_ids: only nodes of these documents; an empty sequence allows none.
        node_ids: only these nodes; an empty sequence allows none.
        exact: compare with every allowed vector.
        dense_weight: how much the rank by vector counts in a hybrid search, where the rank by words counts 1.
        with_embeddings: fetch the vectors of the hits too.
        with_bodies: fetch what LlamaIndex's nodes are made of, in place of the user's metadata.
        n_context: number of nodes of the same document to fetch on each side of a hit, 0 or more.
    """

    k: int
    filters: Filter | None = None
    document_ids: Sequence[str] | None = None
    node_ids: Sequence[str] | None = None
    exact: bool = False
    dense_weight: float = 1.0
    with_embeddings: bool = False
    with_bodies: bool = False
    n_context: int = 0


class Row(NamedTuple):
    """One hit as the database has it.

    Args:
        user_metadata: empty where bodies were asked for.
        embedding: shape ``(dim,)``; there when it was asked for.
        class_name: LlamaIndex's class; there, with ``content``, when bodies were asked for.
        content: LlamaIndex's ``BaseNode.to_dict()`` without text and embedding, as JSON.
        context: ``[start_char or null, end_char or null, text]`` of the node and its neighbours, in their order;
            there when asked for.
    """

    node_id: str
    document_id: str | None
    source_uri: str | None
    text: str
    user_metadata: dict[str, Any]
    start_char: int | None
    end_char: int | None
    score: float
    embedding: Vector | None
    class_name: str | None = None
    content: str | None = None
    context: list[list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Result of a search.

    Args:
        rows: best first; equal scores in the order of node ids.
        collection: its state that the statement saw, for the next search.
    """

    rows: list[Row]
    collection: Collection


def vector_search(connection: Connection, collection: Collection, vector: Vector, query: Query) -> Found:
    """The nodes nearest to a vector; the score is the cosine similarity, and 0 where either vector is zero.

    With k allowed nodes in the collection it returns k hits, whatever the filter. Those are the nearest among the
    allowed ones as far as the look into the segments found the nearest of all; where it does not show k allowed nodes
    at once, a wider one does, and last all allowed nodes are compared.

    Raises:
        CollectionNotFoundError: it was dropped; another may have its name.
    """
    return _first_complete(connection, collection, query, "vector", vector=vector)


def keyword_search(connection: Connection, collection: Collection, text: str, query: Query) -> Found:
    """The nodes that hold any word of a text, best first; none when it has only stop words.

    The score is the mean ``ts_rank`` of the words, weighted by how rare they are in the collection. Where even the
    rarest word is a common one, only some of the nodes that hold it are ranked.
    """
    return _first_complete(connection, collection, query, "keyword", text=text)


def hybrid_search(connection: Connection, collection: Collection, text: str, vector: Vector, query: Query) -> Found:
    """Both searches at once; the score is the weighted sum of ``1 / (15 + rank)``, reciprocal rank fusion.

    A zero vector ranks nothing, so only words decide then. A node with a word that occurs in up to three nodes of
    thousands counts as if it had its rank among those in both lists.
    """
    return _first_complete(connection, collection, query, "hybrid", text=text, vector=vector)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the vector side of a statement looks for nodes; each kind is one file of SQL.

    Args:
        n_near: nodes of the segments whose rows are fetched.
        entries: number of entries of the nearest regions to compare; 0 for every node of the segments.
        members: number of nodes of the nearest cells to compare.
        max_few: if too few of the nearest are allowed, most allowed nodes to compare.
        some: pairs of the metadata by which the look skips nodes that a filter cannot allow.
    """

    kind: Literal["none", "nearest", "near_or_few", "exact"]
    n_near: int = 0
    entries: int = 0
    members: int = 0
    max_few: int = 0
    some: Some | None = None


def _plans(
    collection: Collection, query: Query, mode: Mode, vector: Vector | None, wanted: Wanted | None
) -> Iterator[_Plan]:
    """Plans from the narrowest to the widest; the last is always complete."""
    if vector is None:
        yield _Plan("none")
        return
    if collection.segments and not query.exact and vector.any():
        if wanted is not None:
            yield from _pruned_plans(collection, wanted, _n_dense(query, mode))
        else:
            yield from _segment_plans(collection, query, _n_dense(query, mode))
    yield _Plan("exact")


def _segment_plans(collection: Collection, query: Query, n_dense: int) -> Iterator[_Plan]:
    # Segments have float16, and nodes that were deleted since: more candidates than hits, ranked by the full vectors.
    n_near = 2 * n_dense + 20
    wide = min(_MAX_NEAR, _WIDER * n_near)
    if query.filters is None and query.document_ids is None and query.node_ids is None:
        yield _look(collection, "nearest", n_near)
        yield _look(collection, "nearest", max(n_near, _MAX_NEAR), times=_WIDER)
        return
    max_few = _max_few(collection)
    if query.document_ids is not None or query.node_ids is not None:
        # They have indexes of their own and usually mean few nodes: not worth a look at the nearest of all.
        yield _Plan("near_or_few", max_few=max_few)
    else:
        # To count what no index finds is to look at every row, which is the last plan's.
        is_served = query.filters is not None and can_be_served(query.filters, collection.filter_keys)
        wide = max(wide, 100 + 20 * query.k)
        yield _look(collection, "near_or_few" if is_served else "nearest", wide, max_few=max_few if is_served else 0)
    yield _look(collection, "nearest", max(wide, _MAX_NEAR), times=_WIDER)


def _pruned_plans(collection: Collection, wanted: Wanted, n_dense: int) -> Iterator[_Plan]:
    """Plans for a filter that requires certain pairs, depending on how many nodes have them."""
    max_few = _max_few(collection)
    n_nodes = sum(segment.n_nodes for segment in collection.segments)
    if wanted.n_nodes <= min(max_few, _MOST_FEW, max(_ALWAYS_FEW, _SHARE_OF_FEW * n_nodes)):
        yield _Plan("near_or_few", max_few=max_few)
    n_near = 2 * n_dense + 20
    yield _pruned(_look(collection, "nearest", n_near, times=_PRUNED_TIMES), wanted, n_nodes)
    yield _pruned(_look(collection, "nearest", _MAX_NEAR, times=_WIDER * _PRUNED_TIMES), wanted, n_nodes)


def _pruned(look: _Plan, wanted: Wanted, n_nodes: int) -> _Plan:
    """The look limited to groups that may have allowed nodes, and wide enough to reach the nodes around these."""
    if not look.entries:
        return replace(look, some=wanted.some)
    around = min(int(wanted.n_around), max(_LEAST_AROUND, n_nodes // _AROUND_SHARE))
    members, entries = max(look.members, around), max(look.entries, around // _AROUND_PER_ENTRY)
    return replace(look, members=members, entries=entries, some=wanted.some)


def _max_few(collection: Collection) -> int:
    return min(_MAX_FEW, _MAX_FEW_COMPONENTS // collection.space.dim)


def _look(
    collection: Collection,
    kind: Literal["nearest", "near_or_few"],
    n_near: int,
    *,
    times: int = 1,
    max_few: int = 0,
) -> _Plan:
    """A look into the segments with ``times`` the measured effort."""
    effort = effort_of(collection)
    if effort.is_exact:
        return _Plan(kind, n_near, max_few=max_few)
    members = max(times * effort.members, 2 * n_near)
    return _Plan(kind, n_near, times * effort.entries, members, max_few)


def effort_of(collection: Collection) -> Effort:
    """The effort with which searches look into the collection's segments."""
    n_nodes = sum(segment.n_nodes for segment in collection.segments)
    if collection.effort is None:
        return default_effort(n_nodes)
    known = collection.effort
    if known.is_exact or n_nodes <= _MEASURED_FOR * known.n_nodes:
        return known
    # Measured on fewer nodes, it is too little for more.
    times, unmeasured = n_nodes / max(1, known.n_nodes), default_effort(n_nodes)
    return Effort(
        max(known.entries, min(math.ceil(times * known.entries), unmeasured.entries)),
        max(known.members, min(math.ceil(times * known.members), unmeasured.members)),
    )


def _n_dense(query: Query, mode: Mode) -> int:
    return query.k if mode == "vector" else max(2 * query.k, _MIN_FUSED)


def _first_complete(
    connection: Connection,
    collection: Collection,
    query: Query,
    mode: Mode,
    *,
    text: str | None = None,
    vector: Vector | None = None,
) -> Found:
    condition, values = _condition(collection, query)
    # What a condition allows decides which plan is best, so that one plan does not fit all its values.
    is_prepared = not values and isinstance(connection, PreparingConnection)
    wanted = None
    if vector is not None:
        values["vector"] = values["half"] = _vector_text(vector)
        if not query.exact and query.document_ids is None and query.node_ids is None:
            wanted = find_wanted(connection, collection, query.filters)
        if not vector.any():
            query = replace(query, dense_weight=0.0)
    if wanted is not None:
        values |= wanted.parameters()
    if text is not None:
        values["text"] = _storable(text)
    # Without the values of its conditions: what the text of a statement depends on.
    form = replace(query, filters=None, document_ids=None, node_ids=None)
    for plan in _plans(collection, query, mode, vector, wanted):
        statement = _statement(plan, collection, mode, form, condition)
        found = _fetched(connection, statement, values, is_prepared=is_prepared)
        complete, *now = found[0][:4]
        if complete:
            break
    if now[0] is None:
        raise dropped(collection)
    rows = [Row._make(row[4:]) for row in found if row[4] is not None]
    if query.with_embeddings:
        rows = [_with_embedding(row) for row in rows]
    return Found(rows, _as_now(collection, *now))


def _as_now(collection: Collection, segments: str, filter_keys: Sequence[str], effort: str) -> Collection:
    now = (to_segments(orjson.loads(segments)), tuple(filter_keys), to_effort(orjson.loads(effort)))
    if now == (collection.segments, collection.filter_keys, collection.effort):
        return collection
    return replace(collection, segments=now[0], filter_keys=now[1], effort=now[2])


def _fetched(
    connection: Connection, statement: Statement, values: dict[str, Any], *, is_prepared: bool
) -> list[tuple[Any, ...]]:
    if is_prepared and isinstance(connection, PreparingConnection):
        return connection.fetch(statement, values)
    with connection.cursor() as cursor:
        cursor.execute(statement.settings + statement.text, values)
        return cursor.fetchall()


@functools.lru_cache(maxsize=256)
def _statement(plan: _Plan, collection: Collection, mode: Mode, query: Query, condition: str) -> Statement:
    exact_distance = _or_one(f"embedding <=> %(vector)s::{collection.vector_type}")
    parts = [f"dense_{plan.kind}", *(["keyword"] if mode != "vector" else []), f"winner_{mode}"]
    text = "WITH\n" + ",\n".join(map(_sql, parts)) + "\n" + _sql("hits")
    text = text.format(
        table=quoted_table(collection),
        condition=condition,
        with_common_words=(_sql("sample") if condition == "true" else _ALL_WITH_COMMON_WORDS).format(
            table=quoted_table(collection), condition=condition
        ),
        candidate=_candidate_sql(collection, plan),
        fresh=_fresh_sql(collection, plan, condition),
        exact_distance=exact_distance,
        embedding="vector_send(node.embedding::vector)" if query.with_embeddings else "NULL",
        user_metadata="'{}'::jsonb" if query.with_bodies else "node.user_metadata",
        class_name="node.metadata_->>'_node_type'" if query.with_bodies else "NULL",
        content="node.metadata_->>'_node_content'" if query.with_bodies else "NULL",
        context=_sql("context").format(table=quoted_table(collection)) if query.n_context else "NULL",
    )
    constants = _constants(plan, collection, mode, query)
    types = (("vector", collection.vector_type), ("half", "halfvec"), ("text", "text"))
    return Statement(
        _settings(plan),
        re.sub(r"%\((\w+)\)s", lambda found: constants.get(found[1], found[0]), text),
        tuple((name, sql_type) for name, sql_type in types if f"%({name})s" in text),
    )


def _settings(plan: _Plan) -> str:
    """Settings for one statement: in one string with it they end with it and cost no round trip."""
    settings = "SET LOCAL jit = off; "
    if plan.n_near or plan.kind == "near_or_few":
        # How many rows a look or a filter means is estimated badly; their indexes cost little where it is wrong to use
        # them.
        settings += "SET LOCAL enable_seqscan = off; "
    return settings


def _constants(plan: _Plan, collection: Collection, mode: Mode, query: Query) -> dict[str, str]:
    """Values that are part of the statement's text because its plan depends on them; all of them are safe as SQL."""
    numbers = {
        "collection_id": collection.collection_id,
        "k": query.k,
        "n_near": plan.n_near,
        "n_dense": _n_dense(query, mode),
        "n_context": query.n_context,
        "n_keyword": max(2 * query.k, _MIN_FUSED),
        "max_few": plan.max_few,
        "max_counted": _MAX_COUNTED,
        "max_sole": _MAX_SOLE,
        "min_for_sole": _MIN_FOR_SOLE,
        "max_chosen": _MAX_CHOSEN,
        "max_listed": _MAX_LISTED,
        "max_ranked": max(2 * query.k, _MAX_RANKED),
        "n_fill": max(2 * query.k, _N_FILL),
        "max_looked_at": max(20 * query.k, _MAX_LOOKED_AT),
        "rrf_k": _RRF_K,
        "min_cosine": _MIN_COSINE,
        "dense_weight": query.dense_weight,
    }
    names = {"table_name": collection.table, "config": collection.text_search_config}
    return {name: str(number) for name, number in numbers.items()} | {
        name: quoted_literal(value) for name, value in names.items()
    }


def _fresh_sql(collection: Collection, plan: _Plan, condition: str) -> str:
    """The fresh nodes that are compared, from FROM on."""
    table = quoted_table(collection)
    if not plan.n_near:
        return f"{table} WHERE false"
    fresh = fresh_condition(collection.segments)
    if plan.some is None:
        return f"{table} WHERE {fresh}"
    # OFFSET keeps them from being looked for by an index on what the condition names: these are few.
    return f"(SELECT * FROM {table} WHERE {fresh} OFFSET 0) AS fresh_row WHERE {condition}"


def _candidate_sql(collection: Collection, plan: _Plan) -> str:
    """Common table expressions that end with ``candidate``: ids of the nodes of segments nearest to the question.

    The way is down the trees of all segments at once, by one budget: roots, entries of the nearest regions, members of
    the nearest cells. The question is normalised as all vectors are: the negative inner product orders by the cosine.
    With ``plan.some`` it leads past what has none of these pairs.
    """
    is_node = f"n = 0 AND {node_condition(plan.some)}" if plan.some else "n = 0"
    distance = "embedding <#> %(half)s::halfvec"
    trees: list[tuple[int, str]] = []
    tables: list[tuple[int, str]] = []
    nearest: list[str] = []
    for position, segment in enumerate(collection.segments):
        table = table_of(collection, segment)
        (trees if segment.n_cells and plan.entries else tables).append((position, table))
    if not plan.n_near:
        return "candidate AS (SELECT NULL::bigint AS id, NULL::float8 AS distance WHERE false)"

    def of_trees(condition: str) -> str:
        return " UNION ALL ".join(
            f"SELECT {position} AS segment, cell, id, n, mean * d - reach AS distance, d "
            f"FROM (SELECT cell, id, n, mean, reach, {distance} AS d FROM {table} "
            # OFFSET keeps the distance from being computed once for each time it is mentioned.
            f"WHERE {condition.format(position=position)}{only(position)} OFFSET 0) AS compared"
            for position, table in trees
        )

    def only(position: int) -> str:
        if plan.some is None:
            return ""
        return f" AND ({is_node} OR n > 0 AND {group_condition(plan.some, f'mask_{position}')})"

    parts = []
    if trees and plan.some is not None:
        for position, _ in trees:
            masks = mask_sql(collection, collection.segments[position].number, plan.some)
            parts.append(f"mask_{position} AS MATERIALIZED ({masks})")
    if trees:
        nearest_regions = _first("root", plan.entries, of_about=_ENTRIES_OF_REGION)
        nearest_cells = _first("entry", plan.members, of_about=_NODES_OF_CELL)
        parts += [
            f"root AS MATERIALIZED ({of_trees('cell = 0')})",
            f"home AS MATERIALIZED ({_home('root')})",
            f"region AS MATERIALIZED ({nearest_regions} UNION SELECT segment, id FROM home)",
            f"entry AS MATERIALIZED ({of_trees(_OF_NEAREST.format(what='region'))})",
            f"cell AS MATERIALIZED ({nearest_cells} UNION {_home('entry', of='home')})",
        ]
        nearest += [_nearest(f"{level} WHERE n = 0", "d") for level in ("root", "entry")]
        condition = _OF_NEAREST.format(what="cell")
        nearest += [
            _nearest(f"{table} WHERE {condition.format(position=position)} AND {is_node}", distance)
            for position, table in trees
        ]
    nearest += [_nearest(f"{table} WHERE {is_node}", distance) for _, table in tables]
    union = "\n    UNION ALL ".join(nearest)
    parts.append(
        f"candidate AS MATERIALIZED (SELECT id, distance FROM (\n    {union}\n) AS near "
        "ORDER BY distance LIMIT %(n_near)s)"
    )
    return ",\n".join(parts)


_OF_NEAREST = "cell = ANY (ARRAY(SELECT id::integer FROM {what} WHERE segment = {{position}}))"


def _home(level: str, of: str = "") -> str:
    """Of each tree the two regions, or of each of those the two cells, whose centres are nearest.

    A node is in the one that is nearest to it, so that its own vector finds it; two, because sums are rounded.
    """
    within = f" AND (segment, cell) IN (SELECT segment, id FROM {of})" if of else ""
    return (
        "SELECT segment, id FROM (SELECT segment, id, row_number() OVER (PARTITION BY segment, cell ORDER BY d, id) "
        f"AS place FROM {level} WHERE n > 0{within}) AS placed WHERE place <= 2"
    )


def _first(level: str, budget: int, *, of_about: int) -> str:
    """The nearest regions or cells of a level, until those before them have ``budget`` entries or nodes.

    Args:
        of_about: entries or nodes that the nearest ones have on average, at least: not all are sorted.
    """
    n_most = budget // of_about + _FEWEST_SORTED
    return (
        "SELECT segment, id FROM (SELECT segment, id, sum(n) OVER (ORDER BY distance ROWS UNBOUNDED PRECEDING) - n "
        f"AS before FROM (SELECT * FROM {level} WHERE n > 0 ORDER BY distance LIMIT {n_most:d}) AS nearest) AS counted "
        f"WHERE before < {budget:d}"
    )


def _nearest(of: str, distance: str) -> str:
    return f"(SELECT id, {distance} AS distance FROM {of} ORDER BY distance LIMIT %(n_near)s)"


def _or_one(distance: str) -> str:
    """A zero vector has no direction: no similarity instead of NaN."""
    return f"COALESCE(NULLIF({distance}, 'NaN'), 1)"


def _condition(collection: Collection, query: Query) -> tuple[str, dict[str, Any]]:
    """Condition on a node, over the columns user_metadata, document_id and node_id, with its parameters."""
    texts: list[str] = []
    params: dict[str, Any] = {}
    if query.filters is not None:
        text, values = to_sql(query.filters, declared=collection.filter_keys)
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
    """The text without NUL and lone surrogates, which PostgreSQL cannot store."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def _vector_text(vector: Vector) -> str:
    """A vector in pgvector's text form, normalised so that no sum of squares overflows a float."""
    wide = vector.astype(np.float64)
    wide /= math.sqrt(wide @ wide) or 1.0
    return orjson.dumps(wide.astype(np.float32), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _with_embedding(row: Row) -> Row:
    """The row with its vector decoded from PostgreSQL's binary form."""
    return row._replace(embedding=decoded_vector(cast("Any", row.embedding)))


@functools.cache
def _sql(name: str) -> str:
    return importlib.resources.files("ragstore.postgres").joinpath(f"sql/search_{name}.sql").read_text("utf-8").strip()
