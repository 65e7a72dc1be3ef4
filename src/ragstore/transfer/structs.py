"""Index structs as LlamaIndex's index stores keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragstore.model.struct import VECTOR_STORE, Struct


@dataclass(frozen=True, slots=True)
class FoundStruct:
    """A struct, that of a vector index without its nodes, which the ledger knows; and how many it named."""

    struct: Struct
    n_nodes: int

    @property
    def is_vector_index(self) -> bool:
        """Whether a collection has one only."""
        return self.struct.kind == VECTOR_STORE


def struct_of_entry(index_id: str, entry: Any) -> FoundStruct | None:
    """The struct of an entry ``{"__type__": …, "__data__": …}``; None where it is none."""
    if not isinstance(entry, Mapping):
        return None
    data = _loaded(entry.get("__data__"))
    kind = entry.get("__type__")
    if data is None or not isinstance(kind, str):
        return None
    nodes = data.get("nodes_dict")
    n_nodes = len(nodes) if isinstance(nodes, Mapping) else 0
    if kind == VECTOR_STORE:
        data = {**data, "nodes_dict": {}, "doc_id_dict": {}, "embeddings_dict": {}}
    return FoundStruct(Struct(index_id, kind, json.dumps(data)), n_nodes)


def own_struct(collection: str) -> Struct:
    """That of a collection's vector index, as it is where nobody built another."""
    data: dict[str, Any] = {"index_id": collection, "summary": None, "doc_id_dict": {}, "embeddings_dict": {}}
    return Struct(collection, VECTOR_STORE, json.dumps(data))


def around_nodes(struct: Struct) -> tuple[str, str]:
    """What stands before and behind the entries of ``nodes_dict`` in the JSON of a vector index's struct."""
    data = _loaded(struct.body) or {}
    rest = {name: value for name, value in data.items() if name != "nodes_dict"} or {"index_id": struct.index_id}
    return f'{json.dumps(rest)[:-1]}, "nodes_dict": {{', "}}"


def _loaded(data: Any) -> dict[str, Any] | None:
    """Versions before 0.6 kept it as an object, later ones as text."""
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except json.JSONDecodeError:
            return None
    return dict(data) if isinstance(data, Mapping) else None
