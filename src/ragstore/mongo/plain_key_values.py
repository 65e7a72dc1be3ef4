"""Reader of a MongoDB database in which LlamaIndex's ``MongoDBKVStore`` keeps its collections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

_PAGE = 1_000


class PlainKeyValues:
    """The collections of one database; each entry is a document with its key as ``_id``."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    def pages(self, collection: str) -> Iterator[list[tuple[str, Any]]]:
        """Keys and values of a collection such as ``docstore/data``, in pages."""
        # LlamaIndex's ids are strings.
        query = {"_id": {"$type": "string"}}
        with translation():
            page: list[tuple[str, Document]] = []
            for entry in self._database[collection].find(query, batch_size=_PAGE):
                page.append((entry.pop("_id"), entry))
                if len(page) == _PAGE:
                    yield page
                    page = []
            if page:
                yield page

    def collections(self) -> list[str]:
        """Names of all collections."""
        with translation():
            return self._database.list_collection_names()
