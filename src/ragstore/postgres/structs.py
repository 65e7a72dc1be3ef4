"""Index structs in PostgreSQL, which decides; MongoDB gets copies through the outbox."""

from __future__ import annotations

from ragstore.model.collection import Collection
from ragstore.model.node import NAMESPACE, Struct
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.run import fetch, fetch_ids

# The stamp is taken after the row is locked, so that the last write has the largest stamp.
PUT = """
INSERT INTO ragstore.index_struct AS old (index_id, collection_id, stamp, kind, body)
VALUES (%(index_id)s, %(collection_id)s, nextval('ragstore.stamp'), %(kind)s, %(body)s)
ON CONFLICT (index_id) DO UPDATE SET stamp = nextval('ragstore.stamp'), kind = excluded.kind, body = excluded.body
WHERE old.collection_id = excluded.collection_id RETURNING index_id
"""

# One statement writes the struct and its outbox row. The writer makes the first attempt at once, hence stamp 1.
QUEUED = """
WITH there AS ({source})
INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp)
SELECT %(namespace)s, %(collection_id)s, 'put_nodes', ARRAY[index_id], 1 FROM there RETURNING outbox_id
"""

THERE = """
SELECT index_id FROM ragstore.index_struct WHERE collection_id = %(collection_id)s AND index_id = %(index_id)s
"""

RESTORE = """
INSERT INTO ragstore.index_struct (index_id, collection_id, stamp, kind, body)
VALUES (%(index_id)s, %(collection_id)s, nextval('ragstore.stamp'), %(kind)s, %(body)s)
ON CONFLICT DO NOTHING RETURNING stamp
"""

DELETE = "DELETE FROM ragstore.index_struct WHERE collection_id = %(collection_id)s AND index_id = %(index_id)s"

GET = """
SELECT index_id, kind, body, stamp FROM ragstore.index_struct
WHERE collection_id = %(collection_id)s AND index_id = %(index_id)s
"""

LIST = """
SELECT index_id, kind, body, stamp FROM ragstore.index_struct
WHERE collection_id = %(collection_id)s ORDER BY index_id
"""


OF_KIND = """
SELECT index_id FROM ragstore.index_struct WHERE collection_id = %(collection_id)s AND kind = %(kind)s ORDER BY index_id
"""


def put_struct(pool: PostgresPool, collection: Collection, struct: Struct) -> list[int]:
    """Write a struct; returns the id of its outbox row, or nothing if the index id is another collection's.

    Crash safety:
        One transaction.
    """
    rows = fetch(pool, QUEUED.format(source=PUT), collection, namespace=NAMESPACE, **_values(struct))
    return [row[0] for row in rows]


def queue_struct(pool: PostgresPool, collection: Collection, index_id: str) -> list[int]:
    """Add an outbox row for an existing struct that MongoDB lacks; returns its id."""
    rows = fetch(pool, QUEUED.format(source=THERE), collection, namespace=NAMESPACE, index_id=index_id)
    return [row[0] for row in rows]


def restore_struct(pool: PostgresPool, collection: Collection, struct: Struct) -> bool:
    """Write a struct that PostgreSQL has lost; False if a struct with its id exists, or conflicts with it.

    Crash safety:
        One transaction.
    """
    return bool(fetch(pool, RESTORE, collection, **_values(struct)))


def delete_struct(pool: PostgresPool, collection: Collection, index_id: str) -> None:
    """Delete a struct, if it exists.

    Crash safety:
        One transaction.
    """
    fetch(pool, DELETE, collection, index_id=index_id)


def find_struct(pool: PostgresPool, collection: Collection, index_id: str) -> Struct | None:
    rows = fetch(pool, GET, collection, index_id=index_id)
    return Struct(*rows[0]) if rows else None


def list_structs(pool: PostgresPool, collection: Collection) -> list[Struct]:
    return [Struct(*row) for row in fetch(pool, LIST, collection)]


def ids_of_kind(pool: PostgresPool, collection: Collection, kind: str) -> list[str]:
    return fetch_ids(pool, OF_KIND, collection, kind=kind)


def _values(struct: Struct) -> dict[str, str]:
    return {"index_id": struct.index_id, "kind": struct.kind, "body": struct.payload}
