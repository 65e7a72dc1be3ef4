-- Who may do what in the database `ragstore`, or in the one that it is being restored into. Nobody but the local superuser, who has no password, may do more.
--
--   ragstore_owner    owns database and tables: `migrate` and `maintain`
--   ragstore_app      reads and writes rows, makes and drops nothing: workers, queries, LlamaIndex code
--   ragstore_backup   reads everything: pg_dump

SET client_min_messages = warning;
-- Passwords reach the server as what SCRAM needs to check them, so that no log can hold them.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;

\set owner_password `cat /run/secrets/postgres_owner_password`
\set app_password `cat /run/secrets/postgres_app_password`
\set backup_password `cat /run/secrets/postgres_backup_password`

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY ['ragstore_owner', 'ragstore_app', 'ragstore_backup']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE ragstore_owner PASSWORD :'owner_password';
ALTER ROLE ragstore_app PASSWORD :'app_password';
ALTER ROLE ragstore_backup PASSWORD :'backup_password';

CREATE EXTENSION IF NOT EXISTS vector;

ALTER DATABASE :"DBNAME" OWNER TO ragstore_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO ragstore_app, ragstore_backup;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
-- Everybody may enter a database that nobody has closed: postgres and template1 too.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', datname) FROM pg_database WHERE datallowconn
\gexec
GRANT pg_read_all_data TO ragstore_backup;

-- What the owner's migrations make from now on. MAINTAIN allows ANALYZE, so that plans are right after a large ingest.
ALTER DEFAULT PRIVILEGES FOR ROLE ragstore_owner GRANT USAGE ON SCHEMAS TO ragstore_app;
ALTER DEFAULT PRIVILEGES FOR ROLE ragstore_owner GRANT SELECT, INSERT, UPDATE, DELETE, MAINTAIN ON TABLES TO ragstore_app;
ALTER DEFAULT PRIVILEGES FOR ROLE ragstore_owner GRANT USAGE ON SEQUENCES TO ragstore_app;
ALTER DEFAULT PRIVILEGES FOR ROLE ragstore_owner GRANT EXECUTE ON FUNCTIONS TO ragstore_app;

-- Of the audit trail the application may read and add, of the book-keeping read: migration 0008 takes the rest away, and
-- this does so again. What applications must advance in ragstore.deployment is granted by column, by its migration.
SELECT format('REVOKE %s, DELETE, MAINTAIN ON ragstore.%I FROM ragstore_app', excess, relname)
FROM pg_class JOIN (VALUES ('event', 'UPDATE'), ('migration', 'INSERT, UPDATE'), ('schema_version', 'INSERT, UPDATE'),
    ('deployment', 'INSERT')) AS kept (name, excess) ON name = relname
WHERE relnamespace = to_regnamespace('ragstore')
\gexec
