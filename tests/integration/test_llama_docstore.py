"""The document store by itself: nodes, documents, hashes, and what is left out."""

from __future__ import annotations

import asyncio
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.data_structs import IndexDict
from llama_index.core.node_parser import get_leaf_nodes
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MediaResource,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.schema import Node as MultimodalNode
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.storage.docstore.mongodb import MongoDocumentStore
from llama_index.storage.index_store.mongodb import MongoIndexStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore
from llama_index.vector_stores.postgres import PGVectorStore
from pymongo import MongoClient
from pymongo.database import Database
from sqlalchemy.engine import make_url

from ragstore.errors import InvalidNodeError
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_hierarchy, a_splitter
from tests.support.servers import Servers

pytestmark = pytest.mark.on_both


def some_nodes() -> list[BaseNode]:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"page": 1})}
    return [
        TextNode(id_="text", text="téxt", metadata={"a": [1, {"b": None}], "a.b": "$c"}, relationships=source),
        IndexNode(id_="index", text="pointer", index_id="elsewhere", obj=TextNode(id_="inner", text="inner")),
        ImageNode(id_="image", text="picture", image="aGVsbG8=", image_url="http://localhost/a.png"),
        MultimodalNode(
            id_="media", text_resource=MediaResource(text="spoken"), audio_resource=MediaResource(data=b"aGVsbG8=")
        ),
        Document(id_="document", text="whole", metadata={"title": "A"}),
    ]


def test_nodes_of_every_class_come_back_as_they_were(faces: Faces) -> None:
    nodes = some_nodes()
    faces.context().docstore.add_documents(nodes)
    docstore = faces.context().docstore
    assert docstore.get_nodes([n.node_id for n in nodes]) == nodes
    assert docstore.docs == {n.node_id: n for n in nodes}
    assert docstore.get_node_dict({7: "text", 9: "image"}) == {7: nodes[0], 9: nodes[2]}
    faces.assert_agree()


def test_nodes_with_a_vector_come_back_from_every_face_as_they_were(faces: Faces) -> None:
    nodes = some_nodes()
    faces.index().insert_nodes(nodes)
    context = faces.context()
    ids = [n.node_id for n in nodes]
    assert context.docstore.get_nodes(ids) == nodes
    found = {n.node_id: n for n in context.vector_store.get_nodes(ids)}
    hits = context.vector_store.query(VectorStoreQuery(query_embedding=[1.0] * DIM, similarity_top_k=9)).nodes
    assert all(len(node.embedding or []) == DIM for node in found.values())
    for node in found.values():
        node.embedding = None
    assert found == {n.node_id: n for n in hits or []} == {n.node_id: n for n in nodes}
    assert context.vector_store.get_nodes([]) == []
    assert context.docstore.get_nodes([]) == []
    faces.assert_agree()


def test_upstreams_own_stores_read_what_was_written(
    faces: Faces, test_servers: Servers, mongo_database: Database[dict[str, Any]]
) -> None:
    document = a_document("a", author="Ann")
    VectorStoreIndex.from_documents(
        [document], storage_context=faces.context(), embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    faces.context().docstore.add_documents([document])
    url = make_url(faces.postgres_url)
    with MongoClient[dict[str, Any]](test_servers.mongo_url) as client:
        kvstore = MongoDBKVStore(client, db_name=mongo_database.name)
        docstore, index_store = MongoDocumentStore(kvstore, namespace="docs"), MongoIndexStore(kvstore)
        vectors = PGVectorStore.from_params(
            connection_string=url.set(drivername="postgresql+psycopg2"),
            async_connection_string=url.set(drivername="postgresql+asyncpg"),
            schema_name="ragstore", table_name="docs", embed_dim=DIM, use_jsonb=True, perform_setup=False,
        )  # fmt: skip
        object.__setattr__(
            vectors, "connection_string", url.set(drivername="postgresql+psycopg2").render_as_string(False)
        )
        object.__setattr__(
            vectors, "async_connection_string", url.set(drivername="postgresql+asyncpg").render_as_string(False)
        )
        try:
            context = StorageContext.from_defaults(docstore=docstore, index_store=index_store, vector_store=vectors)
            ours = faces.context()
            infos = docstore.get_all_ref_doc_info() or {}
            assert infos == ours.docstore.get_all_ref_doc_info()
            ids = infos["a"].node_ids
            assert docstore.get_nodes(ids) == ours.docstore.get_nodes(ids)
            assert docstore.get_document("a") == document
            assert docstore.get_document_hash("a") == document.hash
            (struct,) = index_store.index_structs()
            assert isinstance(struct, IndexDict)
            assert (struct.index_id, type(struct).__name__) == ("docs", "IndexDict")
            plain = VectorStoreIndex(index_struct=struct, storage_context=context, embed_model=HashEmbedding())
            hits = plain.as_retriever(similarity_top_k=6).retrieve("Sentence 3 of a in version 1 is here.")
            assert hits[0].node == ours.docstore.get_node(hits[0].node_id)
            assert {hit.node_id for hit in hits} == set(ids)
        finally:
            assert vectors._engine is not None
            vectors._engine.dispose()


def test_parents_in_the_docstore_and_leaves_in_the_index(faces: Faces) -> None:
    document = Document(id_="d", text=" ".join(f"word{i}" for i in range(300)))
    nodes = a_hierarchy().get_nodes_from_documents([document])
    leaves = get_leaf_nodes(nodes)
    for _ in range(2):
        context = faces.context()
        context.docstore.add_documents(nodes)
        VectorStoreIndex(leaves, storage_context=context, embed_model=HashEmbedding())
    assert faces.texts().total() == len(leaves)
    assert {n.node_id for n in faces.context().docstore.docs.values()} == {n.node_id for n in nodes}
    info = faces.context().docstore.get_ref_doc_info("d")
    assert info is not None and set(info.node_ids) == {n.node_id for n in nodes}
    faces.assert_agree()
    faces.context().vector_store.delete("d")
    assert faces.context().docstore.docs == {}
    faces.assert_agree()


def test_adding_a_node_that_has_a_vector_changes_its_text_in_both_databases(faces: Faces) -> None:
    faces.index().insert_nodes([TextNode(id_="n", text="old", metadata={"v": 1})])
    (before,) = faces.context().vector_store.get_nodes(["n"])
    docstore = faces.context().docstore
    docstore.add_documents([TextNode(id_="n", text="new", metadata={"v": 2})])
    (after,) = faces.context().vector_store.get_nodes(["n"])
    assert (after.get_content(), after.metadata) == ("new", {"v": 2})
    assert after.embedding == before.embedding
    faces.assert_agree()


def test_adding_what_is_there_unchanged_writes_nothing(faces: Faces) -> None:
    faces.index().insert_nodes(some_nodes())
    faces.context().docstore.add_documents([TextNode(id_="alone", text="alone")])
    faces.context().docstore.add_documents([*some_nodes(), TextNode(id_="alone", text="alone")])
    before = faces.state()
    faces.context().docstore.add_documents([*some_nodes(), TextNode(id_="alone", text="alone")])
    assert faces.state() == before


def test_a_node_that_mongodb_does_not_have_yet_comes_from_postgresql(faces: Faces) -> None:
    faces.index().insert_nodes([TextNode(id_="n", text="new"), TextNode(id_="m", text="kept")])
    data = faces.mongo["docs/data"]
    data.update_one({"_id": "n"}, {"$set": {"stamp": 0, "__data__.text": "old"}})
    data.delete_one({"_id": "m"})
    data.insert_one({"_id": "orphan", "__type__": "1", "__data__": {"text": "dead"}, "stamp": 3})
    docstore = faces.context().docstore
    assert [n.get_content() for n in docstore.get_nodes(["m", "n"])] == ["kept", "new"]
    assert not docstore.document_exists("orphan")
    assert docstore.get_nodes(["orphan"], raise_error=False) == []


def test_what_is_missing_is_an_error_unless_it_may_be(faces: Faces) -> None:
    docstore = faces.context().docstore
    assert docstore.get_document("x", raise_error=False) is None
    docstore.delete_document("x", raise_error=False)
    docstore.delete_ref_doc("x", raise_error=False)
    for call in (docstore.get_document, docstore.delete_document, docstore.delete_ref_doc):
        with pytest.raises(ValueError, match="x not found"):
            call("x")
    with pytest.raises(ValueError, match="x not found"):
        docstore.get_nodes(["x"])
    docstore.add_documents([TextNode(id_="n", text="n")])
    with pytest.raises(ValueError, match="n already exists"):
        docstore.add_documents([TextNode(id_="n", text="changed")], allow_update=False)
    assert isinstance(docstore, KVDocumentStore)
    assert docstore.get_ref_doc_info("n") is None and not docstore.ref_doc_exists("x")


def test_the_nodes_without_a_source_are_not_the_document_named_none(faces: Faces) -> None:
    faces.index().insert_nodes([TextNode(id_="n", text="alone")])
    faces.context().vector_store.delete("None")
    assert faces.texts() == {"alone": 1}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("bytes", {"metadata": {"k": b"bytes"}}),
    ("nan", {"metadata": {"k": float("nan")}}),
    ("int", {"metadata": {"k": 2**70}}),
    ("keys", {"metadata": {"k": {"1": 1, 1: 2}}}),
    ("object", {"metadata": {"k": object()}}),
    ("long id", {"id_": "x" * 2000}),
    ("surrogate id", {"id_": "x\ud800"}),
    ("long document id", {"relationships": {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d" * 2000)}}),
    ("huge", {"text": "x" * 13_000_000}),
]


@pytest.mark.parametrize("what", [name for name, _ in BAD])
def test_one_bad_node_is_named_and_nothing_of_the_call_is_written(faces: Faces, what: str) -> None:
    bad = TextNode(**{"id_": "bad", "text": "t", "embedding": [1.0] * DIM, **dict(BAD)[what]})
    good = TextNode(id_="good", text="t", embedding=[1.0] * DIM)
    context = faces.context()
    before = faces.state()
    for write in (context.vector_store.add, context.docstore.add_documents):
        with pytest.raises(InvalidNodeError) as caught:
            write([good, bad])
        assert caught.value.hint
        assert str(caught.value.facts["node_id"]).startswith(("bad", "x"))
    assert faces.state() == before


@pytest.mark.parametrize("embedding", [None, [1.0] * (DIM + 1), [float("nan")] * DIM, [float("inf")] * DIM])
def test_one_bad_vector_is_named_and_nothing_of_the_call_is_written(faces: Faces, embedding: Any) -> None:
    nodes = [TextNode(id_="good", text="t", embedding=[1.0] * DIM), TextNode(id_="bad", text="t", embedding=embedding)]
    with pytest.raises(InvalidNodeError, match="bad"):
        faces.context().vector_store.add(nodes)
    assert faces.texts() == {} and faces.bodies() == {}


def test_what_either_database_would_change_is_changed_for_both(faces: Faces) -> None:
    metadata = {
        "day": date(2024, 1, 2),
        "price": Decimal("1.5"),
        "tags": {"b", "a"},
        "map": {7: "key"},
        "bad": "a\0b\ud800",
    }
    node = TextNode(id_="n", text="a\0b\ud800", metadata=metadata, embedding=[1.0] * DIM)
    faces.context().vector_store.add([node])
    expected = {"day": "2024-01-02", "price": 1.5, "tags": ["a", "b"], "map": {"7": "key"}, "bad": "ab\ufffd"}
    found = faces.context().docstore.get_node("n")
    (stored,) = faces.context().vector_store.get_nodes(["n"])
    assert found.metadata == stored.metadata == expected
    assert found.get_content() == stored.get_content() == "ab\ufffd"
    faces.assert_agree()


def test_everything_can_be_cleared(faces: Faces) -> None:
    index = faces.index()
    index.insert(a_document("a"))
    index.insert_nodes([TextNode(text="alone")])
    faces.context().docstore.add_documents([TextNode(text="body"), Document(text="document")])
    faces.context().vector_store.clear()
    faces.assert_holds()
    assert faces.bodies() == {}
    index.insert(a_document("a"))
    faces.assert_holds(a_document("a"))


def test_persisting_changes_nothing(faces: Faces, tmp_path: Any) -> None:
    faces.index().insert(a_document("a"))
    before = faces.state()
    faces.context().persist(tmp_path)
    assert faces.state() == before


def test_the_async_twins_do_the_same_in_every_event_loop(faces: Faces) -> None:
    context, index = faces.context(), faces.index()

    async def work(version: int) -> None:
        await index.ainsert(a_document("a", version))
        await index.arefresh_ref_docs([a_document("a", version), a_document("b", version)])
        nodes = [TextNode(id_="n", text=f"text {version}")]
        await context.docstore.async_add_documents(nodes)
        assert (await context.docstore.aget_node("n")).get_content() == f"text {version}"
        assert await context.docstore.aget_nodes(["n"]) == nodes
        assert await context.docstore.adocument_exists("n")
        assert await context.docstore.aget_document_hash("a") == a_document("a", version).hash
        hashes = await context.docstore.aget_all_document_hashes()
        assert set(hashes.values()) == {"a", "b", "n"}
        info = await context.docstore.aget_ref_doc_info("a")
        assert info is not None and len(info.node_ids) == 6
        assert set(await context.docstore.aget_all_ref_doc_info() or {}) == {"a", "b"}
        assert isinstance(context.docstore, KVDocumentStore)
        assert await context.docstore.aref_doc_exists("a")
        assert len(await context.vector_store.aget_nodes(info.node_ids)) == 6
        hits = await index.as_retriever(similarity_top_k=3).aretrieve("Sentence 1 of b")
        assert len(hits) == 3
        await context.docstore.adelete_document("n")
        await context.vector_store.adelete_nodes([])
        await index.adelete_nodes(info.node_ids[:1])
        await index.adelete_ref_doc("b", delete_from_docstore=True)
        struct = await context.index_store.aget_index_struct("docs")
        assert struct is not None
        await context.index_store.async_add_index_struct(struct)
        assert len(await context.index_store.async_index_structs()) == 1

    for version in (1, 2):
        asyncio.run(work(version))
        faces.assert_agree()
        assert faces.texts().total() == 5
    asyncio.run(context.docstore.adelete_ref_doc("a"))
    asyncio.run(context.vector_store.aclear())
    faces.assert_holds()
