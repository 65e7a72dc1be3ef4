"""SQL statements of the ledger that several modules use; ``{table}`` is a quoted, schema-qualified vector table."""

LOCK_DOCUMENTS = """
INSERT INTO ragstore.document (collection_id, document_id, source_uri, revision)
SELECT %(collection_id)s, id, '', 0 FROM unnest(%(document_ids)s::text[]) AS planned(id) ORDER BY id
ON CONFLICT DO NOTHING;
SELECT document_id, revision FROM ragstore.document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
ORDER BY document_id FOR UPDATE
"""

BEGIN_RUN = """
WITH held AS (
    SELECT c.collection_id FROM ragstore.collection c, ragstore.epoch e
    WHERE c.collection_id = %(collection_id)s AND e.is_only AND e.epoch = %(epoch)s FOR KEY SHARE
)
INSERT INTO ragstore.run (run_id, collection_id, worker, node_ids, lease_until)
SELECT %(run_id)s, collection_id, %(worker)s, %(node_ids)s::text[], now() + %(lease_ttl_s)s * interval '1 second'
FROM held
"""

RENEW_LEASES = """
UPDATE ragstore.run SET lease_until = now() + %(lease_ttl_s)s * interval '1 second'
WHERE run_id = ANY(%(run_ids)s::uuid[]) RETURNING run_id::text
"""

END_RUN = "DELETE FROM ragstore.run WHERE run_id = %(run_id)s"

# Also the worker itself abandons a run this way: what it staged is garbage from then on. It waits for the grace
# period, because what the worker sent last may still be on its way to MongoDB when the worker is dead.
ABANDON_RUNS = """
WITH dead AS (
    DELETE FROM ragstore.run WHERE run_id IN (
        SELECT run_id FROM ragstore.run WHERE {condition} ORDER BY run_id FOR UPDATE {locked}
    ) RETURNING run_id, collection_id, node_ids, worker
), queued AS (
    INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp, run_id, not_before)
    SELECT c.name, c.collection_id, 'delete_nodes', dead.node_ids, nextval('ragstore.stamp'), dead.run_id,
           now() + %(grace_s)s * interval '1 second'
    FROM dead JOIN ragstore.collection c USING (collection_id)
)
INSERT INTO ragstore.event (worker, collection, action, run_id, n_nodes)
SELECT dead.worker, c.name, 'abandoned', dead.run_id, cardinality(dead.node_ids)
FROM dead JOIN ragstore.collection c USING (collection_id)
"""

LEASE_RAN_OUT = "lease_until < now() OR worker = ANY(%(dead_workers)s)"
IS_RUN = "run_id = %(run_id)s"

RUN_WORKERS = "SELECT DISTINCT worker FROM ragstore.run"

QUEUE_GARBAGE = """
INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp, run_id, not_before)
VALUES (%(name)s, %(collection_id)s, 'delete_nodes', %(ids)s::text[], nextval('ragstore.stamp'), %(run_id)s,
        now() + %(grace_s)s * interval '1 second')
"""

LIVE_NODE_IDS = """
SELECT node_id FROM {table} WHERE node_id = ANY(%(ids)s::text[])
UNION ALL
SELECT node_id FROM ragstore.body WHERE collection_id = %(collection_id)s AND node_id = ANY(%(ids)s::text[])
"""

LIVE_NODES = """
SELECT node_id, id, metadata_->>'_node_type', metadata_->>'_node_content', text FROM {table}
WHERE node_id = ANY(%(ids)s::text[])
"""

STAMPS_OF_TRANSACTION = """
SELECT node_id, id FROM {table} WHERE node_id = ANY(%(ids)s::text[]) AND xmin = %(transaction)s::xid
"""

LIVE_BODIES = """
SELECT node_id, stamp, type_key, content FROM ragstore.body
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(ids)s::text[])
"""

LOCK_LIVE_DOCUMENTS = """
SELECT document_id, revision FROM ragstore.live_document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
ORDER BY document_id FOR UPDATE
"""

RETIRE_NODES = """
WITH gone AS (
    DELETE FROM {table} WHERE document_id = ANY(%(document_ids)s::text[]) RETURNING node_id
), gone_bodies AS (
    DELETE FROM ragstore.body
    WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[]) RETURNING node_id
), gone_ids AS (
    SELECT node_id FROM gone UNION ALL SELECT node_id FROM gone_bodies
)
INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp, run_id, not_before)
SELECT %(name)s, %(collection_id)s, 'delete_nodes', array_agg(node_id), nextval('ragstore.stamp'),
       %(run_id)s, now() + %(grace_s)s * interval '1 second'
FROM gone_ids HAVING count(*) > 0
"""

PUBLISH_DOCUMENTS = """
UPDATE ragstore.document d SET
    source_uri = new.source_uri, revision = d.revision + 1, n_nodes = new.n_nodes, fingerprint = new.fingerprint,
    content_hash = new.content_hash, doc_hash = new.doc_hash, size = new.size, mtime_ns = new.mtime_ns,
    etag = new.etag, metadata = new.metadata, ctime_ns = new.ctime_ns, notes = new.notes, published_at = now(),
    deleted_at = NULL
FROM unnest(%(document_id)s::text[], %(source_uri)s::text[], %(n_nodes)s::int[], %(fingerprint)s::text[],
            %(content_hash)s::text[], %(doc_hash)s::text[], %(size)s::bigint[], %(mtime_ns)s::bigint[],
            %(etag)s::text[], %(metadata)s::jsonb[], %(ctime_ns)s::bigint[], %(notes)s::jsonb[])
    AS new (document_id, source_uri, n_nodes, fingerprint, content_hash, doc_hash, size, mtime_ns, etag, metadata,
            ctime_ns, notes)
WHERE d.collection_id = %(collection_id)s AND d.document_id = new.document_id
"""

MARK_DELETED = """
UPDATE ragstore.document SET
    revision = revision + 1, n_nodes = 0, fingerprint = NULL, content_hash = NULL, doc_hash = NULL, notes = '{}',
    deleted_at = now()
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[]) AND deleted_at IS NULL
"""

# revision is read after the documents were published: the number that readers see from now on.
ADD_EVENTS = """
INSERT INTO ragstore.event (worker, collection, document_id, revision, action, run_id, n_nodes, n_embedded, n_reused,
                            detail)
SELECT %(worker)s, %(name)s, new.document_id, d.revision, new.action, %(run_id)s, d.n_nodes, new.n_embedded,
       d.n_nodes - new.n_embedded, new.detail
FROM unnest(%(document_id)s::text[], %(action)s::text[], %(n_embedded)s::int[], %(detail)s::jsonb[])
    WITH ORDINALITY AS new (document_id, action, n_embedded, detail, position)
JOIN ragstore.document d ON d.collection_id = %(collection_id)s AND d.document_id = new.document_id
ORDER BY new.position
"""

QUEUE_REF_DOCS = """
INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, run_id)
VALUES (%(name)s, %(collection_id)s, 'put_ref_docs', %(ids)s::text[], %(run_id)s) RETURNING outbox_id
"""

STRUCTS = """
SELECT c.name, s.index_id, s.kind, s.body, s.stamp
FROM ragstore.index_struct s JOIN ragstore.collection c USING (collection_id) WHERE s.index_id = ANY(%(ids)s::text[])
"""

CLEAR_QUARANTINE = """
DELETE FROM ragstore.quarantine WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
"""

# A row that puts something into MongoDB counts in its stamp how often that was tried, before it is: where it was tried
# before, the earlier command may still be on its way when its sender is dead. -1 is the sweep that follows then.
TRY_OUTBOX = """
WITH due AS (
    SELECT outbox_id FROM ragstore.outbox
    WHERE not_before <= now() ORDER BY outbox_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), tried AS (
    UPDATE ragstore.outbox o SET stamp = o.stamp + 1 FROM due
    WHERE o.outbox_id = due.outbox_id AND o.action <> 'delete_nodes' AND o.stamp >= 0
)
SELECT outbox_id FROM due
"""

# The epoch is locked before the rows, in the same order as by the begin of a new epoch.
_WITH_POSITION = """
WITH held AS MATERIALIZED (
    SELECT epoch FROM ragstore.epoch WHERE is_only FOR KEY SHARE
), newest AS (
    SELECT mark, token FROM ragstore.mark ORDER BY mark DESC LIMIT 1
)
SELECT o.outbox_id, o.namespace, o.collection_id, o.action, o.ids, o.stamp, o.token::text,
       held.epoch, newest.mark, newest.token::text
FROM held, newest, ragstore.outbox o
"""

TAKE_OUTBOX = f"""
{_WITH_POSITION}
WHERE o.outbox_id = ANY(%(outbox_ids)s) ORDER BY o.outbox_id FOR UPDATE OF o SKIP LOCKED
"""

# A sweep only deletes, so that it may itself come late.
QUEUE_SWEEPS = """
INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp, not_before)
SELECT namespace, collection_id, CASE WHEN action = 'put_nodes' THEN 'delete_nodes' ELSE action END, ids,
       CASE WHEN action = 'put_nodes' THEN nextval('ragstore.stamp') ELSE -1 END,
       now() + %(grace_s)s * interval '1 second'
FROM ragstore.outbox WHERE outbox_id = ANY(%(outbox_ids)s) AND action <> 'delete_nodes' AND stamp > 1
ORDER BY outbox_id
"""

TAKE_OUTBOX_ROWS = f"""
{_WITH_POSITION}
WHERE o.outbox_id = ANY(%(outbox_ids)s) ORDER BY o.outbox_id FOR UPDATE OF o
"""

DELETE_OUTBOX = """
DELETE FROM ragstore.outbox WHERE outbox_id = ANY(%(outbox_ids)s);
UPDATE ragstore.mark SET mark = %(mark)s, token = %(token)s
WHERE slot = pg_backend_pid() %% 16 AND mark < %(mark)s
"""

DOCUMENT_COLUMNS = """document_id, source_uri, revision, n_nodes, fingerprint, content_hash, doc_hash, size, mtime_ns,
    etag, metadata, published_at, deleted_at, ctime_ns, notes"""

GET_DOCUMENTS = f"""
SELECT {DOCUMENT_COLUMNS} FROM ragstore.document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
"""

GET_SOURCE_STATES = """
SELECT document_id, revision, fingerprint, content_hash, size, mtime_ns, etag, revision > 0 AND deleted_at IS NULL,
    ctime_ns
FROM ragstore.document WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s)
"""

# The conditions are those of an index.
GET_MEMBERS = """
SELECT document_id, revision, fingerprint, content_hash, size, mtime_ns, etag, true, ctime_ns
FROM ragstore.document WHERE collection_id = %(collection_id)s AND source_uri = %(source_uri)s
    AND source_uri <> document_id AND deleted_at IS NULL AND fingerprint IS NOT NULL
    AND document_id ^@ %(beginning)s AND revision > 0
"""

WITH_MEMBERS = """
SELECT document_id FROM ragstore.document
WHERE collection_id = %(collection_id)s AND deleted_at IS NULL AND revision > 0
    AND (document_id = ANY(%(document_ids)s::text[]) OR document_id ^@ ANY(%(beginnings)s::text[]))
"""

QUARANTINED_MEMBERS = """
SELECT document_id FROM ragstore.quarantine
WHERE collection_id = %(collection_id)s AND source_uri = %(source_uri)s AND document_id ^@ %(beginning)s
"""

# A member is tried again when its container is read again.
CONTAINERS_TO_RETRY = """
SELECT DISTINCT source_uri FROM ragstore.quarantine
WHERE collection_id = %(collection_id)s AND retry <> 'never' AND source_uri <> document_id
    AND position(%(mark)s IN document_id) > 0
"""

FIND_BY_CONTENT = f"""
SELECT {DOCUMENT_COLUMNS} FROM ragstore.document
WHERE collection_id = %(collection_id)s AND content_hash = ANY(%(content_hashes)s) AND deleted_at IS NULL
ORDER BY document_id
"""

PAGE_DOCUMENTS = f"""
SELECT {DOCUMENT_COLUMNS} FROM ragstore.live_document
WHERE collection_id = %(collection_id)s AND document_id > %(after)s
ORDER BY document_id LIMIT %(limit)s
"""

COUNT_LIVE = """
SELECT count(*) FROM ragstore.live_document
WHERE collection_id = %(collection_id)s
"""

# Only documents that an ingest read have a fingerprint. A URI may name a folder's file by its bytes, escaped.
PAGE_SOURCES = """
SELECT document_id, source_uri, revision FROM ragstore.live_document
WHERE collection_id = %(collection_id)s AND fingerprint IS NOT NULL
    AND (source_uri ^@ ANY(%(folders)s::text[]) OR source_uri ^@ 'file://') AND document_id > %(after)s
ORDER BY document_id LIMIT %(limit)s
"""

PAGE_QUARANTINED_SOURCES = """
SELECT document_id, source_uri, 0 FROM ragstore.quarantine
WHERE collection_id = %(collection_id)s
    AND (source_uri ^@ ANY(%(folders)s::text[]) OR source_uri ^@ 'file://') AND document_id > %(after)s
ORDER BY document_id LIMIT %(limit)s
"""

# Locked in order first, as everywhere: an UPDATE locks in whatever order its plan finds the rows.
TOUCH_DOCUMENTS = """
SELECT FROM ragstore.document WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_id)s)
ORDER BY document_id FOR UPDATE;
UPDATE ragstore.document d SET size = new.size, mtime_ns = new.mtime_ns, etag = new.etag, ctime_ns = new.ctime_ns,
    fingerprint = coalesce(new.fingerprint, d.fingerprint), notes = coalesce(new.notes, d.notes)
FROM unnest(%(document_id)s::text[], %(revision)s::bigint[], %(size)s::bigint[], %(mtime_ns)s::bigint[],
            %(etag)s::text[], %(ctime_ns)s::bigint[], %(fingerprint)s::text[], %(notes)s::jsonb[])
    AS new (document_id, revision, size, mtime_ns, etag, ctime_ns, fingerprint, notes)
WHERE d.collection_id = %(collection_id)s AND d.document_id = new.document_id AND d.revision = new.revision
"""

HISTORY = """
SELECT event_id, at, worker, document_id, revision, action, run_id::text, n_nodes, n_embedded, n_reused, detail
FROM ragstore.event WHERE collection = %(collection)s AND document_id = %(document_id)s ORDER BY event_id
"""

QUARANTINE_COLUMNS = """document_id, source_uri, code, reason, hint, retry, attempts, first_at, last_at"""

LIST_QUARANTINE = f"""
SELECT {QUARANTINE_COLUMNS} FROM ragstore.quarantine WHERE collection_id = %(collection_id)s ORDER BY document_id
"""

HAS_QUARANTINE = "SELECT EXISTS (SELECT FROM ragstore.quarantine WHERE collection_id = %(collection_id)s)"

GET_QUARANTINE = """
SELECT document_id, retry, code, reason, size, mtime_ns, etag, ctime_ns FROM ragstore.quarantine
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
"""

# The audit trail gets a line when the reason is another one: a worker meets the same one every few seconds.
PUT_QUARANTINE = """
WITH new AS (
    SELECT * FROM unnest(%(document_id)s::text[], %(source_uri)s::text[], %(code)s::text[], %(reason)s::text[],
                         %(hint)s::text[], %(retry)s::text[], %(size)s::bigint[], %(mtime_ns)s::bigint[],
                         %(etag)s::text[], %(ctime_ns)s::bigint[])
        AS new (document_id, source_uri, code, reason, hint, retry, size, mtime_ns, etag, ctime_ns)
), noted AS (
    INSERT INTO ragstore.event (worker, collection, document_id, action, detail)
    SELECT %(worker)s, %(collection)s, document_id, 'quarantined', jsonb_build_object('code', code, 'reason', reason)
    FROM new WHERE NOT EXISTS (
        SELECT FROM ragstore.quarantine q WHERE q.collection_id = %(collection_id)s
            AND (q.document_id, q.code, q.reason) = (new.document_id, new.code, new.reason))
)
INSERT INTO ragstore.quarantine AS old (collection_id, document_id, source_uri, code, reason, hint, retry, size,
                                        mtime_ns, etag, ctime_ns)
SELECT %(collection_id)s, new.* FROM new ORDER BY document_id
ON CONFLICT (collection_id, document_id) DO UPDATE SET
    source_uri = excluded.source_uri, code = excluded.code, reason = excluded.reason, hint = excluded.hint,
    retry = excluded.retry, size = excluded.size, mtime_ns = excluded.mtime_ns, etag = excluded.etag,
    ctime_ns = excluded.ctime_ns, attempts = old.attempts + 1, last_at = now()
"""

# The row stays, so that attempts go on counting; without size and time the next ingest takes the document up again.
RELEASE_QUARANTINE = """
UPDATE ragstore.quarantine SET size = NULL, mtime_ns = NULL, etag = NULL, ctime_ns = NULL, retry = 'later'
WHERE collection_id = %(collection_id)s AND (%(all)s OR document_id = ANY(%(document_ids)s::text[]))
    AND (retry, size, mtime_ns, etag) IS DISTINCT FROM ('later', NULL::bigint, NULL::bigint, NULL::text)
"""

CREATE_COLLECTION = """
INSERT INTO ragstore.collection (name, model, dim, metric, chunk_size, chunk_overlap, text_search_config, vector_type,
    filter_keys)
VALUES (%(name)s, %(model)s, %(dim)s, %(metric)s, %(chunk_size)s, %(chunk_overlap)s, %(text_search_config)s,
        %(vector_type)s, %(filter_keys)s)
ON CONFLICT (name) DO NOTHING
"""

ENSURE_COLLECTION_TABLE = "SELECT ragstore.ensure_collection_table(%(name)s)"

COLLECTION_COLUMNS = """collection_id, name, model, dim, metric, chunk_size, chunk_overlap, text_search_config,
    segments, filter_keys, vector_type, effort, (SELECT epoch FROM ragstore.epoch WHERE is_only)"""

GET_COLLECTION = f"SELECT {COLLECTION_COLUMNS} FROM ragstore.collection WHERE name = %(name)s"

LIST_COLLECTIONS = """
SELECT c.name, count(d.document_id), coalesce(sum(d.n_nodes), 0)::bigint, c.model, c.dim, c.vector_type,
    (SELECT coalesce(sum((segment->>3)::bigint), 0)::bigint FROM jsonb_array_elements(c.segments) AS segment),
    jsonb_array_length(c.segments), c.effort->'found',
    coalesce((c.effort->>'members')::bigint = 0, false)
FROM ragstore.collection c LEFT JOIN ragstore.live_document d USING (collection_id)
GROUP BY c.collection_id ORDER BY c.name
"""

COLLECTION_TABLES = """
SELECT name, to_regclass(format('ragstore.%I', 'data_' || name))::text FROM ragstore.collection
WHERE to_regclass(format('ragstore.%I', 'data_' || name)) IS NOT NULL
"""

# A collection that a transaction holds cannot be dropped; a drop that is under way is waited for. A lock that writers
# share says when no row is on its way that has drawn its id already, see segments.py. While a collection is held, rows
# are found by their keys: a table that grew since it was last analysed must not be read whole for each batch. The
# setting ends with the transaction.
_BY_KEY = "set_config('enable_seqscan', 'off', true) = 'off'"

WRITER_SPACE = 0x5241_4757
"""Key of the lock that writers of a collection share."""

_WRITING = f"pg_advisory_xact_lock_shared({WRITER_SPACE}, collection_id::integer)"

HOLD_COLLECTION = f"""
SELECT {_WRITING} FROM ragstore.collection c, ragstore.epoch e
WHERE c.collection_id = %(collection_id)s AND e.is_only AND e.epoch = %(epoch)s AND {_BY_KEY} FOR KEY SHARE
"""

HOLD_COLLECTION_BY_NAME = f"""
SELECT {COLLECTION_COLUMNS}, {_WRITING} FROM ragstore.collection WHERE name = %(name)s AND {_BY_KEY} FOR KEY SHARE
"""

# As the rows of deleted documents, which a drop takes away: entries in MongoDB that knew a dropped collection of this
# name are older than those of the new one, however late they are written.
RESTORE_REVISIONS = """
INSERT INTO ragstore.document (collection_id, document_id, source_uri, revision, deleted_at)
SELECT c.collection_id, e.document_id, '', max(e.revision), now()
FROM ragstore.collection c JOIN ragstore.event e ON e.collection = c.name
WHERE c.name = %(name)s AND e.document_id IS NOT NULL AND e.revision > 0 GROUP BY 1, 2
"""

LAST_REVISIONS = """
SELECT document_id, max(revision) FROM ragstore.event
WHERE collection = %(name)s AND document_id = ANY(%(ids)s::text[]) AND revision > 0 GROUP BY document_id
"""

# One statement, because two would see two snapshots: a revision with the nodes of the one before.
# Nodes without a vector come last; a document's own node is not one of its parts. Each document by itself, so that a
# table that was not analysed yet is not read whole.
REF_DOCS = """
SELECT d.document_id, d.revision, d.deleted_at IS NULL AND d.revision > 0, coalesce(parts.node_ids, ARRAY[]::text[]),
       d.doc_hash, d.metadata
FROM ragstore.document d CROSS JOIN LATERAL (
    SELECT array_agg(node_id::text ORDER BY has_vector DESC, ordinal, stamp) AS node_ids FROM (
        SELECT node_id, true, ordinal, id FROM {table} WHERE document_id = d.document_id
        UNION ALL
        SELECT node_id, false, 0, stamp FROM ragstore.body b
        WHERE b.collection_id = %(collection_id)s AND b.document_id = d.document_id AND b.node_id <> b.document_id
    ) AS part (node_id, has_vector, ordinal, stamp)
) AS parts
WHERE d.collection_id = %(collection_id)s AND d.document_id = ANY(%(document_ids)s::text[])
"""

PAGE_DOCUMENT_IDS = """
SELECT document_id FROM ragstore.live_document
WHERE collection_id = %(collection_id)s AND document_id > %(after)s
ORDER BY document_id LIMIT %(limit)s
"""

# All that MongoDB's entries contain of a document changes only with its revision.
REVISIONS = """
SELECT document_id, revision FROM ragstore.document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(ids)s::text[])
"""
