"""What the document store was given it gives back: embeddings, and nodes in the order in which they were put."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    Document,
    StorageContext,
    SummaryIndex,
    TreeIndex,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.llms import MockLLM
from llama_index.core.schema import BaseNode, ImageNode, IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore.types import BaseDocumentStore
from llama_index.core.vector_stores.types import VectorStoreQuery

from ragstore.app import Ragstore
from ragstore.errors import InvalidNodeError
from ragstore.settings import Settings
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_splitter, faces_on
from tests.support.parts import postgres_url
from tests.support.plain_stack import CountingEmbedding

pytestmark = pytest.mark.on_both


@pytest.fixture
def faces(settings: Settings, store: Ragstore) -> Iterator[Faces]:
    store.create_collection("docs", model="external", dim=DIM)
    assert settings.mongo_url is not None
    with faces_on(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database) as opened:
        yield opened


def a_vector(i: int) -> list[float]:
    """Of numbers that are special in JSON, BSON or float32."""
    return [0.1 + i, -1.0, 1e15, 1e22, 5e-324, 3.0, *[i / 7] * (DIM - 6)]


def some_nodes() -> list[BaseNode]:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d")}
    return [
        TextNode(id_="n1", text="one two", embedding=a_vector(1), relationships=source),
        TextNode(id_="n0", text="two three", embedding=a_vector(0), metadata={"k": 1}),
        IndexNode(id_="i", text="index", index_id="x", embedding=a_vector(2)),
        ImageNode(id_="p", text="picture", image_url="http://localhost/a.png", embedding=a_vector(3)),
        Document(id_="whole", text="whole", embedding=a_vector(4)),
        TextNode(id_="none", text="none"),
        TextNode(id_="short", text="short", embedding=[0.25, 1.0]),
    ]


def embeddings(store: Any, ids: list[str]) -> list[list[float] | None]:
    return [store.get_document(i).embedding for i in ids]


def the_node(docstore: BaseDocumentStore, node_id: str) -> BaseNode:
    found = docstore.get_document(node_id)
    assert found is not None
    return found


def test_embeddings_come_back_in_every_process_from_both_databases(faces: Faces) -> None:
    nodes = some_nodes()
    ids = [node.node_id for node in nodes]
    faces.context().docstore.add_documents(nodes)
    docstore = faces.context().docstore
    assert embeddings(docstore, ids) == [node.embedding for node in nodes]
    assert docstore.get_nodes(ids) == nodes == list(docstore.docs.values())
    faces.mongo["docs/data"].delete_one({"_id": "n0"})
    assert the_node(docstore, "n0").embedding == a_vector(0)


def test_adding_them_again_unchanged_writes_nothing_and_without_embedding_takes_it_away(faces: Faces) -> None:
    faces.context().docstore.add_documents(some_nodes())
    before = faces.state()
    faces.context().docstore.add_documents(some_nodes())
    assert faces.state() == before
    faces.context().docstore.add_documents([TextNode(id_="n0", text="two three", metadata={"k": 1})])
    assert the_node(faces.context().docstore, "n0").embedding is None
    faces.assert_agree()


@pytest.mark.parametrize("first", ["docstore", "vector store"])
def test_a_node_in_both_stores_has_the_embedding_that_the_docstore_was_given(faces: Faces, first: str) -> None:
    given = [node for node in some_nodes() if node.embedding and len(node.embedding) == DIM]
    ids = [node.node_id for node in given]
    embedded = [node.model_copy(update={"embedding": HashEmbedding().vector_of(node.node_id)}) for node in given]
    for step in ("docstore", "vector store") if first == "docstore" else ("vector store", "docstore", "vector store"):
        if step == "docstore":
            faces.context().docstore.add_documents(given)
        else:
            faces.context().vector_store.add(embedded)
    assert embeddings(faces.context().docstore, ids) == [node.embedding for node in given]
    store = faces.context().vector_store
    hits = store.query(VectorStoreQuery(query_embedding=[1.0] * DIM, similarity_top_k=9)).nodes or []
    assert {hit.node_id for hit in hits} == {*ids} and all(hit.embedding is None for hit in hits)
    found = {node.node_id: node.embedding or [] for node in store.get_nodes(ids)}
    assert all(found[node.node_id] == pytest.approx(node.embedding, rel=1e-6) for node in embedded)
    faces.assert_agree()


def test_a_node_that_only_the_vector_store_was_given_has_none(faces: Faces) -> None:
    faces.index().insert(a_document("a"))
    assert all(node.embedding is None for node in faces.context().docstore.docs.values())


def test_large_floats_come_back_as_floats(faces: Faces) -> None:
    metadata = {"large": 1e22, "larger": -1e300, "int": 2**63 - 1, "list": [1e19, {"x": 2.5e20}], "text": "1" * 30}
    faces.context().docstore.add_documents([Document(id_="d", text="t", metadata=metadata)])
    faces.index().insert(Document(id_="e", text="t", metadata=metadata))
    faces.mongo["docs/data"].delete_many({})
    docstore = faces.context().docstore
    info = docstore.get_ref_doc_info("e")
    assert info is not None and repr(sorted(info.metadata.items())) == repr(sorted(metadata.items()))
    assert repr(sorted(the_node(docstore, "d").metadata.items())) == repr(sorted(metadata.items()))
    (hit,) = faces.index().as_retriever().retrieve("t")
    assert repr(hit.node.metadata) == repr(metadata)


def test_an_embedding_that_is_not_finite_is_refused_with_the_node(faces: Faces) -> None:
    with pytest.raises(InvalidNodeError, match="n9"):
        faces.context().docstore.add_documents([TextNode(id_="n8"), TextNode(id_="n9", embedding=[float("nan")])])
    assert faces.context().docstore.docs == {}


def test_retrievers_that_compare_embeddings_compute_none_that_they_were_given(faces: Faces) -> None:
    """As upstream's test of a tree that is built with embeddings."""
    model = CountingEmbedding()
    nodes = [
        TextNode(id_=f"e{i}", text=f"text {i}", embedding=HashEmbedding().vector_of(f"other words {i}"))
        for i in range(5)
    ]
    SummaryIndex(nodes, storage_context=faces.context()).set_index_id("summary")
    VectorStoreIndex([node.model_copy() for node in nodes], storage_context=faces.context(), embed_model=model)
    TreeIndex(nodes, storage_context=faces.context(), llm=MockLLM(max_tokens=5), num_children=9).set_index_id("tree")
    summary = load_index_from_storage(faces.context(), "summary", llm=MockLLM())
    hits = summary.as_retriever(retriever_mode="embedding", embed_model=model, similarity_top_k=2).retrieve(
        "other words 3"
    )
    tree = load_index_from_storage(faces.context(), "tree", llm=MockLLM())
    retriever = tree.as_retriever(retriever_mode="select_leaf_embedding", embed_model=model, llm=MockLLM())
    assert hits[0].node_id == "e3" and retriever.retrieve("other words 2")[0].node_id == "e2"
    assert model.n_embedded == 0


def test_embeddings_survive_verify_repair_export_and_import(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    nodes = some_nodes()
    ids = [node.node_id for node in nodes]
    store.storage_context("docs").docstore.add_documents(nodes)
    both = TextNode(id_="both", text="both", embedding=[0.5] * DIM)
    store.storage_context("docs").vector_store.add([both])
    store.storage_context("docs").docstore.add_documents([both])
    assert store.verify("docs", deep=True).drift.counts == {}
    faces.mongo["docs/data"].delete_many({"_id": {"$in": ["n0", "both"]}})
    faces.sql("DELETE FROM ragstore.body WHERE node_id = 'i' RETURNING 1")
    store.repair("docs")
    assert store.verify("docs", deep=True).drift.counts == {}
    assert embeddings(store.storage_context("docs").docstore, [*ids, "both"]) == [
        *(node.embedding for node in nodes),
        [0.5] * DIM,
    ]
    store.export(tmp_path / "out", collection="docs")
    plain = StorageContext.from_defaults(persist_dir=str(tmp_path / "out")).docstore
    assert embeddings(plain, ids) == [node.embedding for node in nodes]
    store.import_(tmp_path / "out", collection="copy", model="external")
    assert embeddings(store.storage_context("copy").docstore, [*ids, "both"]) == [
        *(node.embedding for node in nodes),
        [0.5] * DIM,
    ]


def ids_of(context: StorageContext) -> list[str]:
    docs = context.docstore.docs
    assert list(docs) == [node.node_id for node in docs.values()]
    return list(docs)


def test_nodes_are_iterated_in_the_order_in_which_they_were_put(faces: Faces) -> None:
    ids = [f"n{i * 7919 % 2503}" for i in range(2503)]
    nodes = [TextNode(id_=i, text=f"text {i}") for i in ids]
    faces.context().docstore.add_documents(nodes[:1500])
    faces.context().docstore.add_documents(nodes[1500:])
    assert ids_of(faces.context()) == ids
    faces.context().docstore.add_documents(nodes)
    assert ids_of(faces.context()) == ids
    embedded = [node.model_copy(update={"embedding": [float(i + 1)] * DIM}) for i, node in enumerate(nodes)]
    faces.context().vector_store.add(embedded)
    assert ids_of(faces.context()) == ids
    changed = [node.model_copy(update={"text": f"{node.text}, changed"}) for node in nodes]
    faces.context().docstore.add_documents(changed)
    assert ids_of(faces.context()) == ids
    faces.assert_agree()


def test_documents_cut_into_nodes_are_iterated_as_they_were_built(faces: Faces) -> None:
    documents = [a_document(name) for name in ("z", "a", "m")]
    VectorStoreIndex.from_documents(
        documents, storage_context=faces.context(), embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    faces.context().docstore.add_documents([TextNode(id_="0", text="last")])
    texts = [node.get_content() for node in faces.context().docstore.docs.values()]
    expected = [n.get_content() for n in a_splitter().get_nodes_from_documents(documents)]
    assert texts == [*expected, "last"]


def test_the_nodes_of_a_document_are_named_in_the_order_in_which_they_were_put(faces: Faces) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d")}
    nodes = [TextNode(id_=i, text=i, relationships=source) for i in ("n0", "n7", "n4", "n1")]
    faces.context().docstore.add_documents(nodes)
    info = faces.context().docstore.get_ref_doc_info("d")
    assert info is not None and info.node_ids == ["n0", "n7", "n4", "n1"]
