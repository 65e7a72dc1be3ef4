"""LlamaIndex's own PGVectorStore, MongoDocumentStore and MongoIndexStore beside ragstore's, for the same calls on both."""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar, TypeVar

import pymongo
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import BaseNode, TextNode
from llama_index.storage.docstore.mongodb import MongoDocumentStore
from llama_index.storage.index_store.mongodb import MongoIndexStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore
from llama_index.vector_stores.postgres import PGVectorStore
from pymongo import monitoring

import ragstore
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.forkserver import a_process
from tests.support.forwarder import Forwarder, a_forwarder
from tests.support.llama_faces import DIM, HashEmbedding, a_document, a_splitter, fetch

AnyStack = TypeVar("AnyStack", bound="Stack")
Operation = Callable[[StorageContext, Sequence[Document], BaseEmbedding], Any]


@dataclass(frozen=True)
class Stack(ABC):
    """A PostgreSQL and a MongoDB database, and how a program that starts reaches them through LlamaIndex."""

    postgres_url: str
    mongo_url: str
    mongo_name: str
    _closers: ExitStack = field(default_factory=ExitStack, repr=False)

    vectors: ClassVar[str]
    """Table of the nodes' vectors."""
    bodies: ClassVar[str]
    """Collection of the nodes in MongoDB."""

    @abstractmethod
    def context(self) -> StorageContext:
        """With connections of its own, as a program that was just started has it."""

    def close(self) -> None:
        """End what was made so far, as the end of those programs would."""
        self._closers.close()

    def texts(self) -> Counter[str]:
        """What searching can find."""
        return Counter(row[0] for row in fetch(self.postgres_url, f"SELECT text FROM {self.vectors}"))

    def node_ids(self) -> Counter[str]:
        return Counter(row[0] for row in fetch(self.postgres_url, f"SELECT node_id FROM {self.vectors}"))

    def entries(self, name: str) -> list[dict[str, Any]]:
        """A collection of MongoDB."""
        with pymongo.MongoClient[dict[str, Any]](self.mongo_url) as client:
            return list(client[self.mongo_name][name].find())

    def body_ids(self) -> set[str]:
        return {entry["_id"] for entry in self.entries(self.bodies)}

    def n_rows_scanned(self) -> int:
        """Rows read so far by scans of the whole table of vectors; ends all programs first, which then have told."""
        self.close()
        others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        until(lambda: not fetch(self.postgres_url, others), what="nobody else is connected")
        counts = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = %s::regclass"
        return int(fetch(self.postgres_url, counts, self.vectors)[0][0])

    # Children that are killed

    def killed_while_embedding(self, operation: Operation, documents: Sequence[Document]) -> None:
        """Run an operation in a process that gets SIGKILL when it embeds its first text."""
        assert not self._survives(operation, documents, nth_write=0)

    def killed_writing_to_mongo(self, operation: Operation, documents: Sequence[Document], nth: int = 1) -> bool:
        """The same when it sends its n-th write to MongoDB; returns whether there was one."""
        return not self._survives(operation, documents, nth_write=nth)

    def _survives(self, operation: Operation, documents: Sequence[Document], *, nth_write: int) -> bool:
        child = a_process(_child, replace(self, _closers=ExitStack()), operation, documents, nth_write)
        child.start()
        child.join(60)
        assert child.exitcode in (0, -signal.SIGKILL), f"{operation.__name__} ended with {child.exitcode}"
        return child.exitcode == 0


class Plain(Stack):
    """LlamaIndex's stores as its documentation wires them."""

    vectors = "public.data_plain"
    bodies = "docstore/data"

    def context(self) -> StorageContext:
        client = self._closers.enter_context(pymongo.MongoClient[dict[str, Any]](self.mongo_url))
        kvstore = MongoDBKVStore(mongo_client=client, db_name=self.mongo_name)
        vector_store = PGVectorStore.from_params(
            connection_string=self.postgres_url,
            async_connection_string=self.postgres_url.replace("postgresql://", "postgresql+asyncpg://"),
            table_name="plain",
            embed_dim=DIM,
        )
        self._closers.callback(lambda: asyncio.run(vector_store.close()))
        return StorageContext.from_defaults(
            docstore=MongoDocumentStore(kvstore), index_store=MongoIndexStore(kvstore), vector_store=vector_store
        )


class Ours(Stack):
    """ragstore, with a collection whose vectors come from outside."""

    vectors = "ragstore.data_docs"
    bodies = "docs/data"

    def store(self) -> ragstore.Ragstore:
        settings = Settings(
            postgres_url=self.postgres_url,
            mongo_url=self.mongo_url,
            mongo_database=self.mongo_name,
            grace_s=0,
            lease_ttl_s=5,
            env="test",
        )
        opened = self._closers.enter_context(ragstore.open(settings))
        opened.create_collection("docs", model="external", dim=DIM)
        return opened

    def context(self) -> StorageContext:
        return self.store().storage_context("docs")


# What is put into both

N = 3
"""Sentences of a document, and so its nodes."""


def documents(names: str, version: int = 1) -> list[Document]:
    return [a_document(name, version, N) for name in names]


def nodes_of(name: str, n: int) -> list[TextNode]:
    nodes = a_splitter().get_nodes_from_documents([a_document(name, n_sentences=n)])
    return [TextNode.model_validate(node.model_dump()) for node in nodes]


def embedded(nodes: Sequence[TextNode]) -> list[BaseNode]:
    for node in nodes:
        node.embedding = HashEmbedding().vector_of(node.text)
    return list(nodes)


def texts(*of: Sequence[Document]) -> Counter[str]:
    nodes = a_splitter().get_nodes_from_documents([document for each in of for document in each])
    return Counter(node.get_content() for node in nodes)


def doubled(once: Counter[str]) -> Counter[str]:
    return Counter({text: 2 * n for text, n in once.items()})


# What is done on both


def build(
    context: StorageContext, documents: Sequence[Document], model: BaseEmbedding | None = None, **kwargs: Any
) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        list(documents),
        storage_context=context,
        embed_model=model or HashEmbedding(),
        transformations=[a_splitter()],
        **kwargs,
    )


def load(context: StorageContext, model: BaseEmbedding | None = None, **kwargs: Any) -> VectorStoreIndex:
    index = load_index_from_storage(
        context, embed_model=model or HashEmbedding(), transformations=[a_splitter()], **kwargs
    )
    assert isinstance(index, VectorStoreIndex)
    return index


def refresh(context: StorageContext, documents: Sequence[Document], model: BaseEmbedding | None = None) -> list[bool]:
    return load(context, model).refresh_ref_docs(list(documents))


def upsert(context: StorageContext, documents: Sequence[Document], model: BaseEmbedding | None = None) -> None:
    _run_pipeline(context, documents, model, DocstoreStrategy.UPSERTS)


def upsert_and_delete(
    context: StorageContext, documents: Sequence[Document], model: BaseEmbedding | None = None
) -> None:
    _run_pipeline(context, documents, model, DocstoreStrategy.UPSERTS_AND_DELETE)


def add_new(context: StorageContext, documents: Sequence[Document], model: BaseEmbedding | None = None) -> None:
    _run_pipeline(context, documents, model, DocstoreStrategy.DUPLICATES_ONLY)


def _run_pipeline(
    context: StorageContext, documents: Sequence[Document], model: BaseEmbedding | None, strategy: DocstoreStrategy
) -> None:
    IngestionPipeline(
        transformations=[a_splitter(), model or HashEmbedding()],
        docstore=context.docstore,
        vector_store=context.vector_store,
        docstore_strategy=strategy,
    ).run(documents=list(documents))


class CountingEmbedding(HashEmbedding):
    """Counts the texts it is given."""

    n_embedded: int = 0

    def _get_text_embedding(self, text: str) -> list[float]:
        self.n_embedded += 1
        return super()._get_text_embedding(text)


# Ends of processes


class _DeadlyEmbedding(HashEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        os.kill(os.getpid(), signal.SIGKILL)
        return super()._get_text_embedding(text)


class _DeadlyWrite(monitoring.CommandListener):
    """The end of the process when it sends its n-th write to MongoDB."""

    def __init__(self, nth: int) -> None:
        self._n_left = nth

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self._n_left -= event.command_name in _WRITES
        if self._n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Of no interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Of no interest."""


def _child(stack: Stack, operation: Operation, documents: Sequence[Document], nth_write: int) -> None:
    if nth_write:
        monitoring.register(_DeadlyWrite(nth_write))
    operation(stack.context(), documents, HashEmbedding() if nth_write else _DeadlyEmbedding())
    stack.close()


# Round trips

_WRITES = {"insert", "update", "delete", "findAndModify", "bulkWrite"}


class Trips:
    """How often somebody waited for an answer of a database, since ``reset``."""

    def __init__(self, way: Forwarder) -> None:
        self._way = way
        self._before = self.mongo = self.mongo_writes = 0

    @property
    def postgres(self) -> int:
        return self._way.n_trips - self._before

    @property
    def all(self) -> int:
        return self.postgres + self.mongo

    def reset(self) -> None:
        self._before, self.mongo, self.mongo_writes = self._way.n_trips, 0, 0


@contextmanager
def counted(stack: AnyStack) -> Iterator[tuple[AnyStack, Trips]]:
    """The same stack by a way that counts."""
    heard = _mongo_listener()
    with a_forwarder(stack.postgres_url) as way:
        counted_stack = replace(stack, postgres_url=way.url, _closers=ExitStack())
        trips = heard.by_database[stack.mongo_name] = Trips(way)
        try:
            yield counted_stack, trips
        finally:
            counted_stack.close()
            del heard.by_database[stack.mongo_name]


class _Heard(monitoring.CommandListener):
    def __init__(self) -> None:
        self.by_database: dict[str, Trips] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if trips := self.by_database.get(event.database_name):
            trips.mongo += 1
            trips.mongo_writes += event.command_name in _WRITES

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Of no interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Of no interest."""


@cache
def _mongo_listener() -> _Heard:
    # It hears all clients made from now on, and cannot be taken away again: so there is one.
    heard = _Heard()
    monitoring.register(heard)
    return heard
