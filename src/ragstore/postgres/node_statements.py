"""SQL statements that change nodes, and the documents that they belong to, by the ids of the nodes.

``{table}`` is a quoted, schema-qualified vector table.
"""

PLACES = """
SELECT node_id, document_id, true FROM {table} WHERE node_id = ANY(%(node_ids)s::text[])
UNION ALL
SELECT node_id, document_id, false FROM ragstore.body
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(node_ids)s::text[])
"""

LOCK_NODES_WITHOUT_DOCUMENT = "SELECT pg_advisory_xact_lock(%(space)s, %(collection_id)s)"

DELETE_NODES = """
WITH gone AS (
    DELETE FROM {table} WHERE node_id = ANY(%(node_ids)s::text[]) RETURNING node_id
), gone_bodies AS (
    DELETE FROM ragstore.body
    WHERE collection_id = %(collection_id)s AND node_id = ANY(%(node_ids)s::text[]) RETURNING node_id
)
SELECT node_id FROM gone UNION ALL SELECT node_id FROM gone_bodies
"""

# A document's own node may exist without naming the document: a sourceless node that the docstore has too.
DELETE_NODES_OF_DOCUMENTS = """
WITH gone AS (
    DELETE FROM {table}
    WHERE document_id = ANY(%(document_ids)s::text[])
        OR document_id IS NULL AND node_id = ANY(%(document_ids)s::text[]) RETURNING node_id
), gone_bodies AS (
    DELETE FROM ragstore.body
    WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[]) RETURNING node_id
)
SELECT node_id FROM gone UNION ALL SELECT node_id FROM gone_bodies
"""

DELETE_OTHER_VECTORS = """
DELETE FROM {table} WHERE document_id = ANY(%(document_ids)s::text[]) AND node_id <> ALL(%(keep)s::text[])
RETURNING node_id
"""

# LlamaIndex names the version that a node was cut from in its relationship "1", the source. A node without it stays.
DELETE_OTHER_VERSIONS = """
DELETE FROM {table} t USING unnest(%(document_id)s::text[], %(doc_hash)s::text[]) AS complete (document_id, doc_hash)
WHERE t.document_id = complete.document_id
    AND (t.metadata_->>'_node_content')::jsonb #>> '{relationships,1,hash}' <> complete.doc_hash
RETURNING t.node_id
"""

DELETE_OTHER_BODIES = """
DELETE FROM ragstore.body
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
    AND node_id <> document_id AND node_id <> ALL(%(keep)s::text[])
RETURNING node_id
"""

DELETE_OWN_BODIES = """
DELETE FROM ragstore.body
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[]) AND node_id = document_id
RETURNING node_id
"""

# Stamps follow the order of the call, as the docstore's answers do; rows are written in the order of the node ids.
PUT_BODIES = """
INSERT INTO ragstore.body (collection_id, node_id, document_id, stamp, type_key, content)
SELECT %(collection_id)s, node_id, document_id, stamp, type_key, content FROM (
    SELECT *, nextval('ragstore.stamp') AS stamp
    FROM unnest(%(node_id)s::text[], %(document_id)s::text[], %(type_key)s::text[], %(content)s::jsonb[])
        WITH ORDINALITY AS new (node_id, document_id, type_key, content, position) ORDER BY position
) AS numbered ORDER BY node_id
"""

# The vector stays: an update of the docstore does not contain it.
UPDATE_ROWS = """
UPDATE {table} t SET id = new.stamp, text = new.text, metadata_ = new.metadata_,
    user_metadata = new.user_metadata, document_id = new.document_id, chunk_hash = NULL
FROM (
    SELECT *, nextval('ragstore.stamp') AS stamp
    FROM unnest(%(node_id)s::text[], %(text)s::text[], %(metadata_)s::jsonb[], %(user_metadata)s::jsonb[],
                %(document_id)s::text[])
        WITH ORDINALITY AS put (node_id, text, metadata_, user_metadata, document_id, position) ORDER BY position
) AS new WHERE t.node_id = new.node_id
"""

# A replaced document loses what was known of its former content; to another one only nodes are added.
PUT_DOCUMENTS = """
UPDATE ragstore.document d SET
    revision = d.revision + 1, published_at = now(), deleted_at = NULL,
    n_nodes = (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id),
    source_uri = CASE WHEN new.anew THEN new.source_uri ELSE d.source_uri END,
    metadata = CASE WHEN new.anew THEN new.metadata ELSE d.metadata END,
    doc_hash = CASE WHEN new.anew OR new.source_hash <> d.doc_hash THEN NULL ELSE d.doc_hash END,
    fingerprint = CASE WHEN new.anew THEN NULL ELSE d.fingerprint END,
    content_hash = CASE WHEN new.anew THEN NULL ELSE d.content_hash END,
    size = CASE WHEN new.anew THEN NULL ELSE d.size END,
    mtime_ns = CASE WHEN new.anew THEN NULL ELSE d.mtime_ns END,
    etag = CASE WHEN new.anew THEN NULL ELSE d.etag END,
    ctime_ns = CASE WHEN new.anew THEN NULL ELSE d.ctime_ns END,
    notes = CASE WHEN new.anew THEN '{}' ELSE d.notes END
FROM unnest(%(document_id)s::text[], %(source_uri)s::text[], %(metadata)s::jsonb[], %(anew)s::bool[],
            %(source_hash)s::text[]) AS new (document_id, source_uri, metadata, anew, source_hash)
WHERE d.collection_id = %(collection_id)s AND d.document_id = new.document_id
RETURNING d.document_id, d.n_nodes + (SELECT count(*) FROM ragstore.body b
                                      WHERE b.collection_id = d.collection_id AND b.document_id = d.document_id)
"""

# A byte of type, at most 7 digits and a NUL of name, 4 of length and a NUL for each id; JSON becomes 7 times as long.
ENTRY_SIZES = """
SELECT d.document_id, sum(octet_length(part.node_id) + 14) + 7 * octet_length(d.metadata::text)
FROM ragstore.document d JOIN (
    SELECT document_id, node_id FROM {table} WHERE document_id = ANY(%(document_ids)s::text[])
    UNION ALL
    SELECT document_id, node_id FROM ragstore.body
    WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
) AS part USING (document_id)
WHERE d.collection_id = %(collection_id)s AND d.document_id = ANY(%(document_ids)s::text[])
GROUP BY d.collection_id, d.document_id ORDER BY d.document_id
"""

STATES = """
SELECT document_id, revision, revision > 0 AND deleted_at IS NULL, doc_hash FROM ragstore.document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
"""

# A document that lost its last part is deleted with its hash, so that a refresh adds it again. The document's own node,
# as pipelines put it, is not a part, but with a vector it is. A document that lost its last vector keeps its other
# nodes and loses its hash.
RECOUNT_DOCUMENTS = """
WITH counted AS (
    SELECT d.document_id, d.n_nodes AS n_before,
           (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id) AS n_nodes,
           EXISTS (SELECT FROM ragstore.body b WHERE b.collection_id = d.collection_id
                   AND b.document_id = d.document_id AND b.node_id <> d.document_id)
           OR EXISTS (SELECT FROM {table} t WHERE t.node_id = d.document_id AND t.document_id IS NULL) AS has_parts
    FROM ragstore.live_document d
    WHERE d.collection_id = %(collection_id)s AND d.document_id = ANY(%(document_ids)s::text[])
), settled AS (
    SELECT *, n_nodes = 0 AND NOT has_parts AS gone, n_nodes = 0 AND (n_before > 0 OR NOT has_parts) AS bare
    FROM counted
)
UPDATE ragstore.document d SET
    revision = d.revision + 1, n_nodes = s.n_nodes, deleted_at = CASE WHEN s.gone THEN now() END,
    doc_hash = CASE WHEN s.bare THEN NULL ELSE d.doc_hash END,
    fingerprint = CASE WHEN s.bare THEN NULL ELSE d.fingerprint END,
    content_hash = CASE WHEN s.bare THEN NULL ELSE d.content_hash END
FROM settled s WHERE d.collection_id = %(collection_id)s AND d.document_id = s.document_id
RETURNING d.document_id, s.gone
"""

SET_HASHES = """
UPDATE ragstore.document d SET doc_hash = new.doc_hash, revision = d.revision + 1, published_at = now(),
    deleted_at = NULL, n_nodes = (SELECT count(*) FROM {table} t WHERE t.document_id = d.document_id)
FROM unnest(%(document_id)s::text[], %(doc_hash)s::text[]) AS new (document_id, doc_hash)
WHERE d.collection_id = %(collection_id)s AND d.document_id = new.document_id
"""

WITHOUT_VECTORS = """
SELECT id FROM unnest(%(document_ids)s::text[]) AS own (id)
WHERE NOT EXISTS (SELECT FROM {table} t WHERE t.document_id = own.id)
"""

QUEUE = """
INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp) VALUES {rows}
RETURNING outbox_id, pg_current_xact_id()::xid::text
"""

# The stamp of a put counts its attempts: 1, because the writer makes the first one as soon as this is committed.
QUEUED = """(%(name)s, %(collection_id)s, %(action)s, %(ids)s::text[],
    CASE WHEN %(action)s = 'delete_nodes' THEN nextval('ragstore.stamp') ELSE 1 END)"""

ALL_DOCUMENTS = """
SELECT document_id FROM ragstore.live_document
WHERE collection_id = %(collection_id)s ORDER BY document_id
"""

ALL_NODES_WITHOUT_DOCUMENT = """
SELECT node_id FROM {table} WHERE document_id IS NULL
UNION ALL
SELECT node_id FROM ragstore.body WHERE collection_id = %(collection_id)s AND document_id IS NULL
"""
