"""What the opened store can bring in from plain LlamaIndex, and give back to it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragstore.model.collection import Collection
from ragstore.model.report import TransferProgress, TransferReport
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings

if TYPE_CHECKING:
    from ragstore.app.transferring import Goal, Transferring
    from ragstore.app.writer import Writer

Tell = Callable[[TransferProgress], None] | None


@dataclass(frozen=True, slots=True)
class PlainStack:
    """Where plain LlamaIndex keeps vectors and nodes; ``repr`` leaves the URLs out, which may hold passwords.

    Args:
        table: of a PGVectorStore, with its ``data_``.
        postgres_url: ragstore's own database where None.
        mongo_url: ragstore's own server where None.
        mongo_database: of a MongoDocumentStore; None where there is none.
    """

    table: str
    schema: str = "public"
    postgres_url: str | None = None
    mongo_url: str | None = None
    mongo_database: str | None = None
    namespace: str = "docstore"

    def __repr__(self) -> str:
        return f"PlainStack({self.schema}.{self.table})"


class Transfers(ABC):
    """The part of the opened store that imports, adopts and exports."""

    settings: Settings
    _pool: PostgresPool

    def import_(
        self,
        persist_dir: str | os.PathLike[str],
        *,
        collection: str | None = None,
        model: str | None = None,
        namespace: str = "default",
        filter_keys: Sequence[str] = (),
        progress: Tell = None,
    ) -> TransferReport:
        """Bring a folder that LlamaIndex persisted, here or behind an fsspec URL, into a collection.

        The collection is made when there is none of that name. Nothing is embedded; what is there already, and equal,
        is skipped; what cannot come over is in the report.

        Args:
            model: that made the vectors; without it the collection's are ``external``.
            namespace: which of several vector stores.
            filter_keys: as those of ``create_collection``.

        Raises:
            UsageError: there is no persist_dir, or no such vector store in it.
            TransferError: a file is damaged; nothing was written.
            EmbeddingSpaceError: the collection is made for other vectors; nothing was written.
            StoreError: run it again, it goes on.
        """
        goal = self._goal(collection, model, filter_keys)
        return self._transferring().import_(os.fspath(persist_dir), goal, progress, namespace=namespace)

    def adopt(
        self,
        stack: PlainStack,
        *,
        collection: str | None = None,
        model: str | None = None,
        filter_keys: Sequence[str] = (),
        progress: Tell = None,
    ) -> TransferReport:
        """Bring what plain LlamaIndex stores hold into a collection, as ``import_`` does; they are only read.

        Raises:
            UsageError: there is no such table or document store.
            EmbeddingSpaceError, StoreError: as ``import_``.
        """
        return self._transferring().adopt(stack, self._goal(collection, model, filter_keys), progress)

    def export(
        self,
        target: str | os.PathLike[str],
        *,
        collection: str | None = None,
        overwrite: bool = False,
        progress: Tell = None,
    ) -> TransferReport:
        """Write a collection, as it is at one moment, as a folder that plain LlamaIndex loads.

        Raises:
            RefusedError: the folder is not empty, and ``overwrite`` is false.
            CollectionNotFoundError, TransferError, StoreError
        """
        found = self._collection(collection)
        return self._transferring().export(found, os.fspath(target), progress, overwrite=overwrite)

    @abstractmethod
    def create_collection(
        self, name: str, *, model: str | None = None, dim: int | None = None, filter_keys: Sequence[str] = ()
    ) -> Collection:
        """Make a collection, or return the one of that name."""

    @abstractmethod
    def _collection(self, name: str | None) -> Collection: ...

    @abstractmethod
    def _writer(self) -> Writer: ...

    def _goal(self, collection: str | None, model: str | None, filter_keys: Sequence[str]) -> Goal:
        from ragstore.app.transferring import Goal

        return Goal(collection or self.settings.collection, model, filter_keys)

    def _transferring(self) -> Transferring:
        from ragstore.app.transferring import Transferring

        return Transferring(self.settings, self._pool, self._writer(), self.create_collection)
