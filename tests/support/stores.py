"""Both databases as their own drivers see them, without any of ragstore's code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pymongo

from ragstore.embedded import remembered_urls


@dataclass(frozen=True)
class Stores:
    """A PostgreSQL database and a MongoDB database that belong together."""

    postgres_url: str
    mongo_url: str
    mongo_database: str = "ragstore"

    @classmethod
    def of_home(cls, home: Path) -> Stores:
        urls = remembered_urls(home)
        assert urls is not None
        return cls(urls.postgres_url, urls.mongo_url)

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.postgres_url, connect_timeout=5)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def entries(self, name: str) -> dict[str, dict[str, Any]]:
        """Everything in one collection of MongoDB, by ``_id``."""
        with pymongo.MongoClient[dict[str, Any]](self.mongo_url, serverSelectionTimeoutMS=10_000) as client:
            return {entry["_id"]: entry for entry in client[self.mongo_database][name].find({})}

    def n_documents(self, collection: str) -> int:
        """Live documents; 0 where the collection does not exist yet."""
        return int(
            self.sql(
                "SELECT count(*) FROM ragstore.document JOIN ragstore.collection c USING (collection_id) "
                "WHERE c.name = %s AND deleted_at IS NULL AND revision > 0",
                collection,
            )[0][0]
        )

    def assert_agree(self, collection: str) -> int:
        """The same nodes in both, each once, named by their documents and nothing left to do; returns how many."""
        rows = self.sql(f'SELECT node_id, document_id, text FROM ragstore."data_{collection}" ORDER BY 2, ordinal')
        bodies = self.entries(f"{collection}/data")
        assert [node_id for node_id, n in Counter(row[0] for row in rows).items() if n > 1] == []
        assert {row[0] for row in rows} == set(bodies)
        assert {row[0]: row[2] for row in rows} == {i: body["__data__"]["text"] for i, body in bodies.items()}
        by_document: dict[str, list[str]] = {}
        for node_id, document_id, _ in rows:
            by_document.setdefault(document_id, []).append(node_id)
        ledger = self.sql(
            "SELECT document_id, n_nodes, doc_hash FROM ragstore.document JOIN ragstore.collection c "
            "USING (collection_id) WHERE c.name = %s AND deleted_at IS NULL AND revision > 0",
            collection,
        )
        by_document |= {document_id: [] for document_id, n_nodes, _ in ledger if not n_nodes}
        ref_docs = self.entries(f"{collection}/ref_doc_info")
        assert {i: entry["node_ids"] for i, entry in ref_docs.items()} == by_document
        assert {row[0]: row[1] for row in ledger} == {i: len(ids) for i, ids in by_document.items()}
        hashes = self.entries(f"{collection}/metadata")
        assert {row[0]: row[2] for row in ledger} == {i: entry["doc_hash"] for i, entry in hashes.items()}
        assert self.sql("SELECT * FROM ragstore.outbox WHERE namespace = %s", collection) == []
        runs = "SELECT run_id FROM ragstore.run JOIN ragstore.collection c USING (collection_id) WHERE c.name = %s"
        assert self.sql(runs, collection) == []
        return len(rows)
