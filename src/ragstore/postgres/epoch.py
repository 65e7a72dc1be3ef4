"""Epoch and newest mark of PostgreSQL, the begin of a new epoch, and the deployment that the database belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from ragstore.model.epoch import Mark, StorePosition
from ragstore.postgres.pool import Connection, Cursor, PostgresPool
from ragstore.postgres.run import fetch, fetch_first

POSITION = """
SELECT e.epoch, m.mark, m.token::text FROM ragstore.epoch e,
    (SELECT mark, token FROM ragstore.mark ORDER BY mark DESC LIMIT 1) m
"""

# By key: while a collection is held, reading a whole table has so high a cost that PostgreSQL compiles the plan (JIT).
KNOWS = """
SELECT EXISTS (SELECT FROM ragstore.outbox WHERE outbox_id = %(number)s AND token = %(token)s)
    OR EXISTS (SELECT FROM ragstore.mark
               WHERE slot >= 0 AND (mark > %(number)s OR mark = %(number)s AND token IS NOT DISTINCT FROM %(token)s))
"""

BEGIN = "SELECT ragstore.begin_epoch(%(mongo_epoch)s, %(bound)s, %(worker)s)"

# New revisions are above those that MongoDB has from another timeline. Documents that this timeline does not have stay
# deleted, rows that were made only to be locked included.
RAISE_REVISIONS = """
WITH raised AS (
    INSERT INTO ragstore.document AS d (collection_id, document_id, source_uri, revision, deleted_at)
    SELECT c.collection_id, new.document_id, '', new.revision, now()
    FROM ragstore.collection c, unnest(%(document_id)s::text[], %(revision)s::bigint[]) AS new (document_id, revision)
    WHERE c.name = %(name)s ORDER BY new.document_id
    ON CONFLICT (collection_id, document_id) DO UPDATE SET revision = excluded.revision,
        deleted_at = CASE WHEN d.revision = 0 THEN excluded.deleted_at ELSE d.deleted_at END
        WHERE d.revision < excluded.revision
    RETURNING document_id, revision, deleted_at IS NULL AS live
)
INSERT INTO ragstore.event (worker, collection, document_id, revision, action)
SELECT %(worker)s, %(name)s, document_id, revision, CASE WHEN live THEN 'reconciled' ELSE 'set_aside' END FROM raised
"""

# Of dropped collections: the revisions of a new collection of that name begin above these.
ADD_EVENTS = """
INSERT INTO ragstore.event (worker, collection, document_id, revision, action)
SELECT %(worker)s, %(name)s, document_id, revision, 'set_aside'
FROM unnest(%(document_id)s::text[], %(revision)s::bigint[]) AS new (document_id, revision)
WHERE NOT EXISTS (SELECT FROM ragstore.collection WHERE name = %(name)s)
"""


def position(pool: PostgresPool) -> StorePosition:
    ((number, mark, token),) = fetch(pool, POSITION)
    return StorePosition(number, Mark(mark, token))


def knows(cursor: Cursor, mark: Mark) -> bool:
    """Whether the row of a mark is in the outbox, or this mark or a later one was noted."""
    if mark == Mark():
        return True
    return bool(fetch_first(cursor, KNOWS, number=mark.number, token=mark.token))


def is_known(pool: PostgresPool, mark: Mark) -> bool:
    """As ``knows``, in autocommit mode."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        return knows(cursor, mark)


def begin(pool: PostgresPool, *, mongo_epoch: int, bound: int, worker: str) -> int:
    """End the present epoch for all writers; returns the new one.

    Args:
        bound: no row, stamp or mark of any timeline has a larger number.

    Crash safety:
        One transaction, which waits for writers under way. After it MongoDB is behind until its epoch is set.
    """
    with pool.transaction() as cursor:
        return begin_in(cursor, mongo_epoch=mongo_epoch, bound=bound, worker=worker)


def begin_in(cursor: Cursor, *, mongo_epoch: int, bound: int, worker: str) -> int:
    """As ``begin``, as a step of the caller's transaction."""
    return int(fetch_first(cursor, BEGIN, mongo_epoch=mongo_epoch, bound=bound, worker=worker))


def raise_revisions(pool: PostgresPool, name: str, revisions: Mapping[str, int], *, worker: str) -> None:
    """Raise the revisions of documents of the collection of that name at least to these.

    Crash safety:
        One transaction, idempotent.
    """
    documents = sorted(revisions)
    own = {"name": name, "worker": worker}
    new = own | {"document_id": documents, "revision": [revisions[i] for i in documents]}
    with pool.transaction() as cursor:
        cursor.execute(RAISE_REVISIONS, new)
        cursor.execute(ADD_EVENTS, new)


def deployment_id(connection: Connection) -> str:
    """The id of the deployment that this database belongs to, empty before it has one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT deployment_id::text FROM ragstore.deployment")
        row = cursor.fetchone()
        return str(row[0]) if row else ""


def count_documents(connection: Connection) -> int:
    """How many documents are live, counted up to 1,000."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM (SELECT 1 FROM ragstore.document WHERE deleted_at IS NULL LIMIT 1000) d")
        row = cursor.fetchone()
        return int(row[0]) if row else 0
