"""Writes of index structs: first to PostgreSQL, which decides, then to MongoDB, for plain readers.

Deletes have the opposite order: a struct that only MongoDB has is one that PostgreSQL lost, never a deleted one.
"""

from __future__ import annotations

from ragstore.errors import LimitExceededError, StoreConflictError, UsageError
from ragstore.model.collection import Collection
from ragstore.model.graph import checked_key
from ragstore.model.node import VECTOR_STORE, Struct
from ragstore.mongo import structs as in_mongo
from ragstore.mongo.client import MongoDatabase
from ragstore.postgres import structs as in_postgres
from ragstore.postgres.collections import find_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.recover import Recoverer


class StructWriter:
    """Reads and writes index structs of one collection."""

    def __init__(
        self, pool: PostgresPool, database: MongoDatabase, collection: Collection, recoverer: Recoverer
    ) -> None:
        self._pool = pool
        self._database = database
        self._recoverer = recoverer
        self._collection = collection

    def check(self, struct: Struct) -> None:
        """Raise LimitExceededError for a struct that MongoDB would refuse, UsageError where the id is taken."""
        checked_key(struct.index_id, "index id")
        size = in_mongo.struct_size(self._collection.name, struct)
        if size > in_mongo.MAX_BYTES:
            raise LimitExceededError(
                f"the struct of index {struct.index_id!r} has {size:,} bytes, more than the {in_mongo.MAX_BYTES:,} of "
                "one entry of MongoDB",
                hint="a summary, keyword or tree index lists all its nodes in one entry: build several over fewer "
                "nodes, or a vector index, which lists none",
                index_id=struct.index_id,
                size=size,
            )

    def put(self, struct: Struct) -> None:
        """Write a struct to both stores; an unchanged one is not written.

        Raises:
            LimitExceededError: it is larger than an entry of MongoDB; nothing was written.
            UsageError: the id is another collection's, or the collection's vector index has another name.

        Crash safety:
            Readers on ragstore see it once PostgreSQL has it; MongoDB follows at once, after a kill by the outbox.
        """
        self.check(struct)
        if struct.index_id != self._collection.name and find_collection(self._pool, struct.index_id) is not None:
            # A collection name is the name of the index of all its vectors, even if that index was never built.
            raise self._taken(struct.index_id)
        in_mongodb = in_mongo.owner_and_stamp(self._database, struct.index_id)
        if in_mongodb is not None and in_mongodb[0] != self._collection.name:
            raise self._taken(struct.index_id)
        found = in_postgres.find_struct(self._pool, self._collection, struct.index_id)
        if found is None or not found.is_same(struct):
            queued = self._put(struct)
            if not queued:
                raise self._taken(struct.index_id)
        elif in_mongodb is None or in_mongodb[1] != found.stamp:
            queued = in_postgres.queue_struct(self._pool, self._collection, struct.index_id)
        else:
            return
        self._recoverer.finish(queued)

    def delete(self, index_id: str) -> None:
        """Remove a struct from both stores.

        Crash safety:
            After a kill in between the struct still exists.
        """
        in_mongo.delete_struct(self._database, self._collection.name, index_id)
        in_postgres.delete_struct(self._pool, self._collection, index_id)

    def find(self, index_id: str) -> Struct | None:
        """The struct of that id; read from MongoDB if only MongoDB has it."""
        found = in_postgres.find_struct(self._pool, self._collection, index_id)
        return found or in_mongo.find_struct(self._database, self._collection.name, index_id)

    def all(self) -> list[Struct]:
        """All structs of the collection, by their ids."""
        structs = in_postgres.list_structs(self._pool, self._collection)
        others = in_mongo.entries(self._database, self._collection.name, but=[each.index_id for each in structs])
        return sorted([*structs, *map(in_mongo.struct_of, others)], key=lambda each: each.index_id)

    def vector_index_ids(self) -> list[str]:
        """The name that the collection's vector index was given, if any."""
        found = in_postgres.ids_of_kind(self._pool, self._collection, VECTOR_STORE)
        return found or [each.index_id for each in self.all() if each.kind == VECTOR_STORE]

    def _put(self, struct: Struct) -> list[int]:
        try:
            return in_postgres.put_struct(self._pool, self._collection, struct)
        except StoreConflictError as error:
            # If two processes insert the same new struct at once, PostgreSQL may find the conflict in the unique index
            # on vector indexes before the one on ids, which alone the statement handles by ON CONFLICT.
            if self.vector_index_ids() == [struct.index_id]:
                return in_postgres.put_struct(self._pool, self._collection, struct)
            raise self._second_vector_index(struct.index_id) from error

    def _second_vector_index(self, index_id: str) -> UsageError:
        return UsageError(
            f"collection {self._collection.name!r} has one vector index, of all its nodes, named "
            f"{', '.join(self.vector_index_ids())!r} and not {index_id!r}",
            hint="its nodes are all in that index: load it by that name, or make another collection for nodes that are "
            "to be found apart",
            index_id=index_id,
            collection=self._collection.name,
        )

    def _taken(self, index_id: str) -> UsageError:
        return UsageError(
            f"index id {index_id!r} belongs to another collection or program",
            hint="give the index an id of its own",
            index_id=index_id,
        )
