-- Why:  filters on keys that are declared are answered from indexes of their own; vectors may be stored at half width,
--       and stand in the row itself where they fit.
-- Lock: the table of collections, exclusively, for a moment; nothing is rewritten.
-- Safe: programs of before make collections as they did, without keys and at full width.
-- Undo: drop the indexes whose names begin with filter_; DROP FUNCTION ragstore.filter_indexes; ALTER TABLE
--       ragstore.collection DROP COLUMN filter_keys; and ensure_collection_table as in step 0001.

ALTER TABLE ragstore.collection
    ADD COLUMN filter_keys text[] NOT NULL DEFAULT '{}',
    ADD COLUMN vector_type text NOT NULL DEFAULT 'vector' CHECK (vector_type IN ('vector', 'halfvec'));

-- The indexes that a collection's declared keys need: a name, and what follows it in CREATE INDEX. One for numbers and
-- one for strings, because each row is then in one of them, in the order of its kind whatever the database's collation
-- is. A string goes in with its beginning alone: a long one would not fit, and its row would be refused.
CREATE FUNCTION ragstore.filter_indexes(collection_name text) RETURNS TABLE (index_name text, definition text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT
        format('filter_%s_%s_%s', c.collection_id, left(md5(declared.key), 12), kind.name),
        format('ON ragstore.%I (%s) WHERE jsonb_typeof(user_metadata -> %L::text) = %L',
            'data_' || c.name, format(kind.expression, declared.key), declared.key, kind.name)
    FROM ragstore.collection c
    CROSS JOIN unnest(c.filter_keys) AS declared (key)
    CROSS JOIN (VALUES
        ('number', '(user_metadata -> %L::text)'),
        ('string', 'left(user_metadata ->> %L::text, 200) COLLATE "C"')
    ) AS kind (name, expression)
    WHERE c.name = collection_name
$$;

-- As in step 0001, and the type of the vectors and the indexes of declared keys. Vectors that fit into a page stay in
-- their row, and so does what filters look at: where a node is compared one by one, reading a vector from beside the
-- table costs ten times as much as comparing it. Long texts move out instead; a page that has room for no second row
-- may be filled with them.
CREATE OR REPLACE FUNCTION ragstore.ensure_collection_table(collection_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_collection ragstore.collection;
    table_name text;
    vector_schema text;
    vector_bytes integer;
    of_key record;
BEGIN
    SELECT * INTO STRICT found_collection FROM ragstore.collection WHERE name = collection_name FOR UPDATE;
    table_name := 'data_' || found_collection.name;
    SELECT n.nspname INTO STRICT vector_schema
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
    vector_bytes := found_collection.dim * CASE found_collection.vector_type WHEN 'vector' THEN 4 ELSE 2 END;
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS ragstore.%1$I (
            id bigint NOT NULL DEFAULT nextval('ragstore.stamp') PRIMARY KEY,
            text varchar NOT NULL,
            metadata_ jsonb NOT NULL,
            node_id varchar NOT NULL UNIQUE CHECK (octet_length(node_id) BETWEEN 1 AND 1024),
            embedding %2$I.%5$I(%3$s) STORAGE %6$s NOT NULL,
            text_search_tsv tsvector GENERATED ALWAYS AS (to_tsvector(%4$L::regconfig, left(text, 100000))) STORED,
            document_id text,
            ordinal integer NOT NULL,
            start_char integer,
            end_char integer,
            chunk_hash bytea,
            user_metadata jsonb STORAGE MAIN NOT NULL
        ) WITH (toast_tuple_target = %7$s)$ddl$,
        table_name, vector_schema, found_collection.dim, found_collection.text_search_config,
        found_collection.vector_type,
        CASE WHEN vector_bytes <= 7000 THEN 'PLAIN' ELSE 'EXTERNAL' END,
        CASE WHEN vector_bytes BETWEEN 3500 AND 7000 THEN 8160 ELSE 2040 END);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I (document_id, ordinal)',
        table_name || '_document_idx', table_name);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I (chunk_hash)',
        table_name || '_chunk_hash_idx', table_name);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I USING gin (text_search_tsv)',
        table_name || '_text_idx', table_name);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I USING gin (user_metadata jsonb_path_ops)',
        table_name || '_metadata_idx', table_name);
    FOR of_key IN SELECT * FROM ragstore.filter_indexes(collection_name) LOOP
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ', of_key.index_name) || of_key.definition;
    END LOOP;
END
$$;
