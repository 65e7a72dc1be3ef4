"""Reader of a Qdrant collection: a server, or a folder of the client's local engine."""

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
    Described,
    Record,
    VectorReader,
    chosen,
    client_errors,
    client_module,
    floats,
)

_METRICS = {"Cosine": COSINE, "Dot": DOT, "Euclid": EUCLID}
_PAGE = 500


class QdrantReader(VectorReader):
    """``qdrant:PATH#collection``, ``qdrant+https://host:port?vector=NAME#collection``."""

    def __init__(self, location: Location) -> None:
        self._location = location
        wanted = location.take("vector").get("vector")
        client = client_module("qdrant_client", "qdrant")
        with client_errors(location):
            if location.is_remote:
                # A key that is sent over http is warned of by the client itself.
                self._client = client.QdrantClient(url=location.http_url(), api_key=location.secret, timeout=60)
            else:
                self._client = client.QdrantClient(path=location.local_path("meta.json"))
            names = [each.name for each in self._client.get_collections().collections]
            self._name = chosen("collection", location.name, names, location)
            self._info = self._client.get_collection(self._name)
        params = self._info.config.params
        dense = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors} if params.vectors else {}
        self._using = chosen("vector", wanted, list(dense), location)
        self._space = dense[self._using]
        self._sparse = list(params.sparse_vectors or {})
        self._others = [each for each in dense if each != self._using]
        if getattr(self._space, "multivector_config", None) is not None:
            raise UsageError(
                f"vector {self._using!r} of {location.shown} is several vectors for each point",
                hint=f"name one that is a single vector with ?vector=: {', '.join(self._others) or 'there is none'}",
            )

    def described(self) -> Described:
        metric = str(getattr(self._space.distance, "value", self._space.distance))
        others = [f"vector {each!r}: take it over with ?vector={each}" for each in self._others]
        return Described(
            _METRICS.get(metric, metric), self._info.points_count, sparse=self._sparse, others=others, is_ordered=False
        )

    def pages(self) -> Iterator[list[Record]]:
        offset = None
        with client_errors(self._location):
            while True:
                points, offset = self._client.scroll(
                    self._name, limit=_PAGE, offset=offset, with_payload=True, with_vectors=True
                )
                if points:
                    yield [Record(str(each.id), self._vector(each.vector), None, each.payload or {}) for each in points]
                if offset is None:
                    return

    def nearest(self, vector: Vectors, k: int) -> list[Record]:
        with client_errors(self._location):
            found = self._client.query_points(
                self._name, query=vector.tolist(), using=self._using or None, limit=k, with_payload=True
            )
        return [Record(str(each.id), None, None, each.payload or {}) for each in found.points]

    def close(self) -> None:
        self._client.close()

    def _vector(self, held: Any) -> Vectors | None:
        return floats(held.get(self._using) if isinstance(held, dict) else held)
