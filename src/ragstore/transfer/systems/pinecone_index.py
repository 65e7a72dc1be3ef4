"""Reader of one namespace of a Pinecone index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ragstore.errors import UsageError
from ragstore.model.run import Vectors
from ragstore.transfer.systems.location import Location
from ragstore.transfer.systems.reader import (
    COSINE,
    DOT,
    EUCLID,
    UNKNOWN,
    Described,
    Record,
    VectorReader,
    chosen,
    client_errors,
    client_module,
    floats,
)

_METRICS = {"cosine": COSINE, "euclidean": EUCLID, "dotproduct": DOT}
_PAGE = 100
"""Most ids of one list; a fetch names its ids in its address."""


class PineconeReader(VectorReader):
    """``pinecone:INDEX#namespace``, or ``pinecone+https://HOST#namespace`` of an index whose host is known."""

    def __init__(self, location: Location) -> None:
        location.take()
        self._location = location
        pinecone = client_module("pinecone", "pinecone")
        if not location.secret:
            raise UsageError(
                f"{location.shown} needs a key", hint="give it as RAGSTORE_FROM_SECRET, best as a secret file"
            )
        self._metric = UNKNOWN
        with client_errors(location):
            client = pinecone.Pinecone(api_key=location.secret)
            if location.is_remote:
                self._index: Any = client.Index(host=location.http_url())
            else:
                found = client.describe_index(location.address)
                self._metric = str(found.metric)
                self._index = client.Index(host=found.host)
            stats = self._index.describe_index_stats()
        self._metric = str(getattr(stats, "metric", None) or self._metric)
        self._counts = {name: int(space.vector_count) for name, space in (stats.namespaces or {}).items()}
        # The default namespace has no name; newer servers call it so.
        names = ["" if name == "__default__" else name for name in self._counts]
        self._namespace = chosen("namespace", location.name, names or [""], location)

    def described(self) -> Described:
        place = self._location
        others = [
            f"{place.scheme}:{place.address}#{'' if name == '__default__' else name}"
            for name in self._counts
            if name not in (self._namespace, self._namespace or "__default__")
        ]
        n_records = self._counts.get(self._namespace, self._counts.get("__default__"))
        return Described(_METRICS.get(self._metric, self._metric), n_records, others=others)

    def pages(self) -> Iterator[list[Record]]:
        with client_errors(self._location):
            for page in self._index.list(namespace=self._namespace, limit=_PAGE):
                ids = [getattr(each, "id", each) for each in getattr(page, "vectors", page)]
                if ids:
                    found = self._index.fetch(ids=ids, namespace=self._namespace).vectors
                    yield [
                        Record(i, floats(found[i].values or None), None, dict(found[i].metadata or {}))
                        for i in ids
                        if i in found
                    ]

    def nearest(self, vector: Vectors, k: int) -> list[Record]:
        with client_errors(self._location):
            found = self._index.query(vector=vector.tolist(), top_k=k, namespace=self._namespace, include_metadata=True)
        return [Record(each.id, None, None, dict(each.metadata or {})) for each in found.matches]

    def close(self) -> None:
        self._index.close()
