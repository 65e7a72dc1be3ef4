-- Why:  an HNSW index over a whole table makes every new row pay for it; over ranges of ids, new rows pay nothing.
-- Lock: each vector table, exclusively, for the moment in which its index is dropped; queries are exact until
--       'ragstore maintain' or the next ingest has built the first segment.
-- Safe: programs of before search without an index from here on, and build one again when they ingest: stop them first.
-- Undo: ALTER TABLE ragstore.collection DROP COLUMN segments; and drop the indexes whose names begin with hnsw_.

-- [[above, upto, nodes when built], ...]: rows with above < id <= upto have an HNSW index of their own. In order and
-- without gaps; the first is also of all below. Rows above the last are fresh, in no index.
ALTER TABLE ragstore.collection ADD COLUMN segments jsonb NOT NULL DEFAULT '[]';

DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT 'data_' || name || '_embedding_idx' AS index_name FROM ragstore.collection LOOP
        EXECUTE format('DROP INDEX IF EXISTS ragstore.%I', found.index_name);
    END LOOP;
END
$$;

-- Programs of before must not rely on it.
UPDATE ragstore.collection SET index_state = 'none' WHERE index_state <> 'none';
