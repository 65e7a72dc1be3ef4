"""LlamaIndex's MongoDB index store, in which a vector index stays small and loading one writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast
from uuid import UUID

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.data_structs.data_structs import IndexDict, IndexStruct
from llama_index.core.storage.index_store.utils import json_to_index_struct
from llama_index.storage.index_store.mongodb import MongoIndexStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore

from ragstore.errors import UsageError
from ragstore.llama.backend import Backend
from ragstore.llama.index import NoNodes, RagstoreIndexDict
from ragstore.llama.operation import this_operation
from ragstore.llama.writing import Writing
from ragstore.model.collection import Collection
from ragstore.mongo.errors import translation

_OWNER = "collection"
"""Field that says to which collection a struct belongs; LlamaIndex ignores it."""


class RagstoreIndexStore(MongoIndexStore):
    """The indexes of a collection; its vector index has the collection's name for id, until it is given another."""

    def __init__(self, backend: Backend, collection: Collection, writing: Writing) -> None:
        super().__init__(MongoDBKVStore(backend.client, db_name=backend.database.name))
        self._name = collection.name
        self._writing = writing
        self._structs = backend.database[self._collection]

    def add_index_struct(self, index_struct: IndexStruct) -> None:
        """Keep a struct; one that did not change is not written. Ends the operation that built it."""
        self._add(index_struct, this_operation())

    def delete_index_struct(self, key: str) -> None:
        """Forget a struct; the collection's own can always be loaded."""
        with translation():
            self._structs.delete_one({"_id": key, _OWNER: self._name})

    def get_index_struct(self, struct_id: str | None = None) -> IndexStruct | None:
        """The struct of that id, or the only one."""
        if struct_id is None:
            structs = self.index_structs()
            if len(structs) != 1:
                raise ValueError(f"Expected a single index, but got {len(structs)}. Please specify its id.")
            return structs[0]
        with translation():
            found = self._structs.find_one({"_id": struct_id, _OWNER: self._name})
        if found is not None:
            return _loaded(found)
        return self._own() if struct_id == self._name else None

    def index_structs(self) -> list[IndexStruct]:
        """The collection's indexes; its vector index too when nothing was ever built with LlamaIndex."""
        with translation():
            found = [_loaded(each) for each in self._structs.find({_OWNER: self._name}).sort("_id")]
        return found or [self._own()]

    # The same for event loops

    async def async_add_index_struct(self, index_struct: IndexStruct) -> None:
        """As ``add_index_struct``."""
        await asyncio.to_thread(self._add, index_struct, this_operation())

    async def adelete_index_struct(self, key: str) -> None:
        """As ``delete_index_struct``."""
        await asyncio.to_thread(self.delete_index_struct, key)

    async def aget_index_struct(self, struct_id: str | None = None) -> IndexStruct | None:
        """As ``get_index_struct``."""
        return await asyncio.to_thread(self.get_index_struct, struct_id)

    async def async_index_structs(self) -> list[IndexStruct]:
        """As ``index_structs``."""
        return await asyncio.to_thread(self.index_structs)

    def _add(self, struct: IndexStruct, owner: int) -> None:
        has_added = self._writing.end_operation(owner=owner, built=_is_generated(struct.index_id))
        with translation():
            if type(struct) in (IndexDict, RagstoreIndexDict):
                self._name_vector_index(cast("IndexDict", struct))
            now = self._structs.find_one({"_id": struct.index_id})
            if now is None and struct.index_id == self._name and not has_added:
                # Loaded without having been built: it can be loaded so again.
                return
            value = {"_id": struct.index_id, **_body(struct), _OWNER: self._name}
            if now is not None and now.get(_OWNER) != self._name:
                raise UsageError(
                    f"index id {struct.index_id!r} belongs to collection {now.get(_OWNER)!r}",
                    hint="give the index an id of its own",
                    index_id=struct.index_id,
                )
            if now != value:
                self._structs.replace_one({"_id": struct.index_id}, value, upsert=True)

    def _name_vector_index(self, struct: IndexDict) -> None:
        struct.nodes_dict = NoNodes()
        if _is_generated(struct.index_id) or struct.index_id == self._name:
            struct.index_id = self._id_of_vector_index()

    def _id_of_vector_index(self) -> str:
        """The id that the collection's vector index was given, else the collection's name."""
        kept = self._structs.find({_OWNER: self._name, TYPE_KEY: _VECTOR_STORE}, {"_id": 1})
        ids: Iterable[str] = (each["_id"] for each in kept)
        return min(ids, key=lambda id: (id != self._name, id), default=self._name)  # noqa: A006

    def _own(self) -> RagstoreIndexDict:
        return RagstoreIndexDict(index_id=self._name, nodes_dict=NoNodes())


def _body(struct: IndexStruct) -> dict[str, Any]:
    """As ``MongoIndexStore`` reads it."""
    kind = _VECTOR_STORE if isinstance(struct, RagstoreIndexDict) else str(struct.get_type().value)
    return {TYPE_KEY: kind, DATA_KEY: struct.to_json()}


def _loaded(found: dict[str, Any]) -> IndexStruct:
    struct: IndexStruct = json_to_index_struct(found)
    if type(struct) is IndexDict:
        return RagstoreIndexDict(index_id=struct.index_id, summary=struct.summary, nodes_dict=NoNodes())
    return struct


def _is_generated(index_id: str) -> bool:
    """Whether LlamaIndex made the id up: it does for each struct it builds, again and again for one collection."""
    try:
        return str(UUID(index_id)) == index_id
    except ValueError:
        return False


_VECTOR_STORE = str(IndexDict.get_type().value)
