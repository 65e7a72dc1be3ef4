"""Property graph of a collection: entities, chunks of text, and relations between them.

Writes to the graphs of one collection wait for each other by a lock that the server releases with the transaction, so
they cannot deadlock, in whatever order they name nodes. With a deleted chunk, entities and relations that only this
chunk states are deleted too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from ragstore.model.collection import Collection
from ragstore.model.graph import GraphNode, GraphRelation, Path, Selection
from ragstore.postgres.filters import Sql
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import execute, fetch, fetch_ids, fetch_values

_N_NODE = 6
LOCK_SPACE = 0x5241_4747  # "RAGG"
LOCK_GRAPH = "SELECT pg_advisory_xact_lock(%(space)s, %(collection_id)s);"
SOURCE_KEY = "triplet_source_id"
"""Property in which LlamaIndex names the chunk that a node or relation was extracted from."""
_NODE = "{0}.node_id, {0}.label, {0}.name, {0}.text, {0}.properties, {0}.embedding"
_RELATION = "r.source_id, r.label, r.target_id, r.properties"
_JOINED = """
FROM {relation} r
    JOIN ragstore.graph_node s ON (s.collection_id, s.node_id) = (r.collection_id, r.source_id)
    JOIN ragstore.graph_node t ON (t.collection_id, t.node_id) = (r.collection_id, r.target_id)
"""

PUT_NODES = (
    LOCK_GRAPH
    + """
INSERT INTO ragstore.graph_node AS old (collection_id, node_id, kind, label, name, text, properties, embedding, sources)
SELECT %(collection_id)s, node_id, CASE WHEN name IS NULL THEN 'chunk' ELSE 'entity' END, label, name, text,
       properties, embedding::real[], ARRAY(SELECT jsonb_array_elements_text(sources))
FROM unnest(%(node_id)s::text[], %(label)s::text[], %(name)s::text[], %(text)s::text[], %(properties)s::jsonb[],
            %(embedding)s::text[], %(sources)s::jsonb[])
    WITH ORDINALITY AS new (node_id, label, name, text, properties, embedding, sources, position)
ORDER BY position
ON CONFLICT (collection_id, node_id) DO UPDATE SET
    kind = excluded.kind, label = excluded.label, name = excluded.name, text = excluded.text,
    properties = excluded.properties, embedding = excluded.embedding,
    sources = CASE WHEN excluded.kind = 'entity' THEN ARRAY(
        SELECT unnest(old.sources) UNION SELECT unnest(excluded.sources) ORDER BY 1) ELSE '{}' END
"""
)

KNOWN_NODES = """
SELECT node_id FROM ragstore.graph_node
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(node_ids)s::text[])
"""

# Ends that do not exist yet become entities of that name.
PUT_RELATIONS = (
    LOCK_GRAPH
    + """
INSERT INTO ragstore.graph_node (collection_id, node_id, kind, label, name, sources)
SELECT %(collection_id)s, node_id, 'entity', 'entity', node_id, ARRAY(SELECT jsonb_array_elements_text(sources))
FROM unnest(%(end_id)s::text[], %(end_sources)s::jsonb[]) WITH ORDINALITY AS new (node_id, sources, position)
ORDER BY position
ON CONFLICT DO NOTHING;
INSERT INTO ragstore.graph_relation AS old (collection_id, source_id, label, target_id, properties, sources)
SELECT %(collection_id)s, source_id, label, target_id, properties, ARRAY(SELECT jsonb_array_elements_text(sources))
FROM unnest(%(source_id)s::text[], %(label)s::text[], %(target_id)s::text[], %(properties)s::jsonb[],
            %(sources)s::jsonb[])
    WITH ORDINALITY AS new (source_id, label, target_id, properties, sources, position)
ORDER BY position
ON CONFLICT (collection_id, source_id, label, target_id) DO UPDATE SET
    properties = excluded.properties,
    sources = ARRAY(SELECT unnest(old.sources) UNION SELECT unnest(excluded.sources) ORDER BY 1)
"""
)

GET_NODES = f"""
SELECT {_NODE.format("n")} FROM ragstore.graph_node n
WHERE n.collection_id = %s AND {{condition}} ORDER BY n.position
"""

GET_PATHS = f"""
SELECT {_NODE.format("s")}, {_RELATION}, {_NODE.format("t")} {_JOINED.format(relation="ragstore.graph_relation")}
WHERE r.collection_id = %s AND {{condition}} ORDER BY r.position
"""

# Relations of nodes that are reached in the direction of the relations in fewer than ``depth`` steps, nearest first.
NEAR = f"""
WITH RECURSIVE reached (node_id, depth) AS (
    SELECT unnest(%(node_ids)s::text[]), 1
    UNION
    SELECT r.target_id, reached.depth + 1 FROM reached JOIN ragstore.graph_relation r
        ON r.collection_id = %(collection_id)s AND r.source_id = reached.node_id
    WHERE reached.depth < %(depth)s
), nearest AS (
    SELECT node_id, min(depth) AS depth FROM reached GROUP BY node_id
), near AS (
    SELECT collection_id, source_id, label, target_id, properties, position, min(depth) AS depth FROM (
        SELECT r.*, depth FROM nearest JOIN ragstore.graph_relation r
            ON r.collection_id = %(collection_id)s AND r.source_id = node_id
        UNION ALL
        SELECT r.*, depth FROM nearest JOIN ragstore.graph_relation r
            ON r.collection_id = %(collection_id)s AND r.target_id = node_id
    ) AS touching WHERE label <> ALL(%(ignored)s::text[])
    GROUP BY collection_id, source_id, label, target_id, properties, position
    ORDER BY depth, position LIMIT %(limit)s
)
SELECT {_NODE.format("s")}, {_RELATION}, {_NODE.format("t")} {_JOINED.format(relation="near")}
ORDER BY r.depth, r.position
"""

# Vectors of another length are excluded first, because comparing them would be an error.
NEAREST = f"""
SELECT {_NODE.format("n")}, 1 - n.distance FROM (
    SELECT n.*, CASE WHEN cardinality(n.embedding) = %s THEN n.embedding::vector <=> %s::vector END AS distance
    FROM ragstore.graph_node n WHERE n.collection_id = %s AND n.kind = 'entity' AND {{condition}}
) AS n WHERE n.distance <> 'NaN' ORDER BY n.distance, n.position LIMIT %s
"""

DIMS = """
SELECT DISTINCT cardinality(embedding) FROM ragstore.graph_node
WHERE collection_id = %(collection_id)s AND kind = 'entity' AND embedding IS NOT NULL ORDER BY 1
"""

DELETE_NODES = "DELETE FROM ragstore.graph_node n WHERE n.collection_id = %s AND {condition} RETURNING n.node_id"
DELETE_RELATIONS = """
DELETE FROM ragstore.graph_relation r USING ragstore.graph_node s, ragstore.graph_node t
WHERE (s.collection_id, s.node_id) = (r.collection_id, r.source_id)
    AND (t.collection_id, t.node_id) = (r.collection_id, r.target_id) AND r.collection_id = %s AND {condition}
"""

# Relations that no other chunk states are deleted; the others then name a chunk that still exists.
FORGET_IN_RELATIONS = """
DELETE FROM ragstore.graph_relation
WHERE collection_id = %(collection_id)s AND sources && %(gone)s::text[] AND sources <@ %(gone)s::text[];
UPDATE ragstore.graph_relation r SET sources = rest.sources, properties = CASE
        WHEN r.properties ->> %(source_key)s = ANY(%(gone)s::text[])
        THEN r.properties || jsonb_build_object(%(source_key)s, rest.sources[1]) ELSE r.properties END
FROM (
    SELECT source_id, label, target_id,
           ARRAY(SELECT each FROM unnest(sources) AS each WHERE each <> ALL(%(gone)s::text[])) AS sources
    FROM ragstore.graph_relation WHERE collection_id = %(collection_id)s AND sources && %(gone)s::text[]
) AS rest
WHERE r.collection_id = %(collection_id)s
    AND (r.source_id, r.label, r.target_id) = (rest.source_id, rest.label, rest.target_id)
"""

# An entity that only its relations still need gets the source of one of them, and is deleted with that chunk.
FORGET_IN_ENTITIES = """
UPDATE ragstore.graph_node n SET sources = rest.sources, properties = CASE
        WHEN (n.properties ->> %(source_key)s = ANY(%(gone)s::text[])) IS NOT TRUE THEN n.properties
        WHEN rest.sources = '{}' THEN n.properties - %(source_key)s
        ELSE n.properties || jsonb_build_object(%(source_key)s, rest.sources[1]) END
FROM (
    SELECT own.node_id, CASE WHEN own.sources <> '{}' THEN own.sources ELSE ARRAY(
        SELECT r.sources[1] FROM ragstore.graph_relation r
        WHERE r.collection_id = %(collection_id)s AND own.node_id IN (r.source_id, r.target_id) AND r.sources <> '{}'
        LIMIT 1) END AS sources
    FROM (
        SELECT node_id, ARRAY(SELECT each FROM unnest(sources) AS each WHERE each <> ALL(%(gone)s::text[])) AS sources
        FROM ragstore.graph_node WHERE collection_id = %(collection_id)s AND sources && %(gone)s::text[]
    ) AS own
) AS rest
WHERE n.collection_id = %(collection_id)s AND n.node_id = rest.node_id RETURNING n.node_id
"""

DELETE_UNUSED = """
DELETE FROM ragstore.graph_node n WHERE n.collection_id = %(collection_id)s AND n.node_id = ANY(%(node_ids)s::text[])
    AND n.sources = '{}' AND NOT EXISTS (
        SELECT FROM ragstore.graph_relation r
        WHERE r.collection_id = n.collection_id AND (r.source_id = n.node_id OR r.target_id = n.node_id))
"""

LABELS = """
SELECT ARRAY(SELECT DISTINCT label FROM ragstore.graph_node WHERE collection_id = %(collection_id)s ORDER BY 1),
       ARRAY(SELECT DISTINCT label FROM ragstore.graph_relation WHERE collection_id = %(collection_id)s ORDER BY 1)
"""


def put_nodes(pool: PostgresPool, collection: Collection, nodes: Sequence[GraphNode]) -> None:
    """Add nodes; an existing id is replaced, and of equal ids in the call the last wins.

    Crash safety:
        One transaction.
    """
    last = {node.node_id: node for node in nodes}
    sources: dict[str, set[str]] = {}
    for node in nodes:
        sources.setdefault(node.node_id, set()).update(node.sources)
    fetch(
        pool,
        PUT_NODES,
        collection,
        space=LOCK_SPACE,
        node_id=list(last),
        label=[n.label for n in last.values()],
        name=[n.name for n in last.values()],
        text=[n.text for n in last.values()],
        properties=[_json(n.properties) for n in last.values()],
        embedding=[None if n.embedding is None else _array(n.embedding) for n in last.values()],
        sources=[_json(sorted(sources[i])) for i in last],
    )


def known_nodes(pool: PostgresPool, collection: Collection, node_ids: Sequence[str]) -> set[str]:
    """The ones among these ids that are nodes."""
    return set(fetch_ids(pool, KNOWN_NODES, collection, node_ids=list(node_ids)))


def put_relations(pool: PostgresPool, collection: Collection, relations: Sequence[GraphRelation]) -> None:
    """Add relations, and entities for ends that are no nodes yet; an existing relation gets the new properties.

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
    fetch(
        pool,
        PUT_RELATIONS,
        collection,
        space=LOCK_SPACE,
        end_id=list(ends),
        end_sources=[_json(sorted(s)) for s in ends.values()],
        source_id=[r.source_id for r in last.values()],
        label=[r.label for r in last.values()],
        target_id=[r.target_id for r in last.values()],
        properties=[_json(r.properties) for r in last.values()],
        sources=[_json(sorted(sources[key])) for key in last],
    )


def get_nodes(pool: PostgresPool, collection: Collection, selection: Selection) -> list[GraphNode]:
    """The selected nodes, oldest first."""
    text, values = _of_nodes(selection)
    rows = fetch_values(pool, GET_NODES.format(condition=text), [collection.collection_id, *values])
    return [GraphNode(*row) for row in rows]


def get_paths(pool: PostgresPool, collection: Collection, selection: Selection) -> list[Path]:
    """The selected relations with their ends, oldest first."""
    text, values = _of_relations(selection)
    rows = fetch_values(pool, GET_PATHS.format(condition=text), [collection.collection_id, *values])
    return [_path(row) for row in rows]


def paths_near(
    pool: PostgresPool,
    collection: Collection,
    node_ids: Sequence[str],
    *,
    depth: int,
    limit: int,
    ignored: Sequence[str],
) -> list[Path]:
    """Relations of these nodes and of nodes that they lead to in fewer than ``depth`` steps, nearest first.

    Args:
        ignored: labels of relations that are followed but not returned.
    """
    parameters = {"node_ids": list(node_ids), "depth": depth, "limit": limit, "ignored": list(ignored)}
    return [_path(row) for row in fetch(pool, NEAR, collection, **parameters)]


def nearest_entities(
    pool: PostgresPool, collection: Collection, vector: Sequence[float], *, top_k: int, condition: Sql
) -> list[tuple[GraphNode, float]]:
    """Entities with their cosine similarity, most similar first; all entities are compared.

    Args:
        condition: on ``n``, a row of ``graph_node``.
    """
    text, values = condition
    embedding = f"[{','.join(map(repr, vector))}]"
    parameters = [len(vector), embedding, collection.collection_id, *values, top_k]
    rows = fetch_values(pool, NEAREST.format(condition=text), parameters)
    return [(GraphNode(*row[:_N_NODE]), float(row[_N_NODE])) for row in rows]


def embedding_dims(pool: PostgresPool, collection: Collection) -> list[int]:
    """The different lengths of the entities' vectors."""
    return [row[0] for row in fetch(pool, DIMS, collection)]


def labels(pool: PostgresPool, collection: Collection) -> tuple[list[str], list[str]]:
    """Labels in use, of nodes and of relations."""
    ((of_nodes, of_relations),) = fetch(pool, LABELS, collection)
    return of_nodes, of_relations


def delete_nodes(pool: PostgresPool, collection: Collection, selection: Selection) -> None:
    """Delete the selected nodes with their relations, and what only they state.

    Crash safety:
        One transaction.
    """
    _delete(pool, collection, _of_nodes(selection), ())


def delete_chunks(
    pool: PostgresPool, collection: Collection, node_ids: Sequence[str], document_ids: Sequence[str]
) -> None:
    """Delete these chunks, all chunks of these documents, and what only they state.

    Crash safety:
        One transaction.
    """
    of_documents = [_json({"ref_doc_id": document_id}) for document_id in document_ids]
    condition = "(n.node_id = ANY(%s::text[]) OR n.kind = 'chunk' AND n.properties @> ANY(%s::jsonb[]))"
    _delete(pool, collection, (condition, [[*node_ids, *document_ids], of_documents]), node_ids)


def delete_relations(pool: PostgresPool, collection: Collection, selection: Selection) -> None:
    """Delete the selected relations; their ends stay.

    Crash safety:
        One transaction.
    """
    text, values = _of_relations(selection)
    with pool.transaction() as cursor:
        _lock(cursor, collection)
        cursor.execute(DELETE_RELATIONS.format(condition=text), [collection.collection_id, *values])


def _delete(pool: PostgresPool, collection: Collection, condition: Sql, also_gone: Sequence[str]) -> None:
    parameters: dict[str, Any] = {"collection_id": collection.collection_id, "source_key": SOURCE_KEY}
    text, values = condition
    with pool.transaction() as cursor:
        _lock(cursor, collection)
        cursor.execute(DELETE_NODES.format(condition=text), [collection.collection_id, *values])
        parameters["gone"] = [*(row[0] for row in cursor.fetchall()), *also_gone]
        if parameters["gone"]:
            _forget(cursor, parameters)


def _lock(cursor: Cursor, collection: Collection) -> None:
    execute(cursor, LOCK_GRAPH, collection, space=LOCK_SPACE)


def _forget(cursor: Cursor, parameters: dict[str, Any]) -> None:
    cursor.execute(FORGET_IN_RELATIONS, parameters)
    cursor.execute(FORGET_IN_ENTITIES, parameters)
    touched = [row[0] for row in cursor.fetchall()]
    if touched:
        cursor.execute(DELETE_UNUSED, parameters | {"node_ids": touched})


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
    """Condition that one of these properties is equal; the first part of each can use an index."""
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
