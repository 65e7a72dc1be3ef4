-- Why:  graphs and index structs of LlamaIndex code, which must not be lost with the process or with MongoDB.
-- Lock: none that anybody waits for; every object is new.
-- Safe: runs before the program that uses it is deployed; older programs do not see it.
-- Undo: DROP TABLE ragstore.index_struct, ragstore.graph_relation, ragstore.graph_node, ragstore.triplet (loses them).

-- Sizes are bounded so that a key fits into an index entry of 2,704 bytes.
CREATE TABLE ragstore.triplet (
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    triplet_id bigint GENERATED ALWAYS AS IDENTITY,
    subject text NOT NULL CHECK (octet_length(subject) <= 1024),
    relation text NOT NULL CHECK (octet_length(relation) <= 512),
    object text NOT NULL CHECK (octet_length(object) <= 1024),
    PRIMARY KEY (collection_id, subject, relation, object)
);

-- A node of a property graph. A chunk is the text that facts were extracted from; sources are the chunks that state it.
CREATE TABLE ragstore.graph_node (
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    node_id text NOT NULL CHECK (octet_length(node_id) BETWEEN 1 AND 1024),
    position bigint GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL CHECK (kind IN ('entity', 'chunk')),
    label text NOT NULL,
    name text CHECK ((name IS NULL) = (kind = 'chunk')),
    text text CHECK ((text IS NULL) = (kind = 'entity')),
    properties jsonb NOT NULL DEFAULT '{}',
    embedding real[],
    sources text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (collection_id, node_id)
);
CREATE INDEX graph_node_properties_idx ON ragstore.graph_node USING gin (properties jsonb_path_ops);
CREATE INDEX graph_node_sources_idx ON ragstore.graph_node USING gin (sources);

-- No relation is left without its ends.
CREATE TABLE ragstore.graph_relation (
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    source_id text NOT NULL,
    label text NOT NULL CHECK (octet_length(label) <= 512),
    target_id text NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    properties jsonb NOT NULL DEFAULT '{}',
    sources text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (collection_id, source_id, label, target_id),
    FOREIGN KEY (collection_id, source_id) REFERENCES ragstore.graph_node ON DELETE CASCADE,
    FOREIGN KEY (collection_id, target_id) REFERENCES ragstore.graph_node ON DELETE CASCADE
);
CREATE INDEX graph_relation_target_idx ON ragstore.graph_relation (collection_id, target_id);
CREATE INDEX graph_relation_label_idx ON ragstore.graph_relation (collection_id, label);
CREATE INDEX graph_relation_properties_idx ON ragstore.graph_relation USING gin (properties jsonb_path_ops);
CREATE INDEX graph_relation_sources_idx ON ragstore.graph_relation USING gin (sources);

-- What LlamaIndex keeps of each index; MongoDB has a copy for plain readers, where an id is an index's alone too.
CREATE TABLE ragstore.index_struct (
    index_id text PRIMARY KEY CHECK (octet_length(index_id) BETWEEN 1 AND 1024),
    collection_id bigint NOT NULL REFERENCES ragstore.collection ON DELETE CASCADE,
    stamp bigint NOT NULL,
    kind text NOT NULL,
    body text NOT NULL
);
CREATE INDEX index_struct_collection_idx ON ragstore.index_struct (collection_id, index_id);
-- All vectors of a collection are one index.
CREATE UNIQUE INDEX index_struct_vector_idx ON ragstore.index_struct (collection_id) WHERE kind = 'vector_store';
