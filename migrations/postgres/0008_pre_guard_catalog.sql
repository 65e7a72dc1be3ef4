-- Why:  what the application may write must not become SQL of the role that owns the tables, and whoever may only add
--       to the audit trail cannot rewrite it. Collections may be named by UUIDs, which often begin with a digit.
-- Lock: the table of collections, exclusively, for a moment.
-- Safe: programs of before write nothing that is refused here, and neither change nor delete events.
-- Undo: drop the constraints collection_*_check that are made here, make collection_name_check as in step 0001, and
--       GRANT UPDATE, DELETE on event, migration, schema_version and deployment to the application's role.

ALTER TABLE ragstore.collection
    DROP CONSTRAINT collection_name_check,
    ADD CONSTRAINT collection_name_check CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,39}$'),
    ADD CONSTRAINT collection_text_search_config_check
        CHECK (text_search_config ~ '^([a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,62}$'),
    ADD CONSTRAINT collection_filter_keys_check CHECK (
        cardinality(filter_keys) <= 16 AND coalesce(array_ndims(filter_keys), 1) = 1
        AND array_position(filter_keys, NULL) IS NULL AND length(array_to_string(filter_keys, '')) <= 16 * 200),
    -- An array of arrays of five numbers: what stands there becomes a part of every search.
    ADD CONSTRAINT collection_segments_check CHECK (CASE
        WHEN jsonb_typeof(segments) <> 'array' THEN false
        WHEN jsonb_path_exists(segments, 'strict $[*] ? (@.type() <> "array" || @.size() <> 5)') THEN false
        ELSE NOT jsonb_path_exists(segments, 'strict $[*][*] ? (@.type() <> "number")')
    END);

-- Takes from every role but the owner what its default privileges gave it: of the audit trail it may read and add, of
-- the book-keeping read. A step that lets applications change a column of deployment grants UPDATE on that column.
DO $$
DECLARE
    excess record;
BEGIN
    FOR excess IN
        SELECT c.relname, held.privilege_type, CASE held.grantee WHEN 0 THEN 'PUBLIC' ELSE held.grantee::regrole::text END AS holder
        FROM pg_class c CROSS JOIN aclexplode(c.relacl) AS held
        WHERE c.relnamespace = 'ragstore'::regnamespace
            AND c.relname IN ('event', 'migration', 'schema_version', 'deployment')
            AND held.grantee <> c.relowner AND held.privilege_type <> 'SELECT'
            AND NOT (c.relname = 'event' AND held.privilege_type = 'INSERT')
    LOOP
        EXECUTE format('REVOKE %s ON ragstore.%I FROM %s', excess.privilege_type, excess.relname, excess.holder);
    END LOOP;
END
$$;
