-- Why:  the ledger: which documents, revisions and nodes are live, and what is in flight.
-- Lock: none that anybody waits for; every object is new.
-- Safe: runs before the program that uses it is deployed; older programs do not see it.
-- Undo: DROP SCHEMA ragstore CASCADE (loses every document; take a backup first).

CREATE EXTENSION IF NOT EXISTS vector;

CREATE SCHEMA IF NOT EXISTS ragstore;

-- The same id stands in MongoDB: two databases that were not made for each other are refused.
CREATE TABLE ragstore.deployment (
    deployment_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    made_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO ragstore.deployment DEFAULT VALUES;

CREATE TABLE ragstore.collection (
    collection_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9_-]{0,39}$'),
    model text NOT NULL,
    dim integer NOT NULL CHECK (dim BETWEEN 1 AND 16000),
    metric text NOT NULL CHECK (metric = 'cosine'),
    chunk_size integer NOT NULL CHECK (chunk_size > 0),
    chunk_overlap integer NOT NULL CHECK (chunk_overlap >= 0 AND chunk_overlap < chunk_size),
    text_search_config text NOT NULL,
    index_state text NOT NULL DEFAULT 'none' CHECK (index_state IN ('none', 'building', 'ready')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A deleted document keeps its row, so that its revision numbers never start again.
CREATE TABLE ragstore.document (
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    document_id text NOT NULL CHECK (octet_length(document_id) BETWEEN 1 AND 1024),
    source_uri text NOT NULL,
    revision bigint NOT NULL CHECK (revision >= 0),
    n_nodes integer NOT NULL DEFAULT 0 CHECK (n_nodes >= 0),
    fingerprint text,
    content_hash text,
    doc_hash text,
    size bigint,
    mtime_ns bigint,
    etag text,
    metadata jsonb NOT NULL DEFAULT '{}',
    published_at timestamptz,
    deleted_at timestamptz,
    PRIMARY KEY (collection_id, document_id)
);
-- Finds the document that a new path is the renamed form of.
CREATE INDEX document_content_hash_idx ON ragstore.document (collection_id, content_hash)
    WHERE content_hash IS NOT NULL AND deleted_at IS NULL;

-- The write-ahead intent: every node id that may be in MongoDB before anything names it.
CREATE TABLE ragstore.run (
    run_id uuid PRIMARY KEY,
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    worker text NOT NULL,
    node_ids text[] NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL
);
CREATE INDEX run_lease_until_idx ON ragstore.run (lease_until);

-- What must still happen in MongoDB. delete_nodes and put_nodes carry node ids, put_ref_docs document ids.
CREATE TABLE ragstore.outbox (
    outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace text NOT NULL,
    collection_id bigint NOT NULL,
    action text NOT NULL CHECK (action IN ('delete_nodes', 'put_nodes', 'put_ref_docs')),
    ids text[] NOT NULL,
    stamp bigint NOT NULL DEFAULT 0,
    run_id uuid,
    not_before timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_not_before_idx ON ragstore.outbox (not_before, outbox_id);

CREATE TABLE ragstore.event (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    worker text NOT NULL,
    collection text NOT NULL,
    document_id text,
    revision bigint,
    action text NOT NULL,
    run_id uuid,
    n_nodes integer,
    n_embedded integer,
    n_reused integer,
    detail jsonb
);
CREATE INDEX event_document_idx ON ragstore.event (collection, document_id, event_id);

CREATE TABLE ragstore.quarantine (
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    document_id text NOT NULL CHECK (octet_length(document_id) BETWEEN 1 AND 1024),
    source_uri text NOT NULL,
    code text NOT NULL,
    reason text NOT NULL,
    hint text NOT NULL DEFAULT '',
    retry text NOT NULL CHECK (retry IN ('never', 'later', 'after_repair')),
    attempts integer NOT NULL DEFAULT 1,
    size bigint,
    mtime_ns bigint,
    etag text,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, document_id)
);

-- Nodes that LlamaIndex code puts into the docstore alone, without a vector: parents, whole documents.
CREATE TABLE ragstore.body (
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    node_id text NOT NULL CHECK (octet_length(node_id) BETWEEN 1 AND 1024),
    document_id text,
    stamp bigint NOT NULL,
    type_key text NOT NULL,
    content jsonb NOT NULL,
    PRIMARY KEY (collection_id, node_id)
);
CREATE INDEX body_document_idx ON ragstore.body (collection_id, document_id);

-- Orders all writes of one node id, across vector tables and bodies.
CREATE SEQUENCE ragstore.stamp;

-- One table per collection, in the shape that PGVectorStore reads (id, text, metadata_, node_id, embedding,
-- text_search_tsv), plus ours. Idempotent: safe to call at every start and by many at once.
CREATE FUNCTION ragstore.ensure_collection_table(collection_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_collection ragstore.collection;
    table_name text;
    vector_schema text;
BEGIN
    SELECT * INTO STRICT found_collection FROM ragstore.collection WHERE name = collection_name FOR UPDATE;
    table_name := 'data_' || found_collection.name;
    SELECT n.nspname INTO STRICT vector_schema
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS ragstore.%1$I (
            id bigint NOT NULL DEFAULT nextval('ragstore.stamp') PRIMARY KEY,
            text varchar NOT NULL,
            metadata_ jsonb NOT NULL,
            node_id varchar NOT NULL UNIQUE CHECK (octet_length(node_id) BETWEEN 1 AND 1024),
            embedding %2$I.vector(%3$s) NOT NULL,
            text_search_tsv tsvector GENERATED ALWAYS AS (to_tsvector(%4$L::regconfig, left(text, 100000))) STORED,
            document_id text,
            ordinal integer NOT NULL,
            start_char integer,
            end_char integer,
            chunk_hash bytea,
            user_metadata jsonb NOT NULL
        )$ddl$, table_name, vector_schema, found_collection.dim, found_collection.text_search_config);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I (document_id, ordinal)',
        table_name || '_document_idx', table_name);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I (chunk_hash)',
        table_name || '_chunk_hash_idx', table_name);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I USING gin (text_search_tsv)',
        table_name || '_text_idx', table_name);
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON ragstore.%I USING gin (user_metadata jsonb_path_ops)',
        table_name || '_metadata_idx', table_name);
END
$$;
