"""Reader of a Milvus collection: a file of Milvus Lite, or a server, Zilliz Cloud included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ragstore.model.run import Vectors
from ragstore.transfer.systems.location import Location
from ragstore.transfer.systems.reader import (
    COSINE,
    DOT,
    EUCLID,
    PAGE,
    UNKNOWN,
    Described,
    Record,
    VectorReader,
    chosen,
    client_errors,
    client_module,
    floats,
)

_METRICS = {"COSINE": COSINE, "IP": DOT, "L2": EUCLID}


class MilvusReader(VectorReader):
    """``milvus:FILE#collection``, ``milvus+http://host:port?database=…&vector=FIELD#collection``."""

    def __init__(self, location: Location) -> None:
        self._location = location
        options = location.take("database", "vector")
        client = client_module("pymilvus", "milvus")
        kinds = client.DataType
        with client_errors(location):
            if location.is_remote:
                self._client = client.MilvusClient(
                    uri=location.http_url(), token=location.secret or "", db_name=options.get("database", "")
                )
            else:
                client_module("milvus_lite", "milvus")
                self._client = client.MilvusClient(uri=location.local_path())
            self._name = chosen("collection", location.name, self._client.list_collections(), location)
            fields = self._client.describe_collection(self._name)["fields"]
            self._client.load_collection(self._name)
        types = {each["name"]: each["type"] for each in fields}
        self._key = next(each["name"] for each in fields if each.get("is_primary"))
        dense = [
            name
            for name, kind in types.items()
            if kind in (kinds.FLOAT_VECTOR, kinds.FLOAT16_VECTOR, kinds.BFLOAT16_VECTOR)
        ]
        self._field = chosen("dense vector field", options.get("vector"), dense, location)
        self._kind = types[self._field]
        self._kinds = kinds
        self._others = [f"field {each}: take it over with ?vector={each}" for each in dense if each != self._field]
        self._sparse = [name for name, kind in types.items() if kind == kinds.SPARSE_FLOAT_VECTOR]
        self._not_metadata = {self._key, *dense, *self._sparse}

    def described(self) -> Described:
        with client_errors(self._location):
            metric = UNKNOWN
            for index in self._client.list_indexes(self._name, field_name=self._field):
                found = self._client.describe_index(self._name, index)
                if found and found.get("field_name", self._field) == self._field:
                    metric = str(found.get("metric_type") or metric)
            n_records = int(self._client.get_collection_stats(self._name).get("row_count", 0))
        return Described(_METRICS.get(metric, metric), n_records, sparse=self._sparse, others=self._others)

    def pages(self) -> Iterator[list[Record]]:
        with client_errors(self._location):
            rows = self._client.query_iterator(self._name, batch_size=PAGE, output_fields=["*"])
            try:
                while page := rows.next():
                    yield [
                        Record(str(row[self._key]), self._vector(row.get(self._field)), None, self._metadata(row))
                        for row in page
                    ]
            finally:
                rows.close()

    def nearest(self, vector: Vectors, k: int) -> list[Record]:
        with client_errors(self._location):
            (hits,) = self._client.search(
                self._name, data=[vector.tolist()], anns_field=self._field, limit=k, output_fields=["*"]
            )
            return [Record(str(hit[self._key]), None, None, self._metadata(hit["entity"])) for hit in hits]

    def close(self) -> None:
        self._client.close()

    def _metadata(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in self._not_metadata}

    def _vector(self, held: Any) -> Vectors | None:
        """Shorter floats come as bytes."""
        import numpy as np

        if isinstance(held, list) and len(held) == 1 and isinstance(held[0], bytes):
            held = held[0]
        if isinstance(held, bytes):
            if self._kind == self._kinds.FLOAT16_VECTOR:
                return floats(np.frombuffer(held, dtype=np.float16))
            return floats((np.frombuffer(held, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32))
        return floats(held)
