"""Import, adopt and export of collections, with all the parts that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from ragstore.app.models import EXTERNAL
from ragstore.app.writer import Writer
from ragstore.errors import UsageError
from ragstore.model.collection import Collection, MadeCollection, checked_filter_keys, checked_name
from ragstore.model.report import Listener, TransferReport
from ragstore.mongo.client import connect, database
from ragstore.mongo.plain_key_values import PlainKeyValues
from ragstore.postgres import collections
from ragstore.postgres.plain_table import plain_table
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.direct import DirectWriter
from ragstore.protocol.structs import StructWriter
from ragstore.settings import Settings, masked_url, without_driver
from ragstore.transfer.loader import ImportContext
from ragstore.transfer.systems.location import parse_location

if TYPE_CHECKING:
    from ragstore.transfer.adoption import Sources
    from ragstore.transfer.systems.key_values import KeyValues
    from ragstore.transfer.systems.reader import VectorReader


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
class Adopted:
    """A vector store of any system, and the stores beside it; ``repr`` leaves out the addresses.

    Args:
        place: address of the vector store.
        docstore: address of the document store, or an object of LlamaIndex; None if there is none.
        index_store: the same of the index store; None for the document store's own place.
        text_key, document_key: keys of entries that LlamaIndex did not write.
        namespace: of the document store, where its address names none.
    """

    place: str = field(repr=False)
    docstore: Any = field(default=None, repr=False)
    index_store: Any = field(default=None, repr=False)
    text_key: str | None = None
    document_key: str | None = None
    namespace: str | None = None


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
        preview_collection: the same without making it.
    """

    settings: Settings
    pool: PostgresPool
    writer: Writer
    create_collection: Callable[..., Collection]
    preview_collection: Callable[..., Collection | MadeCollection]

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

    def adopt(
        self,
        adopted: PlainStack | Adopted,
        target_collection: TargetCollection,
        tell: Listener | None,
        *,
        dry_run: bool,
    ) -> TransferReport:
        """Import the content of other stores into a collection."""
        from ragstore.transfer.adoption import adopt

        made = _Made()
        into = self._into(target_collection, made)
        with self._sources(adopted) as sources:
            report = adopt(sources, into, tell, dry_run=dry_run)
        report.collection_made = made.collection
        return report

    def vector_reader(self, place: str) -> AbstractContextManager[VectorReader]:
        """A vector store of another system."""
        from ragstore.transfer.systems.opening import VECTOR_SCHEMES, vector_reader

        location = parse_location(place, _secret(self.settings.from_secret), VECTOR_SCHEMES)
        return vector_reader(location, self.settings.connect_timeout_s)

    @contextmanager
    def _sources(self, adopted: PlainStack | Adopted) -> Iterator[Sources]:
        from ragstore.transfer.adoption import Sources

        if isinstance(adopted, PlainStack):
            with self._plain_sources(adopted) as sources:
                yield sources
            return
        from ragstore.transfer.persist_dir import INDEX_STORE
        from ragstore.transfer.records import RecordKeys
        from ragstore.transfer.systems.faiss_index import FaissReader
        from ragstore.transfer.systems.key_values import PersistedKeyValues

        with self.vector_reader(adopted.place) as reader, ExitStack() as opened:
            docstore, shown, namespace = self._key_values(adopted.docstore, "data_docstore", opened)
            index_store, _, index_namespace = self._key_values(adopted.index_store, "data_indexstore", opened)
            if isinstance(reader, FaissReader):
                beside = index_store or docstore
                if beside is not None:
                    reader.use_index_store(beside, index_namespace or "index_store")
                docstore = docstore or PersistedKeyValues(reader.persist_dir)
                if index_store is None and reader.persist_dir.has(INDEX_STORE):
                    index_store = PersistedKeyValues(reader.persist_dir)
            yield Sources(
                place=masked_url(adopted.place),
                vectors=reader,
                keys=RecordKeys(adopted.text_key, adopted.document_key),
                docstore=docstore,
                docstore_place=shown or masked_url(adopted.place),
                namespace=adopted.namespace or namespace or "docstore",
                index_store=index_store or docstore,
                index_namespace=index_namespace or "index_store",
            )

    def _key_values(self, place: Any, table: str, opened: ExitStack) -> tuple[KeyValues | None, str, str | None]:
        """The store at an address or of an object, its address without secrets, and the namespace that it names."""
        from ragstore.transfer.systems.key_values import KeyValueObject
        from ragstore.transfer.systems.opening import KEY_VALUE_SCHEMES, key_values

        if place is None:
            return None, "", None
        if not isinstance(place, str):
            found = KeyValueObject(place)
            return found, type(place).__name__, found.namespace
        location = parse_location(place, _secret(self.settings.docstore_secret), KEY_VALUE_SCHEMES)
        store = opened.enter_context(key_values(location, self.settings.connect_timeout_s, table))
        return store, location.shown, location.name

    @contextmanager
    def _plain_sources(self, stack: PlainStack) -> Iterator[Sources]:
        from ragstore.transfer.adoption import Sources
        from ragstore.transfer.systems.plain_stores import PlainKeyValuesReader, PlainTableReader

        with (
            self._plain_pool(stack) as pool,
            self._plain_entries(stack) as entries,
            plain_table(pool, stack.schema, stack.table) as table,
        ):
            docstore = PlainKeyValuesReader(entries) if entries is not None else None
            place, docstore_place = f"{stack.schema}.{stack.table}", f"MongoDB database {stack.mongo_database!r}"
            yield Sources(
                place,
                PlainTableReader(table),
                docstore=docstore,
                docstore_place=docstore_place,
                namespace=stack.namespace,
            )

    def _into(self, target_collection: TargetCollection, made: _Made) -> ImportContext:
        checked_name(target_collection.name)
        checked_filter_keys(target_collection.filter_keys)

        def collection(dim: int | None) -> Collection:
            is_new = collections.find_collection(self.pool, target_collection.name) is None
            found = self._collection(target_collection, dim)
            if is_new:
                made.collection = MadeCollection(found.name, found.space.model, found.space.dim)
            return found

        def preview(dim: int | None) -> Collection | None:
            found = self.preview_collection(
                target_collection.name, model=target_collection.model, dim=dim, model_if_new=EXTERNAL
            )
            if isinstance(found, MadeCollection):
                made.collection = found
                return None
            return found

        direct = DirectWriter(self.pool, self.writer.recoverer, worker=self.writer.worker)
        return ImportContext(self.pool, direct, collection, preview, self._structs, self.writer.indexer)

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
    def _plain_entries(self, stack: PlainStack) -> Iterator[PlainKeyValues | None]:
        if stack.mongo_database is None:
            yield None
        elif stack.mongo_url is None:
            yield PlainKeyValues(database(self.writer.client, stack.mongo_database))
        else:
            client = connect(stack.mongo_url, timeout_s=self.settings.connect_timeout_s)
            try:
                yield PlainKeyValues(database(client, stack.mongo_database))
            finally:
                client.close()


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value is not None else None
