"""Reader of a FAISS index that LlamaIndex persisted; which node a vector belongs to says the index struct."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ragstore.errors import NotFoundError, TransferError
from ragstore.model.run import Vectors
from ragstore.transfer.persist_dir import INDEX_STORE, PersistDir, open_persist_dir
from ragstore.transfer.systems.key_values import KeyValues
from ragstore.transfer.systems.location import Location
from ragstore.transfer.systems.reader import (
    DOT,
    EUCLID,
    PAGE,
    Described,
    Record,
    VectorReader,
    chosen,
    client_errors,
    client_module,
)

_ID_MAP = "id_map.json"


class FaissReader(VectorReader):
    """``faiss:PERSIST_DIR?namespace=…#index_id``; texts come from the document store.

    The whole index is in memory, as in FAISS itself.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        namespace = location.take("namespace").get("namespace")
        self._faiss = client_module("faiss", "faiss")
        self.persist_dir: PersistDir = open_persist_dir(location.local_path())
        stores = self.persist_dir.vector_stores
        binary = [each for each, name in stores.items() if _is_index(self.persist_dir, name)]
        name = stores[chosen("FAISS index", namespace, binary, location)]
        with client_errors(location):
            self._index: Any = self._faiss.read_index(os.path.join(location.local_path(), name))
        self._inner, labels = _without_map(self._faiss, self._index)
        self._labels = np.arange(self._inner.ntotal) if labels is None else labels
        self._node_ids = self._nodes_of_vectors()
        with client_errors(location):
            if hasattr(self._inner, "make_direct_map"):
                self._inner.make_direct_map()

    def described(self) -> Described:
        if not self._node_ids:
            raise NotFoundError(
                f"{self._location.shown} has no index struct, so that nothing says which node a vector belongs to",
                hint="persist the whole storage context (index.storage_context.persist(DIR)), or name the index store "
                "with --index-store",
                in_python="persist the whole storage context, or give index_store=",
            )
        metrics = {self._faiss.METRIC_L2: EUCLID, self._faiss.METRIC_INNER_PRODUCT: DOT}
        number = self._inner.metric_type
        is_lossy = self._inner.sa_code_size() < 4 * self._inner.d
        return Described(
            metrics.get(number, f"FAISS's metric {number}"),
            int(self._inner.ntotal),
            is_ordered=True,
            is_lossy=is_lossy,
            has_records=False,
        )

    def pages(self) -> Iterator[list[Record]]:
        for first in range(0, int(self._inner.ntotal), PAGE):
            n = min(PAGE, int(self._inner.ntotal) - first)
            with client_errors(self._location):
                vectors = self._inner.reconstruct_n(first, n)
            yield [
                Record(self._node_id(self._labels[first + i]), np.array(vectors[i], dtype=np.float32), None, {})
                for i in range(n)
            ]

    def nearest(self, vector: Vectors, k: int) -> list[Record]:
        with client_errors(self._location):
            _, labels = self._index.search(vector[np.newaxis].astype(np.float32), k)
        return [Record(self._node_id(label), None, None, {}) for label in labels[0] if label >= 0]

    def use_index_store(self, store: KeyValues, namespace: str) -> None:
        """Take the index struct from an index store elsewhere, if the folder has none."""
        if not self._node_ids:
            entries = (entry for page in store.pages(f"{namespace}/data") for entry in page)
            self._node_ids = self._of_structs(dict(entries))

    def _node_id(self, label: Any) -> str:
        """The node of a vector; a vector that no struct names is reported under its number."""
        return self._node_ids.get(str(label), f"FAISS vector {label}")

    def _nodes_of_vectors(self) -> dict[str, str]:
        """FAISS's number → node id: of ``FaissMapVectorStore``'s map, or of the folder's index struct; else empty."""
        if _ID_MAP in self.persist_dir.names:
            path = os.path.join(self._location.local_path(), _ID_MAP)
            with client_errors(self._location), open(path, encoding="utf-8") as file:
                text = file.read()
                # Versions before 0.6 wrote it as Python does.
                held = json.loads(text) if text.lstrip()[:2] in ('{"', "{}") else ast.literal_eval(text)
                pairs = held.get("faiss_id_to_node_id_map", {}) if isinstance(held, dict) else {}
                return {str(number): str(node_id) for number, node_id in pairs.items()}
        entries = self.persist_dir.entries(INDEX_STORE) if self.persist_dir.has(INDEX_STORE) else ()
        return self._of_structs({str(entry.key): entry.value for entry in entries})

    def _of_structs(self, entries: Mapping[str, Any]) -> dict[str, str]:
        structs = {}
        for index_id, entry in entries.items():
            data = entry.get("__data__") if isinstance(entry, Mapping) else None
            data = json.loads(data) if isinstance(data, str) else data
            if isinstance(data, Mapping) and data.get("nodes_dict"):
                structs[index_id] = {str(number): str(i) for number, i in data["nodes_dict"].items()}
        return structs[chosen("index struct", self._location.name, list(structs), self._location)] if structs else {}


def _is_index(persist_dir: PersistDir, name: str) -> bool:
    """Whether the file is a FAISS index; LlamaIndex gives it the name of a JSON file."""
    try:
        with persist_dir.folder.fs.open(persist_dir.folder.at(name), "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise TransferError(f"{persist_dir.folder.shown(name)} cannot be read", hint="check its permissions") from error
    return bool(start[:1] == b"I")


def _without_map(faiss: Any, index: Any) -> tuple[Any, Any]:
    """The index that holds the vectors, and the numbers that a map around it gives them."""
    outer = faiss.downcast_index(index)
    if isinstance(outer, faiss.IndexIDMap):  # the base of IndexIDMap2
        return faiss.downcast_index(outer.index), faiss.vector_to_array(outer.id_map)
    return outer, None
