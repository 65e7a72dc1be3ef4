"""The recipes of src/ragstore/llama/README.md, run as they stand there."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pymongo
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.storage.docstore.mongodb import MongoDocumentStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore
from llama_index.vector_stores.postgres import PGVectorStore
from pydantic import SecretStr

import ragstore
import ragstore.llama
from ragstore.app import Ragstore, open_ragstore
from ragstore.settings import Settings
from tests.support.forwarder import Forwarder
from tests.support.internals import pool_of

README = Path(ragstore.llama.__file__).with_name("README.md")
TEXT = "To replace the filter, open the lid and lift it out."


def recipes() -> dict[str, str]:
    """Heading → code."""
    found = re.findall(
        r"^### (From .*?|With .*?)\n.*?```python\n(.*?)```", README.read_text(), re.DOTALL | re.MULTILINE
    )
    return dict(found)


@pytest.fixture(autouse=True)
def _opened_on_the_databases_of_the_test(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragstore, "open", lambda given=settings: open_ragstore(given))


@pytest.fixture
def documents() -> list[Document]:
    return [Document(id_=name, text=f"{TEXT} This is the manual of {name}.") for name in ("pump", "fan")]


@pytest.fixture
def documents_as_they_were(store: Ragstore, documents: list[Document]) -> Callable[[StorageContext], None]:
    """Builds the index of a program that did not know ragstore."""
    store.create_collection("elsewhere", model="wordllama")

    def build(context: StorageContext) -> None:
        VectorStoreIndex.from_documents(
            documents,
            storage_context=context,
            embed_model=store.embed_model("elsewhere"),
            transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0)],
        )

    return build


@pytest.fixture
def plain(settings: Settings, documents: list[Document], documents_as_they_were: Any) -> Iterator[dict[str, str]]:
    """A PGVectorStore and a MongoDocumentStore that hold an index."""
    assert settings.postgres_url is not None and settings.mongo_url is not None
    postgres_url, mongo_url = settings.postgres_url.get_secret_value(), settings.mongo_url.get_secret_value()
    vectors = PGVectorStore.from_params(
        connection_string=postgres_url,
        async_connection_string=postgres_url.replace("postgresql://", "postgresql+asyncpg://"),
        table_name="plain",
        embed_dim=256,
    )
    with pymongo.MongoClient[dict[str, Any]](mongo_url) as client:
        docstore = MongoDocumentStore(MongoDBKVStore(client, db_name=f"{settings.mongo_database}_plain"))
        documents_as_they_were(StorageContext.from_defaults(docstore=docstore, vector_store=vectors))
        yield {"plain_postgres_url": postgres_url, "plain_mongo_url": mongo_url}
        client.drop_database(f"{settings.mongo_database}_plain")
    asyncio.run(vectors.close())


def executed(heading: str, names: dict[str, Any], *, instead: tuple[str, str] = ("", "")) -> dict[str, Any]:
    exec(compile(recipes()[heading].replace(*instead), str(README), "exec"), names)
    return names


def test_every_recipe_has_a_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(recipes()) == 13
    assert [heading for heading in recipes() if f'executed("{heading}"' not in source] == []
    assert README.read_text(encoding="utf-8").count("```python") == 13


def test_from_the_in_memory_quickstart(tmp_path: Path, capsys: Any, store: Ragstore) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manual.txt").write_text(TEXT)
    for _ in range(2):
        executed("From the in-memory quickstart", {})
        assert "lift it out" in capsys.readouterr().out
    assert [state.n_nodes for state in store.documents("docs")] == [1]


def test_from_a_persist_dir(tmp_path: Path, capsys: Any, documents_as_they_were: Any) -> None:
    context = StorageContext.from_defaults()
    documents_as_they_were(context)
    context.persist(str(tmp_path / "storage"))
    executed("From a persist_dir", {})
    out = capsys.readouterr().out
    assert out.startswith("2 0\n") and "lift it out" in out


def test_from_pgvectorstore_only(plain: dict[str, str], capsys: Any) -> None:
    executed("From PGVectorStore only", dict(plain))
    assert "lift it out" in capsys.readouterr().out


def test_from_pgvectorstore_and_mongodocumentstore(
    plain: dict[str, str], settings: Settings, documents: list[Document], capsys: Any
) -> None:
    names: dict[str, Any] = {**plain, "documents": documents}
    database = ('mongo_database="plain"', f'mongo_database="{settings.mongo_database}_plain"')
    executed("From PGVectorStore and MongoDocumentStore", names, instead=database)
    assert capsys.readouterr().out == "[False, False]\n"


def test_with_an_ingestion_pipeline(documents: list[Document], store: Ragstore) -> None:
    for _ in range(2):
        executed("With an IngestionPipeline", {"documents": documents})
    assert {state.document_id: state.n_nodes for state in store.documents("docs")} == {"pump": 1, "fan": 1}


def test_with_fastapi_and_aquery(documents: list[Document], store: Ragstore) -> None:
    store.create_collection("docs", model="wordllama")
    for document in documents:
        store.index("docs").insert(document)
    app = executed("With FastAPI and aquery", {"llm": MockLLM()})["app"]

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://app") as web,
        ):
            answers = [web.get("/ask", params={"question": f"how do I replace the filter? {i}"}) for i in range(8)]
            return await asyncio.gather(*answers)

    for _ in range(2):
        for response in asyncio.run(ask()):
            assert response.status_code == 200
            assert set(response.json()["sources"]) == {"pump", "fan"}


def test_with_other_indexes_on_the_same_context(documents: list[Document], capsys: Any) -> None:
    executed("With other indexes on the same context", {"documents": documents})
    assert capsys.readouterr().out == "['fan']\n"


def test_with_a_document_summary_index(documents: list[Document], capsys: Any) -> None:
    names = {"documents": documents, "llm": MockLLM()}
    executed("With a DocumentSummaryIndex", names)
    assert capsys.readouterr().out.endswith("['pump']\n")


def test_with_an_object_index(capsys: Any, store: Ragstore) -> None:
    for _ in range(2):
        executed("With an ObjectIndex", {})
        assert capsys.readouterr().out == "['clock']\n"
    assert {each.name: each.nodes for each in store.collections()} == {"tools": 2}


def test_with_a_property_graph_index(documents: list[Document], capsys: Any) -> None:
    executed("With a PropertyGraphIndex", {"documents": documents, "llm": MockLLM()})
    assert "label='has'" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Call to deprecated class KnowledgeGraphIndex")
def test_with_a_knowledge_graph_index(documents: list[Document], capsys: Any) -> None:
    executed("With a KnowledgeGraphIndex", {"documents": documents, "llm": MockLLM()})
    assert capsys.readouterr().out == "[['is in', 'lid']]\n"


def filled(store: Ragstore, documents: list[Document]) -> None:
    store.create_collection("docs", model="wordllama")
    for document in documents:
        store.index("docs").insert(document)


def test_with_a_bm25_retriever(documents: list[Document], store: Ragstore, capsys: Any) -> None:
    filled(store, documents)
    executed("With a BM25Retriever", {})
    assert capsys.readouterr().out == "['pump']\n"


def test_with_a_chat_engine_and_its_memory(documents: list[Document], store: Ragstore, capsys: Any) -> None:
    filled(store, documents)
    executed("With a chat engine and its memory", {"llm": MockLLM()})
    sources, _, n_messages = capsys.readouterr().out.rpartition(" ")
    assert set(ast.literal_eval(sources)) == {"pump", "fan"} and int(n_messages) == 2


def test_with_fastapi_while_postgresql_is_away(
    documents: list[Document], store: Ragstore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_collection("docs", model="wordllama")
    store.index("docs").insert(documents[0])
    assert settings.postgres_url is not None
    url = settings.postgres_url.get_secret_value()
    proxy = Forwarder(url)
    through = settings.model_copy(update={"postgres_url": SecretStr(proxy.url)})
    monkeypatch.setattr(ragstore, "open", lambda: open_ragstore(through))
    app = executed("With FastAPI and aquery", {"llm": MockLLM()})["app"]

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://app") as web,
        ):
            there = await web.get("/ask", params={"question": "how do I replace the filter?"})
            proxy.close()
            with pool_of(store).transaction() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            return [there, await web.get("/ask", params={"question": "and now?"})]

    there, away = asyncio.run(ask())
    assert (there.status_code, away.status_code) == (200, 503)
    assert away.json()["error"] == "store.unavailable"
    assert away.headers["retry-after"] == "5"
