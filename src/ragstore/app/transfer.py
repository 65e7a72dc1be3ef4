"""Import, adopt and export of collections, with all the parts that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ragstore.app.models import EXTERNAL
from ragstore.app.writer import Writer
from ragstore.errors import UsageError
from ragstore.model.collection import Collection, MadeCollection, checked_filter_keys, checked_name
from ragstore.model.report import Listener, TransferReport
from ragstore.mongo.client import connect, database
from ragstore.mongo.plain_docstore import PlainDocstore
from ragstore.postgres import collections
from ragstore.postgres.plain_table import plain_table
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.direct import DirectWriter
from ragstore.protocol.structs import StructWriter
from ragstore.settings import Settings, without_driver
from ragstore.transfer.loader import ImportContext


@dataclass(frozen=True, slots=True)
class PlainStack:
    """The stores of plain LlamaIndex; ``repr`` leaves out the URLs, which may contain passwords.

    Args:
        table: table of a PGVectorStore, with its prefix ``data_``.
        schema: schema of the table.
        postgres_url: URL of the table's database; None for ragstore's own.
        mongo_url: URL of the document store's server; None for ragstore's own.
        mongo_database: database of a MongoDocumentStore; None if there is none.
        namespace: namespace of the document store.
    """

    table: str
    schema: str = "public"
    postgres_url: str | None = None
    mongo_url: str | None = None
    mongo_database: str | None = None
    namespace: str = "docstore"

    def __repr__(self) -> str:
        return f"PlainStack({self.schema}.{self.table})"


@dataclass(frozen=True, slots=True)
class TargetCollection:
    """The collection to import into; if there is none with that name, it is made with this model and these keys."""

    name: str
    model: str | None
    filter_keys: Sequence[str]


@dataclass(slots=True)
class _Made:
    collection: MadeCollection | None = None


@dataclass(frozen=True, slots=True)
class Transfers:
    """Transfers into and out of one pair of databases.

    Args:
        create_collection: ``Ragstore.create_collection``: makes a collection, or finds it and checks model and length.
    """

    settings: Settings
    pool: PostgresPool
    writer: Writer
    create_collection: Callable[..., Collection]

    def import_(
        self, persist_dir: str, target_collection: TargetCollection, tell: Listener | None, *, namespace: str
    ) -> TransferReport:
        """Import a persist_dir into a collection."""
        from ragstore.transfer.import_ import import_persist_dir
        from ragstore.transfer.persist_dir import open_persist_dir

        source = open_persist_dir(persist_dir)
        made = _Made()
        report = import_persist_dir(source, namespace, self._into(target_collection, made), tell)
        report.collection_made = made.collection
        return report

    def export(self, found: Collection, target: str, tell: Listener | None, *, overwrite: bool) -> TransferReport:
        """Write a collection as a persist_dir."""
        from ragstore.transfer.export import export_collection
        from ragstore.transfer.persist_dir import open_folder

        structs = self._structs(found).all()
        return export_collection(self.pool, found, structs, open_folder(target), overwrite=overwrite, tell=tell)

    def adopt(self, stack: PlainStack, target_collection: TargetCollection, tell: Listener | None) -> TransferReport:
        """Import the content of plain LlamaIndex stores into a collection."""
        from ragstore.transfer.adoption import adopt

        with (
            self._plain_pool(stack) as pool,
            self._plain_docstore(stack) as docstore,
            plain_table(pool, stack.schema, stack.table) as table,
        ):
            made = _Made()
            report = adopt(table, docstore, self._into(target_collection, made), tell)
        report.collection_made = made.collection
        return report

    def _into(self, target_collection: TargetCollection, made: _Made) -> ImportContext:
        checked_name(target_collection.name)
        checked_filter_keys(target_collection.filter_keys)

        def collection(dim: int | None) -> Collection:
            is_new = collections.find_collection(self.pool, target_collection.name) is None
            found = self._collection(target_collection, dim)
            if is_new:
                made.collection = MadeCollection(found.name, found.space.model, found.space.dim)
            return found

        direct = DirectWriter(self.pool, self.writer.recoverer, worker=self.writer.worker)
        return ImportContext(self.pool, direct, collection, self._structs, self.writer.indexer)

    def _structs(self, collection: Collection) -> StructWriter:
        return StructWriter(self.pool, self.writer.database, collection, self.writer.recoverer)

    def _collection(self, target_collection: TargetCollection, dim: int | None) -> Collection:
        name, model, filter_keys = target_collection.name, target_collection.model, target_collection.filter_keys
        if dim is not None:
            return self.create_collection(name, model=model or EXTERNAL, dim=dim, filter_keys=filter_keys)
        found = collections.find_collection(self.pool, name)
        if found is not None:
            return self.create_collection(name, model=model, filter_keys=filter_keys)
        if model in (None, EXTERNAL):
            raise UsageError(
                f"there is no vector, so that nothing says how long those of collection {name!r} are to be",
                hint="name a collection that exists with -c, or a model with --model",
                in_python="give collection= one that exists, or model= the model",
                collection=name,
            )
        return self.create_collection(name, model=model, filter_keys=filter_keys)

    @contextmanager
    def _plain_pool(self, stack: PlainStack) -> Iterator[PostgresPool]:
        if stack.postgres_url is None:
            yield self.pool
            return
        url = without_driver(stack.postgres_url)
        pool = PostgresPool(url, size=1, connect_timeout_s=self.settings.connect_timeout_s)
        try:
            yield pool
        finally:
            pool.close()

    @contextmanager
    def _plain_docstore(self, stack: PlainStack) -> Iterator[PlainDocstore | None]:
        if stack.mongo_database is None:
            yield None
        elif stack.mongo_url is None:
            yield PlainDocstore(database(self.writer.client, stack.mongo_database), stack.namespace)
        else:
            client = connect(stack.mongo_url, timeout_s=self.settings.connect_timeout_s)
            try:
                yield PlainDocstore(database(client, stack.mongo_database), stack.namespace)
            finally:
                client.close()
