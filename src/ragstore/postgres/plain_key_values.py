"""Reader of a table that LlamaIndex's ``PostgresKVStore`` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg2 import sql

from ragstore.errors import NotFoundError
from ragstore.postgres.pool import Cursor
from ragstore.postgres.run import cursor_pages, fetch

_PAGE = 1_000
_NEEDED = {"key", "namespace", "value"}

_COLUMNS = """
SELECT column_name FROM information_schema.columns WHERE table_schema = %(schema)s AND table_name = %(table)s
"""

_ENTRIES = """
DECLARE plain_entries NO SCROLL CURSOR FOR
SELECT key, value FROM {table} WHERE namespace = %(collection)s ORDER BY id
"""


class PlainKeyValues:
    """One table in one transaction.

    Raises:
        NotFoundError: there is no such table.
    """

    def __init__(self, cursor: Cursor, schema: str, table: str) -> None:
        self._cursor = cursor
        self._name = sql.Identifier(schema, table)
        columns = {column for (column,) in fetch(cursor, _COLUMNS, schema=schema, table=table)}
        if not columns.issuperset(_NEEDED):
            found = "it does not exist" if not columns else "it has other columns"
            raise NotFoundError(
                f"{schema}.{table} is no table of a PostgresKVStore: {found}",
                hint="PostgresDocumentStore makes public.data_docstore: name another with ?table=SCHEMA.TABLE",
                table=table,
            )

    def pages(self, collection: str) -> Iterator[list[tuple[str, Any]]]:
        """Keys and values of a collection such as ``docstore/data``, in pages, in the order they were added."""
        fetch(self._cursor, sql.SQL(_ENTRIES).format(table=self._name), collection=collection)
        yield from cursor_pages(self._cursor, "plain_entries", limit=_PAGE)
        fetch(self._cursor, "CLOSE plain_entries")

    def collections(self) -> list[str]:
        """Names of the collections in it."""
        statement = sql.SQL("SELECT DISTINCT namespace FROM {table}").format(table=self._name)
        return [name for (name,) in fetch(self._cursor, statement)]
