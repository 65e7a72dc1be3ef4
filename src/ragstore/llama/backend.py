"""Common parts of the LlamaIndex stores: connections, the current collection, refusals, a SQLAlchemy engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from ragstore.embedding import Embedder
from ragstore.errors import UsageError
from ragstore.model.collection import Collection
from ragstore.mongo.client import Client, MongoDatabase
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.pool import Connection, PostgresPool
from ragstore.protocol.indexing import Indexer
from ragstore.protocol.publish import Timing
from ragstore.protocol.recover import Recoverer
from ragstore.query.caches import AskedQuestions
from ragstore.query.no_hits import Advice


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of an opened ragstore that the LlamaIndex stores use.

    Args:
        embedder: returns the model of a collection, which is loaded at the first call.
    """

    pool: PostgresPool
    client: Client
    database: MongoDatabase
    nodes: NodeStore
    recoverer: Recoverer
    worker: str
    timing: Timing
    embedder: Callable[[Collection], Embedder]
    indexer: Indexer


def single_database_error(name: str) -> UsageError:
    """The error of constructors that LlamaIndex's stores have for the parameters of one database."""
    return UsageError(
        f"a {name} cannot be made from the parameters of one database",
        hint="take it from rs.storage_context(collection)",
    )


class NotCopied:
    """Base of objects that hold connections. A copy would share them, and another process could not use them."""

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        raise self._not_copied()

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise self._not_copied()

    def _not_copied(self) -> UsageError:
        return UsageError(
            f"a {type(self).__name__} holds ragstore's connections and is neither copied nor pickled",
            hint="share it, or take one from rs.storage_context(collection) in the process that needs it",
        )


class CurrentCollection:
    """A collection as this process last saw it; what it knows about the indexes may be out of date.

    ``asked``: the last questions to the collection. ``advice``: possible mistakes in questions that found nothing.
    """

    def __init__(self, collection: Collection, asked: AskedQuestions, advice: Advice) -> None:
        self._collection = collection
        self.asked = asked
        self.advice = advice

    def get(self) -> Collection:
        """The collection as the last search saw it."""
        return self._collection

    def learn(self, seen: Collection) -> None:
        """Remember the collection as a search saw it."""
        self._collection = seen


def engine_on(pool: PostgresPool) -> Engine:
    """A SQLAlchemy engine for code that goes around PGVectorStore's methods; it opens nothing until it is used."""

    class Lent(NullPool):
        """Returns each connection to ragstore's pool, where it came from."""

        def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
            entry: Any = record
            connection, entry.dbapi_connection = entry.dbapi_connection, None
            if connection is not None:
                pool.checkin(connection)

    def lend() -> Connection:
        connection = pool.checkout()
        connection.autocommit = False
        return connection

    return create_engine("postgresql+psycopg2://", creator=lend, poolclass=Lent)
