"""Index store of a collection: a vector index stays small, and loading one writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn, cast
from uuid import UUID

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.data_structs.data_structs import IndexDict, IndexStruct
from llama_index.core.storage.index_store.utils import json_to_index_struct
from llama_index.storage.index_store.mongodb import MongoIndexStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore

from ragstore.llama.backend import Backend, NotCopied, single_database_error
from ragstore.llama.index import NoNodes, RagstoreIndexDict
from ragstore.llama.instrumentation import this_operation
from ragstore.llama.shared import Shared
from ragstore.llama.structs import leave_out_missing
from ragstore.model.collection import Collection
from ragstore.model.node import VECTOR_STORE, Struct
from ragstore.postgres import live
from ragstore.protocol.structs import StructWriter


class RagstoreIndexStore(NotCopied, MongoIndexStore):
    """The indexes of a collection, in both databases.

    All vectors of a collection are one index. Its id is the collection's name until a program gives it another one,
    which it then keeps. If two processes change a struct of another kind at once, the last one wins, as in LlamaIndex.
    """

    def __init__(self, backend: Backend, collection: Collection, shared: Shared) -> None:
        super().__init__(MongoDBKVStore(backend.client, db_name=backend.database.name))
        self._find_missing = partial(live.missing, backend.pool, collection)
        self._opened = shared.opened
        self._last_vector_index: Struct | None = None
        """The struct as last written: each insert passes it again."""
        self.named_index: str | None = None
        """The name that a program gave to the collection's vector index through this store."""
        self._name = collection.name
        self._writer = shared.writer
        self._structs = StructWriter(backend.pool, backend.database, collection, backend.recoverer)

    @classmethod
    def from_uri(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused: the store uses two databases."""
        raise single_database_error(cls.__name__)

    @classmethod
    def from_host_and_port(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused, as ``from_uri``."""
        raise single_database_error(cls.__name__)

    def add_index_struct(self, index_struct: IndexStruct) -> None:
        """Store a struct, unless it did not change. Ends the operation that built it.

        Raises:
            LimitExceededError: it is larger than a document of MongoDB can be; it was not written.
            UsageError: its id belongs to another collection, or the vector index already has another name.
        """
        self._add(index_struct, this_operation())

    def delete_index_struct(self, key: str) -> None:
        """Delete a struct; a vector index stays, and keeps the name that it was given."""
        self._last_vector_index = None
        found = self._structs.find(key)
        if found is not None and (found.kind != VECTOR_STORE or key == self._name):
            self._structs.delete(key)

    def get_index_struct(self, struct_id: str | None = None) -> IndexStruct | None:
        """The struct with this id; without an id, the only struct."""
        self._writer.has_index = True
        if struct_id is None:
            structs = self.index_structs()
            if len(structs) != 1:
                raise ValueError(f"Expected a single index, but got {len(structs)}. Please specify its id.")
            return structs[0]
        found = self._structs.find(struct_id)
        if found is not None:
            return self._given([found])[0]
        return self._own() if struct_id == self._name else None

    def index_structs(self) -> list[IndexStruct]:
        """The structs of the collection's indexes; if there is none, that of its vector index."""
        self._writer.has_index = True
        return self._given(self._structs.all()) or [self._own()]

    # Asynchronous forms

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
        is_generated = _is_generated(struct.index_id)
        is_vector = type(struct) in (IndexDict, RagstoreIndexDict)
        if is_vector:
            cast("IndexDict", struct).nodes_dict = NoNodes()
            if _stored(struct) == self._last_vector_index:
                self._writer.end_operation(owner=owner, built=is_generated)
                return
            self._name_vector_index(struct, is_generated=is_generated)
        stored = _stored(struct)
        # Before end_operation, which writes: a struct that is refused must end nothing.
        self._structs.check(stored)
        has_added = self._writer.end_operation(owner=owner, built=is_generated)
        if is_vector and stored.index_id == self._name and not has_added and self._structs.find(self._name) is None:
            # The index was loaded, and nothing was ever added: it can be loaded again without a stored struct.
            return
        if not is_vector:
            self._opened.opened(struct, self._find_missing)
            stored = _stored(struct)
        self._structs.put(stored)
        if is_vector:
            self._last_vector_index = stored
            if not is_generated and stored.index_id != self._name:
                self.named_index = stored.index_id

    def _given(self, found: Sequence[Struct]) -> list[IndexStruct]:
        """These structs without the nodes that are not live any more."""
        structs = [_loaded(each) for each in found]
        leave_out_missing(structs, self._find_missing)
        return structs

    def _name_vector_index(self, struct: IndexStruct, *, is_generated: bool) -> None:
        if is_generated or struct.index_id == self._name:
            struct.index_id = next(iter(self._structs.vector_index_ids()), self._name)

    def _own(self) -> RagstoreIndexDict:
        return RagstoreIndexDict(index_id=self._name, nodes_dict=NoNodes())


def _stored(struct: IndexStruct) -> Struct:
    """The struct in the form that ``MongoIndexStore`` reads."""
    kind = VECTOR_STORE if isinstance(struct, RagstoreIndexDict) else str(struct.get_type().value)
    return Struct(struct.index_id, kind, struct.to_json())


def _loaded(found: Struct) -> IndexStruct:
    struct: IndexStruct = json_to_index_struct({TYPE_KEY: found.kind, DATA_KEY: found.payload})
    if type(struct) is IndexDict:
        return RagstoreIndexDict(index_id=struct.index_id, summary=struct.summary, nodes_dict=NoNodes())
    return struct


def _is_generated(index_id: str) -> bool:
    """Whether LlamaIndex generated the id: it gives every struct that it builds a new random one."""
    try:
        return str(UUID(index_id)) == index_id
    except ValueError:
        return False
