"""LlamaIndex on a fresh pair of databases: contexts, a deterministic embedding, and what the databases hold."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg2
from llama_index.core import Document, StorageContext
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser import HierarchicalNodeParser, NodeParser, SentenceSplitter, TextSplitter
from pymongo.database import Database

from ragstore.audit.verify import verify
from ragstore.llama import Backend, RagstoreVectorIndex, storage_context, vector_index
from ragstore.migrate.mongo import deployment_id
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace
from ragstore.model.drift import Kind
from ragstore.mongo.client import connect, database
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres import collections
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.indexing import Indexer
from ragstore.protocol.publish import Timing
from ragstore.protocol.recover import Recoverer, this_worker
from tests.support.servers import migrate_mongo

DIM = 32


class HashEmbedding(BaseEmbedding):
    """A vector from the words of a text: equal words, near vectors; the same in every process."""

    def vector_of(self, text: str) -> list[float]:
        vector = np.zeros(DIM)
        for word in text.lower().split():
            seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            vector += np.random.default_rng(seed).normal(size=DIM)
        return [float(x) for x in (vector if vector.any() else np.ones(DIM))]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.vector_of(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.vector_of(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self.vector_of(query)


class WordsEmbedder:
    """The same as ragstore's models show it."""

    name = "words"
    dim = DIM

    def embed_documents(self, texts: Any) -> Any:
        return np.array([HashEmbedding().vector_of(text) for text in texts], dtype=np.float32).reshape(-1, DIM)

    def embed_query(self, text: str) -> Any:
        return self.embed_documents([text])[0]


class Sentences(TextSplitter):
    """One node a sentence."""

    def split_text(self, text: str) -> list[str]:
        return [f"{sentence.strip()}." for sentence in text.split(".") if sentence.strip()]


def a_splitter() -> Sentences:
    return Sentences()


def a_hierarchy() -> HierarchicalNodeParser:
    """Cuts a text of words into parents and leaves."""
    parsers: dict[str, NodeParser] = {
        f"{size}": SentenceSplitter(
            chunk_size=size, chunk_overlap=0, tokenizer=str.split, chunking_tokenizer_fn=lambda text: [text]
        )
        for size in (128, 64, 32)
    }
    return HierarchicalNodeParser.from_defaults(node_parser_ids=list(parsers), node_parser_map=parsers)


def a_document(name: str, version: int = 1, n_sentences: int = 6, **metadata: Any) -> Document:
    """A document of that many chunks, whose texts say document, version and sentence."""
    sentences = [f"Sentence {i} of {name} in version {version} is here." for i in range(n_sentences)]
    return Document(text=" ".join(sentences), id_=name, metadata=metadata)


@dataclass
class Faces:
    """A collection and how to get LlamaIndex contexts on it, as separate processes would."""

    backend: Backend
    collection: Collection
    postgres_url: str
    mongo: Database[dict[str, Any]]
    _asking: psycopg2.extensions.connection

    def context(self) -> StorageContext:
        return storage_context(self.backend, self.collection)

    def index(self) -> RagstoreVectorIndex:
        index = vector_index(self.backend, self.collection, embed_model=HashEmbedding())
        assert isinstance(index, RagstoreVectorIndex)
        index._transformations = [a_splitter()]
        return index

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._asking.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall()

    def texts(self) -> Counter[str]:
        """Texts in the vector table."""
        return Counter(row[0] for row in self.sql(f'SELECT text FROM ragstore."{self.collection.table}"'))

    def texts_of(self, document_id: str) -> Counter[str]:
        table = self.collection.table
        return Counter(
            row[0] for row in self.sql(f'SELECT text FROM ragstore."{table}" WHERE document_id = %s', document_id)
        )

    def nodes_of(self, document_id: str) -> set[str]:
        table = self.collection.table
        return {
            row[0] for row in self.sql(f'SELECT node_id FROM ragstore."{table}" WHERE document_id = %s', document_id)
        }

    def hashes(self) -> dict[str, str]:
        return dict(
            self.sql("SELECT document_id, doc_hash FROM ragstore.document WHERE deleted_at IS NULL AND revision > 0")
        )

    def bodies(self) -> dict[str, dict[str, Any]]:
        """What MongoDB holds, by node id."""
        return {body["_id"]: body for body in self.mongo[f"{self.collection.name}/data"].find()}

    def until_recovered(self) -> None:
        """Recover, again while PostgreSQL has not noticed that a killed process is gone and keeps its locks."""
        deadline = time.monotonic() + 20
        self.backend.recoverer.recover()
        while self.sql("SELECT count(*) FROM ragstore.outbox") != [(0,)]:
            assert time.monotonic() < deadline, "the outbox does not empty"
            self.backend.recoverer.recover()

    def state(self) -> Any:
        """Everything in both databases, with the transaction that wrote each row."""
        rows = [
            self.sql(f"SELECT xmin::text, * FROM {table} AS t ORDER BY t::text")
            for table in ("ragstore.document", "ragstore.body", "ragstore.event", f'ragstore."{self.collection.table}"')
        ]
        return rows, {name: list(self.mongo[name].find().sort("_id")) for name in self.mongo.list_collection_names()}

    def assert_agree(self) -> None:
        """Both databases hold the same nodes, once each, in the same state, and nothing waits."""
        table = self.collection.table
        rows = self.sql(f'SELECT node_id, id, text FROM ragstore."{table}"')
        bodies = self.bodies()
        only_bodies = self.sql("SELECT node_id, stamp, content FROM ragstore.body")
        assert len({row[0] for row in rows + only_bodies}) == len(rows + only_bodies), "a node twice"
        assert set(bodies) == {row[0] for row in rows + only_bodies}
        for node_id, stamp, _ in rows + only_bodies:
            assert bodies[node_id]["stamp"] == stamp
        for node_id, _, text in rows:
            assert content_text(bodies[node_id]) == text
        assert self.sql("SELECT count(*) FROM ragstore.outbox") == [(0,)]
        self.assert_ledger_counts()
        self.assert_ref_docs_agree()
        report = verify(self.backend.pool, self.backend.database, [(self.collection, 0)], deep=True)
        assert report.drift.counts.keys() <= {Kind.MISSING_REGISTRY}, report.drift

    def assert_ledger_counts(self) -> None:
        """The ledger's counts are those of the rows, and every row's document is live."""
        table = self.collection.table
        counted = dict(
            self.sql(f'SELECT document_id, count(*) FROM ragstore."{table}" WHERE document_id IS NOT NULL GROUP BY 1')
        )
        live = dict(
            self.sql("SELECT document_id, n_nodes FROM ragstore.document WHERE deleted_at IS NULL AND revision > 0")
        )
        assert {k: v for k, v in live.items() if v} == counted

    def assert_ref_docs_agree(self) -> None:
        """MongoDB's per-document entries name exactly the nodes that are live."""
        table = self.collection.table
        parts: dict[str, set[str]] = {}
        for document_id, node_id in self.sql(
            f'SELECT document_id, node_id FROM ragstore."{table}" WHERE document_id IS NOT NULL '
            "UNION ALL SELECT document_id, node_id FROM ragstore.body WHERE document_id <> node_id"
        ):
            parts.setdefault(document_id, set()).add(node_id)
        entries = {e["_id"]: set(e["node_ids"]) for e in self.mongo[f"{self.collection.name}/ref_doc_info"].find()}
        assert {k: v for k, v in entries.items() if v} == parts
        hashes = {e["_id"]: e["doc_hash"] for e in self.mongo[f"{self.collection.name}/metadata"].find()}
        assert hashes == {document_id: doc_hash or "" for document_id, doc_hash in self.hashes().items()}

    def assert_holds(self, *documents: Document) -> None:
        """Exactly these documents, whole, once, complete, in both databases."""
        expected = Counter(node.get_content() for d in documents for node in a_splitter().get_nodes_from_documents([d]))
        assert self.texts() == expected
        self.assert_agree()
        assert self.hashes() == {d.id_: d.hash for d in documents}


def content_text(body: dict[str, Any]) -> str:
    data = body["__data__"]
    resource = data.get("text_resource")
    return str(resource["text"] if resource else data["text"])


def fetch(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall()
    finally:
        connection.close()


@contextmanager
def faces_on(postgres_url: str, mongo_url: str, mongo_name: str, name: str = "docs", dim: int = DIM) -> Iterator[Faces]:
    """The collection of that name, made if need be."""
    pool = PostgresPool(postgres_url, size=6)
    indexer = Indexer(pool.another(size=1), min_nodes=10_000)
    client = connect(mongo_url)
    asking = psycopg2.connect(postgres_url)
    asking.autocommit = True
    try:
        mongo = database(client, mongo_name)
        if deployment_id(mongo) is None:
            migrate_mongo(postgres_url, mongo)
        collection = collections.create_collection(
            pool,
            name,
            space=EmbeddingSpace("external", dim),
            chunking=Chunking(64, 8),
            text_search_config="english",
        )
        nodes = NodeStore(mongo)
        backend = Backend(
            pool=pool,
            client=client,
            database=mongo,
            nodes=nodes,
            recoverer=Recoverer(pool, Ledger(pool), nodes),
            worker=this_worker(),
            timing=Timing(lease_ttl_s=5, grace_s=0),
            embedder=lambda _: WordsEmbedder(),
            indexer=indexer,
        )
        yield Faces(backend, collection, postgres_url, mongo, asking)
    finally:
        asking.close()
        indexer.close()
        client.close()
        pool.close()
