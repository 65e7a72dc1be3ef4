"""Runner of single statements: on the cursor of an open transaction, or in autocommit mode on a pool.

A cursor stays in the transaction that it belongs to. A pool lends a connection for this one statement, which is then
its own transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psycopg2 import sql

from ragstore.model.collection import Collection
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Cursor, PostgresPool

Target = Cursor | PostgresPool
Statement = str | sql.Composable
Rows = list[tuple[Any, ...]]

BEGIN_SNAPSHOT = """
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '15min';
SET LOCAL cursor_tuple_fraction = 1
"""
"""The snapshot must outlast the writing of a page to a slow place; it must not outlast a paused process."""


def execute(cursor: Cursor, statement: Statement, collection: Collection | None = None, /, **parameters: Any) -> None:
    """Run a statement and leave its result to the cursor.

    Args:
        collection: its table replaces ``{table}``; its id and name are the parameters ``collection_id`` and ``name``.
    """
    if collection is not None:
        parameters = {"collection_id": collection.collection_id, "name": collection.name} | parameters
        if isinstance(statement, str):
            statement = statement.replace("{table}", quoted_table(collection))
    # Without parameters a ``%`` in the statement is a plain character.
    cursor.execute(statement, parameters or None)


def fetch(target: Target, statement: Statement, collection: Collection | None = None, /, **parameters: Any) -> Rows:
    """All rows of a statement, none for one that returns no rows; arguments as for ``execute``."""
    if isinstance(target, PostgresPool):
        with target.autocommit() as connection, connection.cursor() as cursor:
            return fetch(cursor, statement, collection, **parameters)
    execute(target, statement, collection, **parameters)
    return target.fetchall() if target.description else []


def fetch_values(pool: PostgresPool, statement: str, values: Sequence[Any] | Mapping[str, Any]) -> Rows:
    """All rows of a statement that is complete but for these values."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def fetch_first(
    target: Target, statement: Statement, collection: Collection | None = None, /, **parameters: Any
) -> Any:
    """The first column of the first row; raises IndexError where there is no row."""
    return fetch(target, statement, collection, **parameters)[0][0]


def fetch_ids(target: Target, statement: str, collection: Collection | None = None, /, **parameters: Any) -> list[str]:
    """The first column of all rows."""
    return [row[0] for row in fetch(target, statement, collection, **parameters)]


def pages(target: Target, statement: str, collection: Collection, *, limit: int) -> Iterator[Rows]:
    """Pages of a statement that returns rows after ``%(after)s`` in the order of their first column, a text.

    Each page is a statement of its own; a page of fewer than ``limit`` rows is the last.
    """
    after = ""
    while rows := fetch(target, statement, collection, after=after, limit=limit):
        yield rows
        if len(rows) < limit:
            return
        after = rows[-1][0]


def cursor_pages(cursor: Cursor, name: str, *, limit: int) -> Iterator[Rows]:
    """Pages of a server-side cursor that this transaction has declared, until it is at its end."""
    while rows := fetch(cursor, f"FETCH {limit} FROM {name}"):
        yield rows
