-- Why:  vectors are searched in tables of segments, each a tree of cells, in place of HNSW indexes over ranges of ids.
-- Lock: each vector table, exclusively, for the moment in which its HNSW indexes are dropped; the table of collections.
-- Safe: runs after the last program of before has stopped; until 'ragstore maintain' or the next writer has made
--       segments, questions are compared with every node.
-- Undo: drop the tables whose names begin with seg_, and ragstore.asked; ALTER TABLE ragstore.collection DROP COLUMN retired_segments, DROP
--       COLUMN effort, ALTER COLUMN segments SET DEFAULT '[]'; UPDATE ragstore.collection SET segments = '[]'.

DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
        WHERE c.relnamespace = 'ragstore'::regnamespace AND c.relname ~ '^hnsw_[0-9]+_[0-9a-f]+_[0-9a-f]+$'
    LOOP
        EXECUTE format('DROP INDEX ragstore.%I', found.relname);
    END LOOP;
END
$$;

-- segments: [[number, above, upto, nodes, cells], ...], in the order of ids and without gaps: the live ones of the rows
-- with above < id <= upto stand in the table seg_<collection_id>_<number>. Rows above the last are fresh, in no segment.
-- retired_segments: [[number, epoch seconds], ...]: tables that questions under way may still read.
-- effort: how far a search looks, and what was measured with it; see model/collection.py.
UPDATE ragstore.collection SET segments = '[]';
ALTER TABLE ragstore.collection
    ADD COLUMN retired_segments jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN effort jsonb NOT NULL DEFAULT '{}';

-- The last questions, by which it is measured how far searches must look.
CREATE TABLE ragstore.asked (
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    slot smallint NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (collection_id, slot)
);
