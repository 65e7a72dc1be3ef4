"""Opening of the stores of other systems by their addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ragstore.errors import UsageError
from ragstore.mongo.client import connect, database
from ragstore.mongo.plain_key_values import PlainKeyValues as MongoEntries
from ragstore.postgres.plain_key_values import PlainKeyValues as PostgresEntries
from ragstore.postgres.plain_table import plain_table
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.run import BEGIN_SNAPSHOT, execute
from ragstore.settings import without_driver
from ragstore.transfer.systems.chroma import ChromaReader
from ragstore.transfer.systems.faiss_index import FaissReader
from ragstore.transfer.systems.key_values import (
    DynamoKeyValues,
    FirestoreKeyValues,
    KeyValues,
    RedisKeyValues,
    persisted,
)
from ragstore.transfer.systems.location import Location
from ragstore.transfer.systems.milvus import MilvusReader
from ragstore.transfer.systems.pinecone_index import PineconeReader
from ragstore.transfer.systems.plain_stores import PlainKeyValuesReader, PlainTableReader
from ragstore.transfer.systems.qdrant import QdrantReader
from ragstore.transfer.systems.reader import VectorReader

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg", "postgresql+asyncpg")
_MONGO = ("mongodb", "mongodb+srv")

_VECTORS: dict[str, Callable[[Location], VectorReader]] = {
    "chroma": ChromaReader,
    "qdrant": QdrantReader,
    "milvus": MilvusReader,
    "faiss": FaissReader,
    "pinecone": PineconeReader,
}
_KEY_VALUES: dict[str, Callable[[Location], KeyValues]] = {
    "redis": RedisKeyValues,
    "rediss": RedisKeyValues,
    "firestore": FirestoreKeyValues,
    "dynamodb": DynamoKeyValues,
    "path": persisted,
}

_SERVERS = ("chroma", "qdrant", "milvus", "pinecone")
VECTOR_SCHEMES = (
    *_VECTORS,
    *(f"{name}+{transport}" for name in _SERVERS for transport in ("http", "https")),
    *_POSTGRES,
)
KEY_VALUE_SCHEMES = (*_KEY_VALUES, *_MONGO, *_POSTGRES)


@contextmanager
def vector_reader(location: Location, timeout_s: float) -> Iterator[VectorReader]:
    """The vector store at this address, for the length of the block.

    Raises:
        UsageError: its client is not installed, or the address cannot be used.
        NotFoundError: it has no collection of that name, or several and none is named.
        ForeignStoreError, StoreError: it does not answer.
    """
    if location.scheme in _POSTGRES:
        schema, table = _table(location.name, location, "#schema.table")
        with _postgres(location, timeout_s) as pool, plain_table(pool, schema, table) as found:
            yield PlainTableReader(found)
        return
    reader = _VECTORS[location.system](location)
    try:
        yield reader
    finally:
        reader.close()


@contextmanager
def key_values(location: Location, timeout_s: float, table: str) -> Iterator[KeyValues]:
    """The key-value store at this address, for the length of the block.

    Args:
        table: the table of a store in PostgreSQL where the address names none.

    Raises:
        as ``vector_reader``
    """
    if location.scheme in _POSTGRES:
        schema, name = _table(location.options.get("table", table), location, "?table=schema.table")
        with _postgres(location, timeout_s, "table") as pool, pool.transaction() as cursor:
            execute(cursor, BEGIN_SNAPSHOT)
            yield PlainKeyValuesReader(PostgresEntries(cursor, schema, name))
    elif location.scheme in _MONGO:
        url = location.driver_url()
        client = connect(url, timeout_s=timeout_s)
        try:
            # LlamaIndex's default, where neither the call nor the address names a database.
            yield PlainKeyValuesReader(MongoEntries(database(client, urlsplit(url).path.strip("/") or "db_docstore")))
        finally:
            client.close()
    else:
        store = _KEY_VALUES[location.scheme](location)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def _postgres(location: Location, timeout_s: float, *own: str) -> Iterator[PostgresPool]:
    pool = PostgresPool(without_driver(location.driver_url(*own)), size=1, connect_timeout_s=timeout_s)
    try:
        yield pool
    finally:
        pool.close()


def _table(name: str | None, location: Location, where: str) -> tuple[str, str]:
    if not name:
        raise UsageError(f"{location.shown} names no table", hint=f"name it with {where}, such as public.data_docs")
    schema, _, table = name.rpartition(".")
    return schema or "public", table
