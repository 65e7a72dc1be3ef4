"""LlamaIndex's own stores, without any of ours, read what ragstore wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from llama_index.core.schema import MetadataMode, NodeRelationship, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.storage.docstore.mongodb import MongoDocumentStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore
from llama_index.vector_stores.postgres import PGVectorStore
from pymongo import AsyncMongoClient, MongoClient

from ragstore.app import Ragstore
from ragstore.embedding import ModelOptions, load
from ragstore.settings import Settings

pytestmark = pytest.mark.on_both

PUMP = "# Pump\n\n## Oil\n\nThe pump needs oil every week.\n\n## Noise\n\nA whistling pump sucks in air.\n"
VALVE = "The relief valve opens at nine bar.\n"


@pytest.fixture
def written(store: Ragstore, tmp_path: Path) -> Path:
    (tmp_path / "pump.md").write_text(PUMP)
    (tmp_path / "valve.txt").write_text(VALVE)
    store.create_collection("docs", model="wordllama")
    assert store.ingest(tmp_path, collection="docs").added == 2
    return tmp_path


@pytest.fixture
def vector_store(settings: Settings, written: Path) -> Iterator[PGVectorStore]:
    assert settings.postgres_url is not None
    url = urlsplit(settings.postgres_url.get_secret_value())
    plain = PGVectorStore.from_params(
        host=url.hostname,
        port=str(url.port),
        user=url.username,
        password=url.password,
        database=url.path.lstrip("/"),
        schema_name="ragstore",
        table_name="docs",
        embed_dim=256,
        use_jsonb=True,
        perform_setup=False,
    )
    yield plain
    assert plain._engine is not None
    plain._engine.dispose() if plain._engine else None


@pytest.fixture
def document_store(settings: Settings, written: Path) -> Iterator[MongoDocumentStore]:
    assert settings.mongo_url is not None
    url = settings.mongo_url.get_secret_value()
    with MongoClient[dict[str, Any]](url) as client:
        kvstore = MongoDBKVStore(
            mongo_client=client, mongo_aclient=AsyncMongoClient(url, connect=False), db_name=settings.mongo_database
        )
        yield MongoDocumentStore(kvstore, namespace="docs")


def a_question(text: str, **options: Any) -> VectorStoreQuery:
    embedding = load("wordllama", ModelOptions()).embed_query(text)
    return VectorStoreQuery(query_embedding=[float(value) for value in embedding], similarity_top_k=3, **options)


def assert_is_pump(node: TextNode, written: Path) -> None:
    assert node.metadata["file_path"] == node.ref_doc_id == str(written / "pump.md")
    assert node.metadata["file_name"] == "pump.md"
    assert PUMP[node.start_char_idx : node.end_char_idx] == node.text


def test_a_plain_vector_store_finds_what_ragstore_wrote(vector_store: PGVectorStore, written: Path) -> None:
    found = vector_store.query(a_question("a whistling pump"))
    assert found.nodes is not None and found.ids is not None and found.similarities is not None
    best = found.nodes[0]
    assert isinstance(best, TextNode)
    assert "A whistling pump sucks in air." in best.text
    assert best.metadata["headings"] == ["Pump", "Noise"]
    assert_is_pump(best, written)
    assert best.node_id == found.ids[0]
    assert found.similarities == sorted(found.similarities, reverse=True)
    # The text goes into answers with its file, and into vectors without.
    assert "sucks in air" in best.get_content(MetadataMode.LLM)


def test_a_plain_vector_store_scores_as_ragstore_does(
    vector_store: PGVectorStore, store: Ragstore, written: Path
) -> None:
    found = vector_store.query(a_question("relief valve"))
    hits = store.query("relief valve", collection="docs", mode="vector", top_k=3)
    assert found.ids == [hit.node_id for hit in hits]
    assert found.similarities == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert [node.get_content() for node in found.nodes or []] == [hit.text for hit in hits]


def test_a_plain_vector_store_filters_by_the_metadata_that_ragstore_wrote(
    vector_store: PGVectorStore, written: Path
) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key="file_type", value="txt")])
    found = vector_store.query(a_question("a whistling pump", filters=filters))
    assert [node.get_content().strip() for node in found.nodes or []] == [VALVE.strip()]


def test_a_plain_document_store_reads_every_node(
    document_store: MongoDocumentStore, store: Ragstore, written: Path
) -> None:
    hits = store.query("pump valve", collection="docs", mode="vector", top_k=10)
    docs = document_store.docs
    assert set(docs) == {hit.node_id for hit in hits}
    for hit in hits:
        node = document_store.get_node(hit.node_id)
        assert isinstance(node, TextNode)
        assert (node.node_id, node.text, node.metadata) == (hit.node_id, hit.text, hit.metadata)
        assert (node.start_char_idx, node.end_char_idx) == (hit.start_char, hit.end_char)
        assert docs[hit.node_id].hash == node.hash
        assert document_store.document_exists(hit.node_id)


def test_both_plain_stores_read_the_same_nodes(
    document_store: MongoDocumentStore, vector_store: PGVectorStore, written: Path
) -> None:
    found = vector_store.query(a_question("pump"))
    for node in found.nodes or []:
        assert document_store.get_node(node.node_id).to_dict() == node.to_dict()


def test_a_plain_document_store_follows_the_relationships(document_store: MongoDocumentStore, written: Path) -> None:
    info = document_store.get_ref_doc_info(str(written / "pump.md"))
    assert info is not None
    first, second = (document_store.get_node(node_id) for node_id in info.node_ids)
    assert_is_pump(first, written)  # type: ignore[arg-type]
    assert first.next_node is not None and first.next_node.node_id == second.node_id
    assert second.prev_node is not None and second.prev_node.node_id == first.node_id
    assert NodeRelationship.PREVIOUS not in first.relationships
    assert NodeRelationship.NEXT not in second.relationships
    assert first.source_node is not None
    assert first.source_node.hash == document_store.get_document_hash(str(written / "pump.md"))


def test_a_plain_document_store_knows_each_document(
    document_store: MongoDocumentStore, store: Ragstore, written: Path
) -> None:
    every = document_store.get_all_ref_doc_info()
    assert every is not None
    assert set(every) == {str(written / "pump.md"), str(written / "valve.txt")}
    assert every[str(written / "valve.txt")].metadata["file_name"] == "valve.txt"
    before = document_store.get_document_hash(str(written / "valve.txt"))
    assert before

    (written / "valve.txt").write_text("The relief valve opens at ten bar.\n")
    assert store.ingest(written, collection="docs").updated == 1
    assert document_store.get_document_hash(str(written / "valve.txt")) not in (None, before)
    (node_id,) = document_store.get_ref_doc_info(str(written / "valve.txt")).node_ids  # type: ignore[union-attr]
    assert "ten bar" in document_store.get_node(node_id).get_content()
    assert len(document_store.docs) == 3  # the nodes of the old revision are gone

    store.delete(str(written / "valve.txt"), collection="docs")
    assert document_store.get_ref_doc_info(str(written / "valve.txt")) is None
    assert document_store.get_document_hash(str(written / "valve.txt")) is None
    assert len(document_store.docs) == 2
