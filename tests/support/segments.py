"""Segments of a collection as the catalog has them, by SQL of the tests' own."""

from __future__ import annotations

_NAMES = """
SELECT c.name AS collection, 'hnsw_' || c.collection_id || '_' || to_hex((segment->>0)::bigint) || '_'
    || to_hex((segment->>1)::bigint) AS index
FROM ragstore.collection c, jsonb_array_elements(c.segments) AS segment
"""

SEGMENTS = f"""
SELECT noted.index, i.indisvalid FROM ({_NAMES}) AS noted
LEFT JOIN pg_index i ON i.indexrelid = to_regclass('ragstore.' || noted.index)
WHERE noted.collection = 'docs' ORDER BY length(noted.index), noted.index
"""
"""Indexes that the ledger notes for collection ``docs``, and whether each is valid; NULL where it is not there."""

OTHERS = f"""
SELECT c.relname::text, i.indisvalid FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relname ^@ 'hnsw_' AND c.relname NOT IN (SELECT index FROM ({_NAMES}) AS noted) ORDER BY 1
"""
"""Indexes of segments that the ledger does not note."""

HALF = """
UPDATE ragstore.collection SET segments = (
    SELECT jsonb_build_array(jsonb_build_array(0, (min(id) + max(id)) / 2, 1)) FROM ragstore.data_docs
)
"""
"""Note a segment of the older half of the nodes, with no index yet."""

FILTER_INDEXES = """
SELECT c.relname::text, i.indisvalid FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relname ^@ 'filter_' ORDER BY 1
"""
"""Indexes of declared filter keys, and whether each is valid."""
