-- Why:  keyword search finds parts of names and numbers, words without their accents, and texts without spaces.
-- Lock: each collection's table, exclusively, while its rows and keywords are written again, which for a million nodes takes
--       minutes, and once more the table's room on the disk until it is done.
-- Safe: runs after the last program of before has stopped; a search or a write meanwhile waits. Killed, nothing is done.
-- Undo: the expression of text_search_tsv and ensure_collection_table as in step 0004; then DROP FUNCTION ragstore.words,
--       ragstore.folded.

-- Letters that people type in more than one way, as one of them: half and full width and other compatibility forms,
-- accents of Latin and Greek letters, vowel points of Arabic and Hebrew, kinds of hyphens; without what is not seen.
-- Marks of other scripts belong to their letters. Text that has no such letter goes out as it came in, which is cheap.
CREATE FUNCTION ragstore.folded(content text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF octet_length(content) = length(content)
        OR content !~ E'[\u00aa\u00ad\u00b2\u00b3\u00b5\u00b9\u00ba\u00bc-\u00be\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u200b-\u2013\u2060-\u2189'
            '\u2212\u2460-\u24ff\u2c60-\u2fff\u3005-\uffff\U00010000-\U0010ffff]'
    THEN
        RETURN content;
    END IF;
    -- Those without an accent that could be taken off; sharp s first, which has no capital in most locales.
    content := replace(replace(content, E'\u00df', 'ss'), E'\u1e9e', 'SS');
    content := replace(replace(content, E'\u00e6', 'ae'), E'\u00c6', 'AE');
    content := replace(replace(content, E'\u0153', 'oe'), E'\u0152', 'OE');
    content := replace(replace(content, E'\u00fe', 'th'), E'\u00de', 'TH');
    content := translate(content, E'\u00f8\u00d8\u0111\u0110\u0142\u0141\u0131\u00f0\u00d0\u0127\u0126\u0451\u0401',
        E'oOdDlLidDhH\u0435\u0415');
    content := regexp_replace(normalize(content, NFKD),
        E'(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+|[\u00ad\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7'
        '\u0610-\u061a\u0640\u064b-\u065f\u0670\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff]+', '', 'g');
    RETURN translate(normalize(content, NFC), E'\u2010\u2011\u2012\u2013\u2212', '-----');
END
$$;

-- The keywords of a text or of a question: every writer of a table and every search have them from here.
-- Words as the configuration has them, names and numbers also by their parts: E-4711, foo_bar.baz, 1.2.3, getUserName.
-- Joined ones stand in it whole too, so that the whole counts more than its parts. Scripts that put no spaces between
-- words go in by pairs of characters, and by single ones, of which a question is only asked where it has no pair.
CREATE FUNCTION ragstore.words(config regconfig, content text, is_question boolean) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    unspaced CONSTANT text := E'\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0edf\u0f40-\u0fbc\u1000-\u109f\u1100-\u11ff'
        '\u1780-\u17d3\u17d7\u17dc\u17dd\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b4c\u2e80-\u2fdf\u3005-\u3007'
        '\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f'
        '\u3131-\u318e\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\ua960-\ua97c\ua980-\ua9df'
        '\ua9e0-\ua9fe\uaa60-\uaa7f\uac00-\ud7fb\uf900-\ufaff\U00016fe0-\U00018dff\U0001aff0-\U0001b2ff'
        '\U00020000-\U0003ffff';
    letter CONSTANT text := E'[a-zA-Z0-9\u00aa\u00b5\u00ba\u00c0-\u1fff\u2c00-\u2dff\ua4d0-\ud7ff\uf900-\ufdff'
        '\ufe70-\ufeff\U00010000-\U0010ffff]';
    separators CONSTANT text := E'[-_./:@+<>&~%?=#*|\\\\^\u0080-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7'
        '\u00f7\u2000-\u206f\u2190-\u2bff\u3000-\u3004\u3008-\u3020\u3030\u303d-\u303f]+';
    characters text[] := '{}';
    spaced text;
    joined text;
    found tsvector;
BEGIN
    content := left(ragstore.folded(left(content, 100000)), 100000);
    IF octet_length(content) > 300000 THEN
        content := left(content, 60000);  -- a row has room for a megabyte of distinct words
    END IF;
    spaced := content;
    IF octet_length(content) <> length(content) AND content ~ ('[' || unspaced || ']') THEN
        spaced := regexp_replace(content, '[' || unspaced || ']+', ' ', 'g');
        characters := string_to_array(regexp_replace(content, '[^' || unspaced || ']+', ' ', 'g'), NULL);
    END IF;
    SELECT string_agg(whole[1], ' ') INTO joined
        FROM regexp_matches(spaced, '(' || letter || '+(?:[-_./:@+]+' || letter || '+)+)', 'g') AS whole;
    IF spaced ~ '[a-z][A-Z]' THEN
        spaced := spaced || ' ' || COALESCE((
            SELECT string_agg(regexp_replace(camel[1], '([a-z])([A-Z])', E'\\1 \\2', 'g'), ' ')
            FROM regexp_matches(spaced, '([A-Za-z0-9]*[a-z][A-Z][A-Za-z0-9]*)', 'g') AS camel
        ), '');
    END IF;
    found := to_tsvector(config, regexp_replace(spaced, separators, ' ', 'g'));
    IF joined IS NOT NULL THEN
        joined := lower(joined);
        IF joined ~ '[/:@+.]' THEN
            joined := joined || ' ' || regexp_replace(
                translate(joined, '/:@+', '    ') || ' ' || translate(joined, '/:@+.', '     '),
                '(?:^|(?<= ))[^-_. ]+(?: |$)', '', 'g');
        END IF;
        joined := regexp_replace(joined, '[^ ]{250,}', '', 'g');
        found := found || array_to_tsvector(array_remove(string_to_array(joined, ' '), ''));
    END IF;
    IF characters <> '{}' THEN
        found := found || array_to_tsvector(ARRAY(
            SELECT DISTINCT this || following
            FROM unnest(characters, characters[2:]) AS pair (this, following)
            WHERE this <> ' ' AND following <> ' '
            UNION
            SELECT this
            FROM unnest(characters, characters[2:], ARRAY[' '] || characters) AS one (this, following, previous)
            WHERE this <> ' ' AND (NOT is_question OR COALESCE(following, ' ') = ' ' AND previous = ' ')
        ));
    END IF;
    RETURN found;
END
$$;

-- As in step 0004, with these keywords. They stay in their row where they fit, and long texts move out in their place:
-- a search reads the keywords of hundreds of nodes to rank them, and the texts of ten.
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
            text_search_tsv tsvector STORAGE MAIN GENERATED ALWAYS AS (ragstore.words(%4$L::regconfig, text::text, false)) STORED,
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

DO $$
DECLARE
    each_collection ragstore.collection;
    table_name text;
    expression text;
BEGIN
    FOR each_collection IN SELECT * FROM ragstore.collection ORDER BY collection_id FOR UPDATE LOOP
        table_name := 'data_' || each_collection.name;
        CONTINUE WHEN to_regclass(format('ragstore.%I', table_name)) IS NULL;
        expression := format('(ragstore.words(%L::regconfig, text::text, false))', each_collection.text_search_config);
        EXECUTE format('ALTER TABLE ragstore.%I ALTER COLUMN text_search_tsv SET STORAGE MAIN', table_name);
        IF current_setting('server_version_num')::integer >= 170000 THEN
            EXECUTE format('ALTER TABLE ragstore.%I ALTER COLUMN text_search_tsv SET EXPRESSION AS ',
                table_name) || expression;
        ELSE
            EXECUTE format('ALTER TABLE ragstore.%I DROP COLUMN text_search_tsv, ADD COLUMN text_search_tsv tsvector STORAGE MAIN'
                ' GENERATED ALWAYS AS ', table_name) || expression || ' STORED';
            EXECUTE format('CREATE INDEX %I ON ragstore.%I USING gin (text_search_tsv)', table_name || '_text_idx',
                table_name);
        END IF;
        EXECUTE format('ANALYZE ragstore.%I', table_name);
    END LOOP;
END
$$;
