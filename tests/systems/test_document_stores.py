"""Vectors in FAISS, which has no texts; nodes, hashes and index structs in a key-value store of LlamaIndex."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index.vector_stores.faiss import FaissVectorStore
from pydantic import SecretStr

import ragstore
from ragstore.errors import ForeignStoreError, NotFoundError
from ragstore.settings import Settings
from tests.support.llama_faces import Faces, HashEmbedding, a_splitter
from tests.support.parts import postgres_url
from tests.systems.engines import dynamodb_server, firestore_emulator, redis_server
from tests.systems.scenes import N_NODES, documents, unit

PASSWORD = "redis-password-of-the-test"
QUESTIONS = [f"sentence {i % 10} of d{i % 20} in version 1" for i in range(100)]


class UnitEmbedding(HashEmbedding):
    def vector_of(self, text: str) -> list[float]:
        return unit(text)


@contextmanager
def redis(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BaseKVStore, str]]:
    from llama_index.storage.kvstore.redis import RedisKVStore

    with redis_server(folder, PASSWORD) as port:
        yield RedisKVStore(redis_uri=f"redis://:{PASSWORD}@127.0.0.1:{port}"), f"redis://127.0.0.1:{port}"


@contextmanager
def firestore(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BaseKVStore, str]]:
    from llama_index.storage.kvstore.firestore import FirestoreKVStore

    with firestore_emulator(folder) as port:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{port}")
        yield FirestoreKVStore(project="manuals"), "firestore:manuals"


@contextmanager
def dynamodb(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BaseKVStore, str]]:
    import boto3
    from llama_index.storage.kvstore.dynamodb import DynamoDBKVStore

    with dynamodb_server(folder) as port:
        for name, value in {
            "DYNAMODB_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }.items():
            monkeypatch.setenv(name, value)
        boto3.resource("dynamodb", endpoint_url=os.environ["DYNAMODB_URL"]).create_table(
            TableName="manuals",
            KeySchema=[{"AttributeName": "ns", "KeyType": "HASH"}, {"AttributeName": "id", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("ns", "id")],
            BillingMode="PAY_PER_REQUEST",
        )
        yield DynamoDBKVStore.from_table_name("manuals"), "dynamodb:manuals"


@contextmanager
def postgres(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BaseKVStore, str]]:
    from llama_index.storage.kvstore.postgres import PostgresKVStore

    url = postgres_url(settings)
    store = PostgresKVStore(
        table_name="manuals",
        connection_string=url,
        async_connection_string=url.replace("postgresql://", "postgresql+asyncpg://"),
    )
    yield store, f"{url}{'&' if '?' in url else '?'}table=data_manuals"
    if store._engine is not None:
        store._engine.dispose()


@contextmanager
def mongodb(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BaseKVStore, str]]:
    import pymongo
    from llama_index.storage.kvstore.mongodb import MongoDBKVStore

    assert settings.mongo_url is not None
    url, name = settings.mongo_url.get_secret_value(), f"{settings.mongo_database}_plain"
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        head, mark, options = url.partition("?")
        yield MongoDBKVStore(mongo_client=client, db_name=name), f"{head.rstrip('/')}/{name}{mark}{options}"
        client.drop_database(name)


STORES: dict[str, Callable[..., Any]] = {
    "redis": redis,
    "firestore": firestore,
    "dynamodb": dynamodb,
    "postgres": postgres,
    "mongodb": mongodb,
}


@pytest.fixture(params=STORES)
def key_values(
    request: pytest.FixtureRequest, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[BaseKVStore, str]]:
    with STORES[request.param](tmp_path, settings, monkeypatch) as found:
        yield found


def built(store: BaseKVStore, folder: Path, given: list[Document]) -> VectorStoreIndex:
    """An index as LlamaIndex's documentation wires it, whose vectors alone are in a folder."""
    from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
    from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore

    context = StorageContext.from_defaults(
        docstore=KVDocumentStore(store),
        index_store=KVIndexStore(store),
        vector_store=FaissVectorStore(faiss.IndexFlatIP(32)),
    )
    index = VectorStoreIndex.from_documents(
        given, storage_context=context, embed_model=UnitEmbedding(), transformations=[a_splitter()]
    )
    index.set_index_id("manuals")
    context.vector_store.persist(str(folder / "vectors" / "default__vector_store.json"))
    return index


def test_texts_hashes_and_structs_come_from_the_document_store_and_a_refresh_embeds_nothing(
    settings: Settings, faces: Faces, tmp_path: Path, key_values: tuple[BaseKVStore, str]
) -> None:
    store, place = key_values
    given = documents(min(N_NODES, 5000))
    index = built(store, tmp_path, given)
    retriever = index.as_retriever(similarity_top_k=10)
    secret = SecretStr(PASSWORD) if place.startswith("redis") else None
    with ragstore.open(settings.model_copy(update={"docstore_secret": secret})) as opened:
        source = f"faiss:{tmp_path / 'vectors'}"
        preview = opened.adopt(source, docstore=place, collection="docs", dry_run=True)
        assert (preview.nodes, faces.texts().total()) == (10 * len(given), 0)
        report = opened.adopt(source, docstore=place, collection="docs")
        assert (report.documents, report.nodes, report.embedded) == (len(given), 10 * len(given), 0)
        assert (report.left_behind.counts, report.noted.counts) == ({}, {})
        for question in QUESTIONS:
            hits = opened.query(question, collection="docs", mode="vector", top_k=10, embedding=unit(question))
            assert [hit.node_id for hit in hits] == [hit.node_id for hit in retriever.retrieve(question)]
        assert opened.adopt(source, docstore=place, collection="docs").skipped == 10 * len(given)
        ours = load_index_from_storage(
            opened.storage_context("docs"), "manuals", embed_model=UnitEmbedding(), transformations=[a_splitter()]
        )
        assert ours.refresh_ref_docs(given) == [False] * len(given)
        with pytest.raises((NotFoundError, ForeignStoreError)):
            opened.adopt(source, docstore=f"{place}#nothing", collection="docs")
    faces.assert_holds(*given)


def test_an_object_of_llamaindex_is_a_document_store_too(settings: Settings, faces: Faces, tmp_path: Path) -> None:
    from llama_index.core.storage.kvstore import SimpleKVStore

    store, given = SimpleKVStore(), documents(40)
    built(store, tmp_path, given)
    with ragstore.open(settings) as opened:
        report = opened.adopt(f"faiss:{tmp_path / 'vectors'}", docstore=store, collection="docs")
    assert (report.nodes, report.ok) == (40, True)
    faces.assert_holds(*given)


def test_a_wrong_password_is_refused_and_never_printed(settings: Settings, faces: Faces, tmp_path: Path) -> None:
    with redis_server(tmp_path, PASSWORD) as port:
        (tmp_path / "vectors").mkdir()
        faiss.write_index(faiss.IndexFlatIP(32), str(tmp_path / "vectors" / "default__vector_store.json"))
        with ragstore.open(settings) as opened, pytest.raises(ForeignStoreError) as refused:
            opened.adopt(f"faiss:{tmp_path / 'vectors'}", docstore=f"redis://:wrong-{PASSWORD}@127.0.0.1:{port}")
    assert PASSWORD not in str(refused.value) + repr(refused.value.facts) + repr(refused.value.__cause__)
