"""Reader of the MongoDB collections of a plain MongoDocumentStore."""

from __future__ import annotations

from collections.abc import Iterator

from ragstore.errors import NotFoundError
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.mongo.errors import translation

_PAGE = 1_000


class PlainDocstore:
    """One namespace of one database.

    Raises:
        NotFoundError: the namespace does not exist.
    """

    def __init__(self, database: MongoDatabase, namespace: str) -> None:
        self._database = database
        self._namespace = namespace
        with translation():
            existing = set(database.list_collection_names())
        if not existing & {f"{namespace}/{part}" for part in ("data", "metadata")}:
            spaces = sorted({name.removesuffix("/data") for name in existing if name.endswith("/data")})
            raise NotFoundError(
                f"MongoDB database {database.name!r} has no document store {namespace!r}",
                hint=f"name one that is there with --namespace: {', '.join(spaces) or 'none'}",
                in_python=f"give namespace= one that is there: {', '.join(spaces) or 'none'}",
                namespace=namespace,
            )

    def bodies(self) -> Iterator[list[Document]]:
        """All nodes, in pages."""
        yield from self._pages("data")

    def hashes(self) -> Iterator[list[Document]]:
        """``{"_id", "doc_hash"}`` of documents and nodes, in pages."""
        yield from self._pages("metadata")

    def _pages(self, part: str) -> Iterator[list[Document]]:
        # LlamaIndex's ids are strings.
        query = {"_id": {"$type": "string"}}
        with translation():
            page: list[Document] = []
            for entry in self._database[f"{self._namespace}/{part}"].find(query, batch_size=_PAGE):
                page.append(entry)
                if len(page) == _PAGE:
                    yield page
                    page = []
            if page:
                yield page
