"""A property graph: entities, chunks of text, and relations between them.

All writes to the graphs of one collection wait for each other, by a lock that the server frees with the transaction:
so none of them can be in another's way, in whatever order they name nodes. A chunk that is deleted takes with it what
only it states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from ragstore.model.collection import Collection
from ragstore.model.graph import GraphNode, GraphRelation, Path, Selection
from ragstore.postgres import graph_statements as statements
from ragstore.postgres.filters import Sql
from ragstore.postgres.pool import Cursor, PostgresPool

_N_NODE = 6


def put_nodes(pool: PostgresPool, collection: Collection, nodes: Sequence[GraphNode]) -> None:
    """Add nodes; the same id again replaces, and of an id twice in the call the last counts.

    Crash safety:
        One transaction.
    """
    last = {node.node_id: node for node in nodes}
    sources: dict[str, set[str]] = {}
    for node in nodes:
        sources.setdefault(node.node_id, set()).update(node.sources)
    _execute(
        pool,
        collection,
        statements.PUT_NODES,
        space=statements.LOCK_SPACE,
        node_id=list(last),
        label=[n.label for n in last.values()],
        name=[n.name for n in last.values()],
        text=[n.text for n in last.values()],
        properties=[_json(n.properties) for n in last.values()],
        embedding=[None if n.embedding is None else _array(n.embedding) for n in last.values()],
        sources=[_json(sorted(sources[i])) for i in last],
    )


def known_nodes(pool: PostgresPool, collection: Collection, node_ids: Sequence[str]) -> set[str]:
    """Those of these ids that are nodes."""
    return {row[0] for row in _execute(pool, collection, statements.KNOWN_NODES, node_ids=list(node_ids))}


def put_relations(pool: PostgresPool, collection: Collection, relations: Sequence[GraphRelation]) -> None:
    """Add relations, and entities for ends that are no nodes yet; the same relation again gets its properties.

    Crash safety:
        One transaction.
    """
    last = {(r.source_id, r.label, r.target_id): r for r in relations}
    sources: dict[tuple[str, str, str], set[str]] = {}
    ends: dict[str, set[str]] = {}
    for each in relations:
        sources.setdefault((each.source_id, each.label, each.target_id), set()).update(each.sources)
        for end in (each.source_id, each.target_id):
            ends.setdefault(end, set()).update(each.sources)
    _execute(
        pool,
        collection,
        statements.PUT_RELATIONS,
        space=statements.LOCK_SPACE,
        end_id=list(ends),
        end_sources=[_json(sorted(s)) for s in ends.values()],
        source_id=[r.source_id for r in last.values()],
        label=[r.label for r in last.values()],
        target_id=[r.target_id for r in last.values()],
        properties=[_json(r.properties) for r in last.values()],
        sources=[_json(sorted(sources[key])) for key in last],
    )


def get_nodes(pool: PostgresPool, collection: Collection, selection: Selection) -> list[GraphNode]:
    """The nodes that are meant, oldest first."""
    text, values = _of_nodes(selection)
    rows = _fetch(pool, statements.GET_NODES.format(condition=text), [collection.collection_id, *values])
    return [GraphNode(*row) for row in rows]


def get_paths(pool: PostgresPool, collection: Collection, selection: Selection) -> list[Path]:
    """The relations that are meant, with their ends, oldest first."""
    text, values = _of_relations(selection)
    return [
        _path(row)
        for row in _fetch(pool, statements.GET_PATHS.format(condition=text), [collection.collection_id, *values])
    ]


def paths_near(
    pool: PostgresPool,
    collection: Collection,
    node_ids: Sequence[str],
    *,
    depth: int,
    limit: int,
    ignored: Sequence[str],
) -> list[Path]:
    """Relations of these nodes and of those that they lead to in fewer than ``depth`` steps, the nearest first.

    Args:
        ignored: labels of relations that are followed and not returned.
    """
    parameters = {"node_ids": list(node_ids), "depth": depth, "limit": limit, "ignored": list(ignored)}
    return [_path(row) for row in _execute(pool, collection, statements.NEAR, **parameters)]


def nearest_entities(
    pool: PostgresPool, collection: Collection, vector: Sequence[float], *, top_k: int, condition: Sql
) -> list[tuple[GraphNode, float]]:
    """Entities with their cosine similarity, the most similar first, by comparing all.

    Args:
        condition: on ``n``, a row of ``graph_node``.
    """
    text, values = condition
    embedding = f"[{','.join(map(repr, vector))}]"
    parameters = [len(vector), embedding, collection.collection_id, *values, top_k]
    rows = _fetch(pool, statements.NEAREST.format(condition=text), parameters)
    return [(GraphNode(*row[:_N_NODE]), float(row[_N_NODE])) for row in rows]


def embedding_dims(pool: PostgresPool, collection: Collection) -> list[int]:
    """The lengths of the vectors that entities have."""
    return [row[0] for row in _execute(pool, collection, statements.DIMS)]


def labels(pool: PostgresPool, collection: Collection) -> tuple[list[str], list[str]]:
    """Labels in use, of nodes and of relations."""
    ((of_nodes, of_relations),) = _execute(pool, collection, statements.LABELS)
    return of_nodes, of_relations


def delete_nodes(pool: PostgresPool, collection: Collection, selection: Selection) -> None:
    """Remove the nodes that are meant with their relations, and what only they state.

    Crash safety:
        One transaction.
    """
    _delete(pool, collection, _of_nodes(selection), ())


def delete_chunks(
    pool: PostgresPool, collection: Collection, node_ids: Sequence[str], document_ids: Sequence[str]
) -> None:
    """Remove these chunks, all chunks of these documents, and what only they state.

    Crash safety:
        One transaction.
    """
    of_documents = [_json({"ref_doc_id": document_id}) for document_id in document_ids]
    condition = "(n.node_id = ANY(%s::text[]) OR n.kind = 'chunk' AND n.properties @> ANY(%s::jsonb[]))"
    _delete(pool, collection, (condition, [[*node_ids, *document_ids], of_documents]), node_ids)


def delete_relations(pool: PostgresPool, collection: Collection, selection: Selection) -> None:
    """Remove the relations that are meant; their ends stay.

    Crash safety:
        One transaction.
    """
    text, values = _of_relations(selection)
    with pool.transaction() as cursor:
        cursor.execute(
            statements.LOCK_GRAPH, {"space": statements.LOCK_SPACE, "collection_id": collection.collection_id}
        )
        cursor.execute(statements.DELETE_RELATIONS.format(condition=text), [collection.collection_id, *values])


def _delete(pool: PostgresPool, collection: Collection, condition: Sql, also_gone: Sequence[str]) -> None:
    parameters: dict[str, Any] = {"collection_id": collection.collection_id, "source_key": statements.SOURCE_KEY}
    text, values = condition
    with pool.transaction() as cursor:
        _lock(cursor, collection)
        cursor.execute(statements.DELETE_NODES.format(condition=text), [collection.collection_id, *values])
        parameters["gone"] = [*(row[0] for row in cursor.fetchall()), *also_gone]
        if parameters["gone"]:
            _forget(cursor, parameters)


def _lock(cursor: Cursor, collection: Collection) -> None:
    cursor.execute(statements.LOCK_GRAPH, {"space": statements.LOCK_SPACE, "collection_id": collection.collection_id})


def _forget(cursor: Cursor, parameters: dict[str, Any]) -> None:
    cursor.execute(statements.FORGET_IN_RELATIONS, parameters)
    cursor.execute(statements.FORGET_IN_ENTITIES, parameters)
    touched = [row[0] for row in cursor.fetchall()]
    if touched:
        cursor.execute(statements.DELETE_UNUSED, parameters | {"node_ids": touched})


def _of_nodes(selection: Selection) -> Sql:
    wanted = (selection.node_ids, selection.names)
    conditions: list[Sql] = [("n.node_id = ANY(%s::text[])", [list(ids)]) for ids in wanted if ids is not None]
    if selection.properties:
        conditions.append(_any_property(selection.properties, "n"))
    return _all(conditions)


def _of_relations(selection: Selection) -> Sql:
    conditions = []
    for ids in (selection.node_ids, selection.names):
        if ids is not None:
            ends = "(r.source_id = ANY(%s::text[]) OR r.target_id = ANY(%s::text[]))"
            conditions.append((ends, [list(ids), list(ids)]))
    if selection.labels is not None:
        conditions.append(("r.label = ANY(%s::text[])", [list(selection.labels)]))
    if selection.properties:
        parts = [_any_property(selection.properties, alias) for alias in ("s", "r", "t")]
        conditions.append((f"({' OR '.join(p[0] for p in parts)})", [value for p in parts for value in p[1]]))
    return _all(conditions)


def _any_property(properties: dict[str, Any], alias: str) -> Sql:
    """Where one of these is equal; the first part of each can be served by an index."""
    texts: list[str] = []
    values: list[Any] = []
    for key, value in properties.items():
        if value is None:
            texts.append(f"coalesce({alias}.properties -> %s, 'null') = 'null'")
            values.append(key)
        else:
            texts.append(f"({alias}.properties @> %s::jsonb AND {alias}.properties -> %s = %s::jsonb)")
            values += [_json({key: value}), key, _json(value)]
    return f"({' OR '.join(texts)})", values


def _all(conditions: Sequence[Sql]) -> Sql:
    return " AND ".join(text for text, _ in conditions) or "true", [v for _, values in conditions for v in values]


def _path(row: tuple[Any, ...]) -> Path:
    return GraphNode(*row[:_N_NODE]), GraphRelation(*row[_N_NODE:-_N_NODE]), GraphNode(*row[-_N_NODE:])


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _array(vector: Sequence[float]) -> str:
    return f"{{{','.join(map(repr, vector))}}}"


def _execute(pool: PostgresPool, collection: Collection, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return _fetch(pool, statement, parameters | {"collection_id": collection.collection_id})


def _fetch(pool: PostgresPool, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []
