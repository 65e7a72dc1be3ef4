-- Why:  vectors are searched in tables of segments, each a tree of cells, in place of HNSW indexes over ranges of ids.
-- Lock: each vector table, exclusively, for the moment in which its HNSW indexes are dropped; the table of collections.
-- Safe: runs after the last program of before has stopped; until 'ragstore maintain' or the next writer has made
--       segments, questions are compared with every node.
-- Undo: drop the tables whose names begin with seg_, ragstore.asked, ragstore.segment_pair and the functions pair, pairs and bucket; ALTER TABLE ragstore.collection DROP COLUMN retired_segments, DROP
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

-- By which pairs of a key and a value a search passes over what a filter cannot allow; see postgres/pairs.py.
-- The hash of a pair: two bytes, the same for values that jsonb holds equal.
CREATE FUNCTION ragstore.pair(key text, value jsonb) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN substr(int8send(jsonb_hash_extended(value, hashtextextended(key, 0))), 7);

-- The hashes of all pairs of a node, each value of a list by itself: 16 at most, unused ones 0; of more all are 0xffff.
CREATE FUNCTION ragstore.pairs(metadata jsonb) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT CASE
        WHEN length(hashes) > 32 THEN decode(repeat('ff', 32), 'hex')
        ELSE substr(coalesce(hashes, '') || decode(repeat('00', 32), 'hex'), 1, 32)
    END
    FROM (
        SELECT string_agg(CASE jsonb_typeof(value)
            WHEN 'array' THEN (
                SELECT string_agg(substr(int8send(jsonb_hash_extended(one, hashtextextended(key, 0))), 7), '')
                FROM jsonb_array_elements(value) AS one
            )
            ELSE substr(int8send(jsonb_hash_extended(value, hashtextextended(key, 0))), 7)
        END, '')
        FROM jsonb_each(metadata)
    ) AS node (hashes)
);

CREATE FUNCTION ragstore.bucket(hash bytea) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ((get_byte(hash, 0) << 4) | (get_byte(hash, 1) >> 4))::smallint;

-- groups: of the regions and cells of a segment's tree, by their numbers, those that have a node with such a pair.
-- n_nodes: these nodes; n_around: all nodes of these cells.
CREATE TABLE ragstore.segment_pair (
    collection_id bigint NOT NULL,
    number bigint NOT NULL,
    bucket smallint NOT NULL,
    n_nodes integer NOT NULL,
    n_around integer NOT NULL,
    groups bit varying NOT NULL,
    PRIMARY KEY (collection_id, number, bucket)
);
