"""Reader of a table that a plain PGVectorStore wrote, with any of its settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg2 import sql

from ragstore.errors import NotFoundError
from ragstore.model.run import Vectors
from ragstore.postgres.pool import Cursor, PostgresPool
from ragstore.postgres.run import BEGIN_SNAPSHOT, Rows, cursor_pages, execute, fetch
from ragstore.postgres.vectors import decoded_vector

_PAGE = 1_000
_NEEDED = {"text", "metadata_", "node_id", "embedding"}

# The extension may be in any schema, also outside of the role's search path.
_EXTENSION = """
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""

_COLUMNS = """
SELECT column_name FROM information_schema.columns WHERE table_schema = %(schema)s AND table_name = %(table)s
"""

# In PGVectorStore's table a node id may be there twice; the row that was added last counts.
# MATERIALIZED: only the ids are sorted, not the vectors.
_ROWS = """
DECLARE plain NO SCROLL CURSOR FOR
WITH last AS MATERIALIZED (SELECT max(id) AS id FROM {table} GROUP BY node_id)
SELECT t.node_id, t.metadata_::text, t.text, CASE WHEN t.embedding IS NOT NULL THEN vector_send(t.embedding::vector) END
FROM {table} t JOIN last USING (id) ORDER BY t.id
"""

# The cast keeps indexes out: the answer is exact, whatever type the column and whatever operators its index has.
_NEAREST = """
SELECT t.node_id, t.metadata_::text, t.text, NULL FROM {table} t WHERE t.embedding IS NOT NULL
ORDER BY t.embedding::vector <=> %(vector)s::vector, t.id LIMIT %(limit)s
"""

_COUNT = "SELECT count(*), count(DISTINCT node_id) FROM {table}"

_DOUBLED = """
SELECT node_id, count(*) FROM {table} GROUP BY node_id HAVING count(*) > 1 ORDER BY node_id NULLS FIRST LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class PlainRow:
    """One node of the table.

    Args:
        metadata: its ``metadata_``, None where that is no object.
        content: its ``_node_content``, None where there is none.
        vector: None where the row has none.
    """

    node_id: str | None
    metadata: dict[str, Any] | None
    content: dict[str, Any] | None
    text: str
    vector: Vectors | None


class PlainTable:
    """One table in one transaction; all reads see the same state."""

    def __init__(self, cursor: Cursor, schema: str, table: str) -> None:
        self._cursor = cursor
        self._name = sql.Identifier(schema, table)
        self._check(schema, table)

    def n_rows(self) -> tuple[int, int]:
        """Number of rows, and of different node ids."""
        ((n_rows, n_ids),) = self._fetch(_COUNT)
        return n_rows, n_ids

    def doubled(self, limit: int) -> list[tuple[str, int]]:
        """(node id, number of rows) of the first node ids with several rows."""
        return self._fetch(_DOUBLED, limit=limit)

    def batches(self) -> Iterator[list[PlainRow]]:
        """Each node once, in the order in which the nodes were added."""
        self._fetch(_ROWS)
        for rows in cursor_pages(self._cursor, "plain", limit=_PAGE):
            yield [_row(*row) for row in rows]
        self._fetch("CLOSE plain")

    def nearest(self, vector: Vectors, limit: int) -> list[PlainRow]:
        """The rows with the nearest vectors, nearest first, by an exact search; without their vectors."""
        text = "[" + ",".join(map(repr, vector.tolist())) + "]"
        return [_row(*row) for row in self._fetch(_NEAREST, vector=text, limit=limit)]

    def _check(self, schema: str, table: str) -> None:
        schemas = fetch(self._cursor, _EXTENSION)
        columns = {column for (column,) in fetch(self._cursor, _COLUMNS, schema=schema, table=table)}
        if not schemas or not columns.issuperset(_NEEDED):
            found = "it does not exist" if not columns else "it has other columns"
            found = found if schemas else "the database has no pgvector"
            raise NotFoundError(
                f"{schema}.{table} is no table of a PGVectorStore: {found}",
                hint="PGVectorStore(table_name='x') makes public.data_x: see --postgres-table and --schema",
                in_python="PGVectorStore(table_name='x') makes public.data_x: PlainStack('data_x', schema='public')",
                table=table,
            )
        path = sql.SQL("SET LOCAL search_path = {}, pg_catalog").format(sql.Identifier(schemas[0][0]))
        execute(self._cursor, path)

    def _fetch(self, statement: str, **parameters: Any) -> Rows:
        return fetch(self._cursor, sql.SQL(statement).format(table=self._name), **parameters)


@contextmanager
def plain_table(pool: PostgresPool, schema: str, table: str) -> Iterator[PlainTable]:
    """The present state of the table for the length of the block; nothing is changed or locked.

    Raises:
        NotFoundError: there is no such table.
    """
    with pool.transaction() as cursor:
        execute(cursor, BEGIN_SNAPSHOT)
        yield PlainTable(cursor, schema, table)


def _row(node_id: str | None, metadata: str | None, text: str | None, sent: Any) -> PlainRow:
    held = _object(metadata)
    content = _object(held.get("_node_content")) if held else None
    vector = None if sent is None else decoded_vector(sent)
    return PlainRow(node_id, held, content, text or "", vector)


def _object(text: Any) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
