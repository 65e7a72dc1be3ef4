"""Indexes of all kinds on ragstore's stores: their structs, what survives what, and what is too large."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core import (
    Document,
    DocumentSummaryIndex,
    SimpleKeywordTableIndex,
    StorageContext,
    SummaryIndex,
    TreeIndex,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.data_structs.data_structs import IndexList, KeywordTable
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import ImageNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.storage.index_store.mongodb import MongoIndexStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore

from ragstore.app import Ragstore
from ragstore.errors import InvalidNodeError, LimitExceededError, UsageError
from ragstore.model.drift import Kind
from ragstore.model.node import VECTOR_STORE, Struct
from ragstore.mongo import structs as in_mongo
from ragstore.postgres import structs as in_postgres
from ragstore.protocol.structs import StructWriter
from tests.support.internals import backend_of, collection_of
from tests.support.llama_children import Place
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_splitter, faces_on

STRUCTS = "index_store/data"


def sentences_of(*documents: Document) -> set[str]:
    return {node.get_content() for node in a_splitter().get_nodes_from_documents(list(documents))}


def words_of(text: str) -> set[str]:
    return {word.strip(".").lower() for word in text.split()}


def options() -> dict[str, Any]:
    return {"llm": MockLLM(max_tokens=5), "embed_model": HashEmbedding(), "transformations": [a_splitter()]}


def an_index(kind: type[BaseIndex[Any]], context: StorageContext, *documents: Document) -> BaseIndex[Any]:
    return kind.from_documents(list(documents), storage_context=context, **options())


def texts_of(index: BaseIndex[Any]) -> set[str]:
    """Of all leaves that the struct names."""
    struct = index.index_struct
    if isinstance(index, SummaryIndex):
        ids = set(struct.nodes)
    elif isinstance(index, SimpleKeywordTableIndex):
        ids = set(struct.node_ids)
    elif isinstance(index, DocumentSummaryIndex):
        ids = set(struct.node_id_to_summary_id)
    else:
        ids = {i for i in struct.all_nodes.values() if not struct.node_id_to_children_ids.get(i)}
    return {node.get_content() for node in index.docstore.get_nodes(sorted(ids))}


def sentences(name: str, version: int = 1) -> set[str]:
    return {node.get_content() for node in a_splitter().get_nodes_from_documents([a_document(name, version, 3)])}


KINDS = [SummaryIndex, SimpleKeywordTableIndex, DocumentSummaryIndex, TreeIndex]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_built_loaded_and_changed_by_processes_that_know_nothing_of_each_other(
    place: Place, faces: Faces, kind: type[BaseIndex[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimpleKeywordTableIndex, "_extract_keywords", lambda self, text: words_of(text))

    def load() -> BaseIndex[Any]:
        context = faces.context()
        loaded = load_index_from_storage(context, **options())
        # LlamaIndex's own loads every keyword table as the kind that asks an LLM.
        return kind(index_struct=loaded.index_struct, storage_context=context, **options())

    assert place.run("build_index", kind.__name__, [a_document("a", n_sentences=3), a_document("b", n_sentences=3)])
    loaded = load()
    assert texts_of(loaded) == sentences("a") | sentences("b")
    if kind is TreeIndex:
        # LlamaIndex's own cannot delete from it.
        return
    loaded.insert(a_document("c", n_sentences=3))
    loaded.delete_ref_doc("a", delete_from_docstore=True)
    again = load()
    assert texts_of(again) == sentences("b") | sentences("c")
    changed = again.refresh_ref_docs([a_document("b", n_sentences=3), a_document("c", 2, 3)])
    assert changed == [False, True]
    assert texts_of(load()) == sentences("b") | sentences("c", 2)


def test_a_struct_survives_the_loss_of_mongodb_and_repair_brings_it_back(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=DIM)
    built = an_index(SummaryIndex, store.storage_context("docs"), a_document("a"))
    database = backend_of(store).database
    entry = in_mongo.entry(database, built.index_id)
    database.drop_collection(STRUCTS)
    loaded = load_index_from_storage(store.storage_context("docs"), index_id=built.index_id)
    assert loaded.index_struct == built.index_struct
    # Loading brought it back already.
    assert in_mongo.entry(database, built.index_id) == entry
    database.drop_collection(STRUCTS)
    assert store.verify("docs").drift.counts == {Kind.STALE_STRUCT: 1}
    assert store.repair("docs").repaired.counts == {Kind.STALE_STRUCT: 1}
    assert in_mongo.entry(database, built.index_id) == entry
    assert store.verify("docs").ok
    plain = MongoIndexStore(MongoDBKVStore(backend_of(store).client, db_name=database.name))
    assert plain.get_index_struct(built.index_id) == built.index_struct


def test_many_that_write_the_same_new_struct_at_once_all_succeed(faces: Faces) -> None:
    writer = StructWriter(faces.backend.pool, faces.backend.database, faces.collection, faces.backend.recoverer)
    struct = Struct("docs", VECTOR_STORE, "{}")
    together = threading.Barrier(4)

    def write() -> None:
        together.wait(30)
        writer.put(struct)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(60):
            for written in [threads.submit(write) for _ in range(4)]:
                written.result()
            assert writer.vector_index_ids() == ["docs"]
            writer.delete("docs")


def test_a_struct_that_postgresql_lost_comes_back_from_mongodb(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=DIM)
    built = an_index(SummaryIndex, store.storage_context("docs"), a_document("a"))
    collection = collection_of(store, "docs")
    in_postgres.delete_struct(backend_of(store).pool, collection, built.index_id)
    loaded = load_index_from_storage(store.storage_context("docs"), index_id=built.index_id)
    assert loaded.index_struct == built.index_struct
    # Loading brought it back already.
    in_postgres.delete_struct(backend_of(store).pool, collection, built.index_id)
    assert store.repair("docs").repaired.counts[Kind.STALE_STRUCT] == 2
    assert store.verify("docs").ok
    found = in_postgres.find_struct(backend_of(store).pool, collection, built.index_id)
    assert found is not None and found.payload == built.index_struct.to_json()


def test_a_write_that_was_killed_before_mongodb_counts_and_is_finished_by_the_next_or_by_repair(
    store: Ragstore,
) -> None:
    store.create_collection("docs", model="external", dim=DIM)
    context = store.storage_context("docs")
    built = an_index(SummaryIndex, context, a_document("a"))
    pool, database, collection = backend_of(store).pool, backend_of(store).database, collection_of(store, "docs")
    struct = IndexList(index_id=built.index_id, nodes=[*built.index_struct.nodes[1:]])
    in_postgres.put_struct(pool, collection, Struct(struct.index_id, "list", struct.to_json()))
    assert context.index_store.get_index_struct(built.index_id) == struct
    assert store.repair("docs").ok and store.verify("docs").ok
    in_postgres.put_struct(pool, collection, Struct(struct.index_id, "list", struct.to_json()))
    context.index_store.add_index_struct(struct)
    assert store.verify("docs").ok
    # An older write that comes late does not win.
    in_mongo.put_struct(database, "docs", Struct(struct.index_id, "list", "late"), 1)
    assert store.verify("docs").ok


def test_what_plain_llamaindex_writes_over_a_struct_is_drift(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=DIM)
    built = an_index(SummaryIndex, store.storage_context("docs"), a_document("a"))
    plain = MongoIndexStore(MongoDBKVStore(backend_of(store).client, db_name=backend_of(store).database.name))
    plain.add_index_struct(IndexList(index_id=built.index_id, nodes=["of another program"]))
    assert store.verify("docs").drift.counts == {Kind.STALE_STRUCT: 1}
    assert store.repair("docs").ok
    assert plain.get_index_struct(built.index_id) == built.index_struct


def test_a_struct_that_is_removed_is_gone_from_both(faces: Faces) -> None:
    context = faces.context()
    built = an_index(SummaryIndex, context, a_document("a"))
    built.set_index_id("named")
    assert [struct["_id"] for struct in faces.mongo[STRUCTS].find()] == ["named"]
    context.index_store.delete_index_struct("named")
    assert list(faces.mongo[STRUCTS].find()) == []
    assert faces.sql("SELECT index_id FROM ragstore.index_struct") == []
    assert context.index_store.get_index_struct("named") is None


def test_a_collection_has_one_vector_index_and_a_second_name_is_refused(place: Place, faces: Faces) -> None:
    nodes = a_splitter().get_nodes_from_documents([a_document("a"), a_document("b")])
    first = VectorStoreIndex(nodes[:6], storage_context=faces.context(), embed_model=HashEmbedding())
    first.set_index_id("a")
    with faces_on(place.postgres_url, place.mongo_url, place.mongo_name) as elsewhere:
        second = VectorStoreIndex(nodes[6:], storage_context=elsewhere.context(), embed_model=HashEmbedding())
        assert second.index_id == "a"
        with pytest.raises(UsageError, match="another collection"):
            second.set_index_id("b")
    for kwargs in ({"index_id": "a"}, {}):
        loaded = load_index_from_storage(faces.context(), embed_model=HashEmbedding(), **kwargs)
        assert loaded.index_id == "a"
        assert len(loaded.as_retriever(similarity_top_k=20).retrieve("Sentence")) == 12
    with pytest.raises(ValueError, match="Failed to load"):
        load_index_from_storage(faces.context(), index_id="b", embed_model=HashEmbedding())
    faces.assert_agree()
    with faces_on(place.postgres_url, place.mongo_url, place.mongo_name, name="other") as other:
        apart = VectorStoreIndex(nodes[6:], storage_context=other.context(), embed_model=HashEmbedding())
        assert len(apart.as_retriever(similarity_top_k=20).retrieve("Sentence")) == 6
        with pytest.raises(UsageError, match="belongs to another collection"):
            apart.set_index_id("a")


@pytest.mark.parametrize("use_async", [False, True])
@pytest.mark.parametrize("way", ["from_documents", "nodes"])
def test_a_second_named_index_is_refused_before_anything_is_stored(faces: Faces, way: str, use_async: bool) -> None:
    context = faces.context()

    def build(name: str, *documents: Document) -> None:
        options: dict[str, Any] = {"embed_model": HashEmbedding(), "use_async": use_async, "insert_batch_size": 4}
        if way == "nodes":
            nodes = a_splitter().get_nodes_from_documents(list(documents))
            index = VectorStoreIndex(nodes, storage_context=context, **options)
        else:
            index = VectorStoreIndex.from_documents(
                list(documents), storage_context=context, transformations=[a_splitter()], **options
            )
        index.set_index_id(name)

    build("first", a_document("a"))
    with pytest.raises(UsageError, match="one vector index"):
        build("second", a_document("b"), a_document("c"))
    faces.assert_agree()
    assert set(faces.texts()) == sentences_of(a_document("a"))
    assert faces.hashes().keys() <= {"a"}
    # The same again, with more than before, is no second one; nor is any after all was deleted.
    build("first", a_document("a", version=2), a_document("b", n_sentences=9))
    faces.assert_agree()
    assert sentences_of(a_document("a", version=2), a_document("b", n_sentences=9)) <= set(faces.texts())
    context.vector_store.clear()
    build("first", a_document("c"))
    assert set(faces.texts()) == sentences_of(a_document("c"))


def test_of_two_processes_that_name_the_vector_index_differently_one_is_refused(faces: Faces) -> None:
    pool, collection = faces.backend.pool, faces.collection
    VectorStoreIndex(
        a_splitter().get_nodes_from_documents([a_document("a")]),
        storage_context=faces.context(),
        embed_model=HashEmbedding(),
    ).set_index_id("a")
    # What the second does that looked before the first had written.
    with pytest.raises(Exception, match="index_struct_vector_idx"):
        in_postgres.put_struct(pool, collection, Struct("b", "vector_store", "{}"))


@pytest.mark.parametrize("kind", ["list", "keyword_table"])
def test_a_struct_too_large_for_mongodb_is_refused_before_it_is_written(faces: Faces, kind: str) -> None:
    ids = [f"00000000-0000-0000-0000-{i:012}" for i in range(430_000)]
    small: IndexList | KeywordTable
    large: IndexList | KeywordTable
    if kind == "list":
        small, large = IndexList(index_id="s", nodes=ids[:1_000]), IndexList(index_id="s", nodes=ids)
    else:
        small = KeywordTable(index_id="s", table={"word": set(ids[:1_000])})
        large = KeywordTable(index_id="s", table={"word": set(ids)})
    store = faces.context().index_store
    with pytest.raises(LimitExceededError, match="16,777,216"):
        store.add_index_struct(large)
    assert list(faces.mongo[STRUCTS].find()) == []
    assert faces.sql("SELECT index_id FROM ragstore.index_struct") == []
    store.add_index_struct(small)
    with pytest.raises(LimitExceededError) as refused:
        store.add_index_struct(large)
    assert "vector index" in refused.value.hint and refused.value.facts["size"] > 16 * 1024 * 1024
    assert store.get_index_struct("s") == small


def too_large() -> list[TextNode]:
    children = [RelatedNodeInfo(node_id=f"{i}", metadata={"m": ["x"] * 900_000}) for i in range(3)]
    return [
        TextNode(id_="text", text="x" * 13_000_000, embedding=[1.0] * DIM),
        TextNode(id_="metadata", text="x", metadata={"m": "x" * 2_000_000}, embedding=[1.0] * DIM),
        # 10 MB as JSON, 38 MB as MongoDB counts.
        TextNode(id_="children", text="x", relationships={NodeRelationship.CHILD: children}, embedding=[1.0] * DIM),
        ImageNode(id_="image", text="x", image="A" * 13_000_000, embedding=[1.0] * DIM),
    ]


@pytest.mark.parametrize("i", range(4))
def test_a_node_too_large_for_mongodb_is_refused_before_anything_is_written(faces: Faces, i: int) -> None:
    node = too_large()[i]
    good = TextNode(id_="good", text="x", embedding=[1.0] * DIM)
    context = faces.context()
    before = faces.state()
    with pytest.raises(InvalidNodeError, match="bytes"):
        context.vector_store.add([good, node])
    with pytest.raises(InvalidNodeError, match="bytes"):
        context.docstore.add_documents([good, node])
    assert faces.state() == before
    context.vector_store.add([good])
    faces.assert_agree()


def test_a_document_with_more_nodes_than_mongodb_can_name_is_refused_whole(faces: Faces) -> None:
    long = "i" * 1_000
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d")}

    def some(n: int, first: int) -> list[TextNode]:
        ids = (f"{long}{i:06}" for i in range(first, first + n))
        return [TextNode(id_=i, text="x", relationships=source, embedding=[1.0] * DIM) for i in ids]

    store = faces.context().vector_store
    first = some(5_000, 0)
    first[0].metadata = {"m": "x" * 990_000}
    store.add(first)
    with pytest.raises(LimitExceededError, match="document d has more nodes"):
        store.add(some(5_000, 5_000))
    assert len(faces.nodes_of("d")) == 5_000
    with pytest.raises(LimitExceededError, match="document d has more nodes"):
        faces.context().docstore.add_documents(some(5_000, 5_000))
    faces.assert_agree()


def test_images_are_refused_until_they_have_a_collection_of_their_own(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=DIM)
    context = store.storage_context("docs")
    image = ImageNode(id_="i", image="aGk=", embedding=[1.0] * 4)
    images = context.vector_stores["image"]
    with pytest.raises(UsageError) as refused:
        images.add([image])
    assert "add_vector_store" in refused.value.hint
    assert images.add([]) == []
    assert images.query(VectorStoreQuery(query_embedding=[1.0] * 4, similarity_top_k=1)).ids == []
    store.create_collection("images", model="external", dim=4)
    context.add_vector_store(store.storage_context("images").vector_store, "image")
    context.vector_stores["image"].add([image])
    again = store.storage_context("images").vector_store
    found = again.query(VectorStoreQuery(query_embedding=[1.0] * 4, similarity_top_k=1))
    assert found.nodes is not None and isinstance(found.nodes[0], ImageNode) and found.nodes[0].image == "aGk="


def test_persist_writes_no_file(faces: Faces, tmp_path: Any) -> None:
    context = faces.context()
    an_index(VectorStoreIndex, context, a_document("a"))
    context.graph_store.upsert_triplet("a", "knows", "b")
    context.persist(persist_dir=tmp_path / "persisted")
    context.persist()
    assert list(tmp_path.rglob("*")) == []
