"""Readers of LlamaIndex's own PGVectorStore, and of its key-value stores in PostgreSQL and MongoDB."""

from __future__ import annotations

from collections.abc import Iterator

from ragstore.model.run import Vectors
from ragstore.mongo.plain_key_values import PlainKeyValues as MongoEntries
from ragstore.postgres.plain_key_values import PlainKeyValues as PostgresEntries
from ragstore.postgres.plain_table import PlainRow, PlainTable
from ragstore.transfer.systems.key_values import KeyValues, Page
from ragstore.transfer.systems.reader import COSINE, Described, Record, VectorReader


class PlainTableReader(VectorReader):
    """``postgresql://…/database#schema.table``; PGVectorStore always compares by cosine."""

    def __init__(self, table: PlainTable) -> None:
        self._table = table

    def described(self) -> Described:
        return Described(COSINE, self._table.n_rows()[1], is_ordered=True)

    def pages(self) -> Iterator[list[Record]]:
        for rows in self._table.batches():
            yield [_record(row) for row in rows]

    def nearest(self, vector: Vectors, k: int) -> list[Record]:
        return [_record(row) for row in self._table.nearest(vector, k)]

    def doubled(self, limit: int) -> tuple[int, list[str]]:
        n_rows, n_nodes = self._table.n_rows()
        if n_rows <= n_nodes:
            return 0, []
        return n_rows - n_nodes, [f"{node_id}: {n} rows" for node_id, n in self._table.doubled(limit)]


def _record(row: PlainRow) -> Record:
    return Record(row.node_id or "", row.vector, row.text, row.metadata or {})


class PlainKeyValuesReader(KeyValues):
    """``mongodb://…/database#namespace``, ``postgresql://…/database?table=schema.table#namespace``."""

    def __init__(self, entries: MongoEntries | PostgresEntries) -> None:
        self._entries = entries

    def pages(self, collection: str) -> Iterator[Page]:
        return self._entries.pages(collection)

    def collections(self) -> list[str]:
        return self._entries.collections()
