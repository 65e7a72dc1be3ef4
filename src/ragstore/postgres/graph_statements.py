"""SQL of property graphs; parameters are named where a statement is whole, and in order where conditions join it."""

from __future__ import annotations

LOCK_SPACE = 0x5241_4747  # "RAGG"

LOCK_GRAPH = "SELECT pg_advisory_xact_lock(%(space)s, %(collection_id)s);"

SOURCE_KEY = "triplet_source_id"
"""The property in which LlamaIndex says which chunk a node or relation was extracted from."""

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

# Ends that nobody has put yet become entities of that name.
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

# Relations of nodes that are reached along the arrows in so many steps, the nearest first.
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

# Vectors of another length are left out before they are compared, which would be an error.
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

# What no other chunk states goes; the rest names a chunk that is still there.
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

# An entity that only its relations need from now on takes the source of one of them, and goes with it.
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
