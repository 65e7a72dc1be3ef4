"""Reader of a Chroma collection: a folder of the embedded engine, or a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ragstore.model.run import Vectors
from ragstore.transfer.systems.location import Location
from ragstore.transfer.systems.reader import (
    COSINE,
    DOT,
    EUCLID,
    PAGE,
    Described,
    Record,
    VectorReader,
    chosen,
    client_errors,
    client_module,
    floats,
)

_METRICS = {"cosine": COSINE, "l2": EUCLID, "ip": DOT}


class ChromaReader(VectorReader):
    """``chroma:PATH#collection``, ``chroma+http://host:port?tenant=…&database=…#collection``."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._client = _client(location)
        with client_errors(location):
            names = [each.name for each in self._client.list_collections()]
            name = chosen("collection", location.name, names, location)
            self._collection = self._client.get_collection(name, embedding_function=None)

    def described(self) -> Described:
        with client_errors(self._location):
            configuration = self._collection.configuration_json
            index = configuration.get("hnsw") or configuration.get("spann") or {}
            space = index.get("space") or (self._collection.metadata or {}).get("hnsw:space") or "l2"
            return Described(_METRICS.get(space, space), self._collection.count(), is_ordered=True)

    def pages(self) -> Iterator[list[Record]]:
        offset = 0
        with client_errors(self._location):
            while True:
                page = self._collection.get(limit=PAGE, offset=offset, include=["embeddings", "documents", "metadatas"])
                records = list(_records(page["ids"], page["documents"], page["metadatas"], page["embeddings"]))
                if not records:
                    return
                yield records
                offset += len(records)

    def nearest(self, vector: Vectors, k: int) -> list[Record]:
        with client_errors(self._location):
            found = self._collection.query(
                query_embeddings=[vector.tolist()], n_results=k, include=["documents", "metadatas"]
            )
        return list(_records(found["ids"][0], found["documents"][0], found["metadatas"][0], None))

    def close(self) -> None:
        close = getattr(self._client, "close", None)
        if close is not None:
            close()


def _client(location: Location) -> Any:
    chromadb = client_module("chromadb", "chroma")
    options = location.take("tenant", "database") if location.is_remote else location.take()
    settings = chromadb.config.Settings(anonymized_telemetry=False)
    with client_errors(location):
        if not location.is_remote:
            path = location.local_path("chroma.sqlite3")
            try:
                return chromadb.PersistentClient(path=path, settings=settings)
            except ValueError:
                # This program has it open already, and Chroma wants the same settings each time: those by default.
                return chromadb.PersistentClient(path=path)
        url = urlsplit(location.http_url())
        return chromadb.HttpClient(
            host=url.hostname,
            port=url.port or (443 if url.scheme == "https" else 8000),
            ssl=url.scheme == "https",
            headers={"X-Chroma-Token": location.secret} if location.secret else None,
            settings=settings,
            **options,
        )


def _records(ids: Any, texts: Any, metadata: Any, vectors: Any) -> Iterator[Record]:
    for position, record_id in enumerate(ids):
        yield Record(
            record_id,
            floats(vectors[position]) if vectors is not None else None,
            texts[position] if texts is not None else None,
            (metadata[position] if metadata is not None else None) or {},
        )
