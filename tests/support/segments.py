"""Segments: of collection ``docs`` as the catalog has them, by SQL of the tests' own, and made as a test wants them."""

from __future__ import annotations

from ragstore.model.collection import Collection
from ragstore.postgres import segments
from ragstore.postgres.collections import get_collection
from ragstore.postgres.pool import PostgresPool

ROOM = segments.Room(10_000_000)
AT_REST = segments.Room(10_000_000, at_rest=True)

_NOTED = """
SELECT 'seg_' || c.collection_id || '_' || (segment->>0) AS name, position, (segment->>3)::bigint AS n_nodes,
    (segment->>4)::bigint AS n_cells
FROM ragstore.collection c, jsonb_array_elements(c.segments) WITH ORDINALITY AS noted (segment, position)
WHERE c.name = 'docs'
"""

SEGMENTS = f"""
SELECT name, to_regclass('ragstore.' || name) IS NOT NULL FROM ({_NOTED}) AS noted ORDER BY position
"""
"""Table of each segment that the ledger notes for collection ``docs``, and whether it is there."""

SIZES = f"SELECT n_nodes, n_cells FROM ({_NOTED}) AS noted ORDER BY position"
"""Nodes and cells of each segment that the ledger notes."""

OTHERS = f"""
SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'r' AND c.relname ^@ 'seg_'
    AND c.relname NOT IN (SELECT name FROM ({_NOTED}) AS noted)
    AND c.relname NOT IN (SELECT 'seg_' || collection_id || '_' || (retired->>0)
                          FROM ragstore.collection, jsonb_array_elements(retired_segments) AS retired)
ORDER BY 1
"""
"""Tables of segments that the ledger neither notes nor has retired."""

AGED = "UPDATE ragstore.collection SET retired_segments = (SELECT coalesce(jsonb_agg(jsonb_build_array(r->0, 0)), '[]')\
 FROM jsonb_array_elements(retired_segments) AS r)"
"""Retired long ago, all that are."""

FILTER_INDEXES = """
SELECT c.relname::text, i.indisvalid FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relname ^@ 'filter_' ORDER BY 1
"""
"""Indexes of declared filter keys, and whether each is valid."""

FORGET = """
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ^@ 'seg_' LOOP
        EXECUTE 'DROP TABLE ragstore.' || found.relname;
    END LOOP;
    UPDATE ragstore.collection SET segments = '[]', retired_segments = '[]', effort = '{}';
END
$$
"""
"""All nodes are in no segment."""

N_SCANS = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes WHERE indexrelname ^@ 'seg_'"
"""How often parts of trees were read, by a question twice at least; a connection's are counted when it ends."""


def seal(pool: PostgresPool, collection: Collection, *, min_nodes: int = 1, at_once: int = ROOM.max_nodes) -> int:
    """Seal what is fresh, so many nodes in each segment; returns how many nodes that was."""
    return segments.seal_fresh(pool, collection, min_nodes=min_nodes, room=segments.Room(at_once))


def merge_at_rest(pool: PostgresPool, collection: Collection) -> Collection:
    """Merge until nothing is left to do; returns the collection as it is then."""
    while segments.merge_once(pool, collection, AT_REST):
        pass
    return get_collection(pool, collection.name)
