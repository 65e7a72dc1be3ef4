"""Declared filter keys: metadata keys that filters name often, each with its own indexes.

Searches are correct without the indexes, which only make filters faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.errors

from ragstore.model.collection import Collection, checked_filter_keys
from ragstore.postgres import statements
from ragstore.postgres.collections import dropped, to_collection
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Connection, Cursor, PostgresPool
from ragstore.postgres.segments import LOCK_SPACE
from ragstore.postgres.turn import exclusive
from ragstore.postgres.vectors import analyze
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_log = get_logger(__name__)

_LOCK_KEYS = "SELECT filter_keys FROM ragstore.collection WHERE collection_id = %(collection_id)s FOR NO KEY UPDATE"
_SET_KEYS = f"""
UPDATE ragstore.collection SET filter_keys = %(keys)s WHERE collection_id = %(collection_id)s
RETURNING {statements.COLLECTION_COLUMNS}
"""
_MISSING = """
SELECT wanted.index_name, wanted.definition FROM ragstore.filter_indexes(%(name)s) AS wanted
LEFT JOIN pg_index i ON i.indexrelid = to_regclass('ragstore.' || wanted.index_name)
WHERE i.indisvalid IS NOT TRUE
    AND pg_has_role((SELECT relowner FROM pg_class WHERE oid = to_regclass(%(table)s)), 'USAGE')
"""

WAIT_S = 10.0
_OLDEST_TRANSACTION = """
SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::float8 FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND backend_xmin IS NOT NULL
    AND clock_timestamp() - xact_start > make_interval(secs => %s)
ORDER BY xact_start LIMIT 1
"""

_SAMPLED_KEYS = """
WITH first AS (SELECT user_metadata FROM {table} ORDER BY id LIMIT %(limit)s),
     last AS (SELECT user_metadata FROM {table} ORDER BY id DESC LIMIT %(limit)s)
SELECT (SELECT count(*) FROM first), (SELECT count(*) FROM last), ARRAY(
    SELECT DISTINCT key FROM (SELECT * FROM first UNION ALL SELECT * FROM last) AS looked_at,
        jsonb_object_keys(user_metadata) AS key)
"""


@dataclass(frozen=True, slots=True)
class SampledKeys:
    """Keys that some nodes of a collection have.

    Args:
        n_nodes: nodes that were read.
        is_all: whether these are all nodes of the collection.
    """

    keys: frozenset[str]
    n_nodes: int
    is_all: bool


def declare(pool: PostgresPool, collection: Collection, keys: Sequence[str]) -> Collection:
    """Add keys to those of a collection; ``build_missing`` makes their indexes.

    Raises:
        UsageError: there would be too many keys.
        CollectionNotFoundError: it was dropped.

    Crash safety:
        One transaction. Indexes that are not built after it are built by the next maintenance.
    """
    own = {"collection_id": collection.collection_id}
    with pool.transaction() as cursor:
        cursor.execute(_LOCK_KEYS, own)
        row = cursor.fetchone()
        if row is None:
            raise dropped(collection)
        cursor.execute(_SET_KEYS, own | {"keys": list(checked_filter_keys([*row[0], *keys]))})
        declared = to_collection(cursor.fetchone())
    reached(Failpoint.FILTER_KEYS_DECLARED)
    return declared


def build_missing(pool: PostgresPool, collection: Collection, *, wait_s: float = WAIT_S) -> bool:
    """Build missing and invalid indexes of declared keys; returns whether it did.

    Returns at once if another process is building, or if the table belongs to another role: then ``ragstore
    maintain`` builds.

    Args:
        wait_s: seconds to wait for the end of other transactions, of any program, which PostgreSQL waits for before
            an index is valid. If one lasts longer, the log says so and the next call builds. A pooler accepts no
            limit: behind it, the build waits to the end of a transaction that was young when it began.

    Crash safety:
        Built concurrently: readers and writers go on. An index that a killed build left is built again.
    """
    if not collection.filter_keys:
        return False
    with pool.autocommit() as connection:
        with connection.cursor() as cursor:
            if not _missing(cursor, collection):
                return False
        with exclusive(pool, (LOCK_SPACE, collection.collection_id)) as is_mine:
            if not is_mine:
                return False
            oldest = _oldest_transaction(connection, wait_s)
            if oldest is None:
                try:
                    return _build(connection, collection, wait_s)
                except psycopg2.errors.LockNotAvailable:
                    # Not every role can see other roles' transactions.
                    oldest = _oldest_transaction(connection, 0) or {}
            _log.warning(
                f"indexes of filter keys are put off until a transaction of {oldest.get('program') or 'somebody'} ends",
                action="index_put_off",
                collection=collection.name,
                hint="searches find the same without them; 'ragstore maintain' builds them when it has ended",
                **oldest,
            )
            return False


def sampled_keys(pool: PostgresPool, collection: Collection, *, at_each_end: int = 1_000) -> SampledKeys:
    """Metadata keys of the oldest and the newest nodes; the cost does not depend on the size of the collection."""
    statement = _SAMPLED_KEYS.format(table=quoted_table(collection))
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statement, {"limit": at_each_end})
        row = cursor.fetchone()
    n_first, n_last, keys = row or (0, 0, [])
    is_all = n_first < at_each_end
    return SampledKeys(frozenset(keys), n_first if is_all else n_first + n_last, is_all)


def is_index_name(name: str) -> bool:
    """Whether this is the name of an index of a declared key."""
    return name.startswith("filter_")


def _oldest_transaction(connection: Connection, longer_than_s: float) -> dict[str, Any] | None:
    """The oldest transaction that has lasted for longer than this; None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST_TRANSACTION, [longer_than_s])
        found = cursor.fetchone()
    return None if found is None else {"pid": found[0], "program": found[1], "since_s": round(found[2])}


def _build(connection: Connection, collection: Collection, wait_s: float) -> bool:
    with connection.cursor() as cursor:
        missing = _missing(cursor, collection)
        for name, definition in missing:
            # A time limit for queries would end every build on a large table.
            limits = {"statement_timeout": "0", "lock_timeout": f"{wait_s:.3f}s"}
            connection.outside(f'DROP INDEX CONCURRENTLY IF EXISTS ragstore."{name}"', **limits)
            connection.outside(f'CREATE INDEX CONCURRENTLY "{name}" {definition}', **limits)
            reached(Failpoint.FILTER_INDEX_BUILT)
        # The planner needs statistics of the new index's expressions.
        connection.outside(analyze(quoted_table(collection)), statement_timeout="0")
    return bool(missing)


def _missing(cursor: Cursor, collection: Collection) -> list[tuple[str, str]]:
    """Name and definition of each index to build; none if this role does not own the table."""
    cursor.execute(_MISSING, {"name": collection.name, "table": quoted_table(collection)})
    return cursor.fetchall()
