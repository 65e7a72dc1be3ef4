"""PostgreSQL side of dropping a collection: pages of its remaining ids, and the steps of the change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ragstore.errors import StoreSetupError, as_owner
from ragstore.model.collection import Collection
from ragstore.model.run import Run
from ragstore.postgres import segments, statements
from ragstore.postgres.change import Change
from ragstore.postgres.collections import dropped
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.rebuild import IS_OWNER
from ragstore.postgres.run import execute, fetch_first, fetch_ids

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '500ms'"
"""Readers queue behind a transaction that waits for the table, and a long export may be reading it. Shorter than the
second after which PostgreSQL looks for deadlocks: a concurrent build of an index waits for this transaction, and must
not become the victim."""

PAGE_NODES = """
SELECT node_id FROM (
    (SELECT node_id FROM {table} WHERE node_id > %(after)s ORDER BY node_id LIMIT %(limit)s)
    UNION ALL
    (SELECT node_id FROM ragstore.body
     WHERE collection_id = %(collection_id)s AND node_id > %(after)s ORDER BY node_id LIMIT %(limit)s)
) AS live (node_id) ORDER BY node_id LIMIT %(limit)s
"""

LOCK = "SELECT FROM ragstore.collection WHERE collection_id = %(collection_id)s FOR UPDATE"

IS_EMPTY = """
SELECT NOT EXISTS (SELECT FROM ragstore.live_document WHERE collection_id = %(collection_id)s)
    AND NOT EXISTS (SELECT FROM ragstore.body WHERE collection_id = %(collection_id)s)
    AND NOT EXISTS (SELECT FROM {table})
"""

OF_COLLECTION = "collection_id = %(collection_id)s"

DELETE_COLLECTION = "DELETE FROM ragstore.collection WHERE collection_id = %(collection_id)s"

ADD_EVENT = """
INSERT INTO ragstore.event (worker, collection, action, run_id)
VALUES (%(worker)s, %(name)s, 'collection_dropped', %(run_id)s)
"""


def prepare(pool: PostgresPool, collection: Collection) -> None:
    """Check that this role can drop the collection, and create its table if it is missing.

    Raises:
        StoreSetupError: only the owner of its table can drop it.
        CollectionNotFoundError: another process dropped it.
    """
    with pool.transaction() as cursor:
        _lock(cursor, collection)
        if fetch_first(cursor, "SELECT to_regclass(%(table)s) IS NULL", table=quoted_table(collection)):
            execute(cursor, statements.ENSURE_COLLECTION_TABLE, collection)
        cursor.execute(IS_OWNER, {"relation": collection.table})
        row = cursor.fetchone()
    if row is not None and not row[0]:
        raise StoreSetupError(
            f"collection {collection.name!r} belongs to the role {row[1]}, which alone can drop it",
            hint=f"{as_owner(f'drop {collection.name} --yes', row[1])}; nothing was deleted",
            in_python=f"open the store with RAGSTORE_POSTGRES_URL of the role {row[1]}; nothing was deleted",
            owner=row[1],
        )


def live_documents(pool: PostgresPool, collection: Collection, *, at_once: int) -> Iterator[list[str]]:
    """Ids of all live documents, in pages of ``at_once``."""
    return _pages(pool, collection, statements.PAGE_DOCUMENT_IDS, at_once)


def nodes(pool: PostgresPool, collection: Collection, *, at_once: int) -> Iterator[list[str]]:
    """Ids of all live nodes, with a vector or without, in pages of ``at_once``."""
    return _pages(pool, collection, PAGE_NODES, at_once)


def is_empty(change: Change) -> bool:
    """Whether nothing was added since the collection was emptied."""
    return bool(fetch_first(change.cursor, IS_EMPTY, change.collection))


def abandon_runs(change: Change, *, grace_s: float) -> None:
    """Turn the runs in flight into outbox rows: their staged nodes are garbage, and they can publish nothing."""
    statement = statements.ABANDON_RUNS.format(condition=OF_COLLECTION, locked="")
    execute(change.cursor, statement, change.collection, grace_s=grace_s)


def stamp(change: Change) -> int:
    """A stamp larger than all stamps in the collection."""
    return int(fetch_first(change.cursor, "SELECT nextval('ragstore.stamp')"))


def finish(change: Change) -> None:
    """Drop the tables, and delete the collection's row with all rows that refer to it."""
    execute(change.cursor, ADD_EVENT, change.collection, worker=change.run.worker, run_id=change.run.run_id)
    execute(change.cursor, "DROP TABLE {table}", change.collection)
    segments.drop_all(change.cursor, change.collection)
    execute(change.cursor, DELETE_COLLECTION, change.collection)


@contextmanager
def dropping(pool: PostgresPool, collection: Collection, run: Run) -> Iterator[Change]:
    """The transaction that drops a collection, committed at the end of the block; it excludes all other writers.

    Raises:
        CollectionNotFoundError: another process dropped it.
    """
    with pool.transaction() as cursor:
        cursor.execute(_LOCK_TIMEOUT)
        _lock(cursor, collection)
        change = Change(cursor, collection, run)
        yield change
        change.send()


def _lock(cursor: Cursor, collection: Collection) -> None:
    execute(cursor, LOCK, collection)
    if not cursor.rowcount:
        raise dropped(collection)


def _pages(pool: PostgresPool, collection: Collection, statement: str, at_once: int) -> Iterator[list[str]]:
    after = ""
    # Up to an empty page, not only to a short one: other processes may add while the pages are deleted.
    while ids := fetch_ids(pool, statement, collection, after=after, limit=at_once):
        yield ids
        after = ids[-1]
