"""Indexes of several kinds on one context: what one deletes, or another process, the others go on without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core import (
    Document,
    DocumentSummaryIndex,
    KnowledgeGraphIndex,
    SimpleKeywordTableIndex,
    StorageContext,
    SummaryIndex,
    TreeIndex,
    VectorStoreIndex,
    load_index_from_storage,
    load_indices_from_storage,
)
from llama_index.core.data_structs.data_structs import IndexGraph, IndexList
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from ragstore.errors import UsageError
from ragstore.llama.structs import named_nodes, remove_nodes
from ragstore.migrate import mongo
from tests.support.llama_children import Place
from tests.support.llama_faces import Faces, HashEmbedding, a_document, a_splitter, faces_on


@pytest.fixture
def elsewhere(faces: Faces, place: Place) -> Iterator[Faces]:
    """As another process has it: nothing in memory is shared."""
    with faces_on(place.postgres_url, place.mongo_url, place.mongo_name) as opened:
        yield opened


DOCUMENTS = [a_document(name, n_sentences=3) for name in "abc"]


def options() -> dict[str, Any]:
    return {"llm": MockLLM(max_tokens=5), "embed_model": HashEmbedding(), "transformations": [a_splitter()]}


def nodes_of(*documents: Document) -> list[BaseNode]:
    return a_splitter().get_nodes_from_documents(list(documents))


def a_vector_index(faces: Faces, nodes: list[BaseNode]) -> VectorStoreIndex:
    return VectorStoreIndex(nodes, storage_context=faces.context(), embed_model=HashEmbedding())


def a_sibling(kind: str, context: StorageContext, nodes: list[BaseNode]) -> BaseIndex[Any]:
    if kind == "summary":
        return SummaryIndex(nodes, storage_context=context)
    if kind == "keywords":
        return SimpleKeywordTableIndex(nodes, storage_context=context, **options())
    if kind == "tree":
        return TreeIndex(nodes, storage_context=context, num_children=2, **options())
    if kind == "flat tree":
        return TreeIndex(nodes, storage_context=context, num_children=20, **options())
    return DocumentSummaryIndex(nodes, storage_context=context, embed_summaries=False, **options())


def retrieved(kind: str, index: BaseIndex[Any]) -> set[str]:
    """The documents of what the index finds with all that it has."""
    if kind == "keywords":
        hits = index.as_retriever(retriever_mode="simple").retrieve("Sentence version a b c")
    elif kind == "tree" or kind == "flat tree":
        hits = index.as_retriever(retriever_mode="all_leaf").retrieve("Sentence")
    elif kind == "document summary":
        index_struct: Any = index.index_struct
        ids = [i for ids in index_struct.summary_id_to_node_ids.values() for i in ids]
        return {str(node.ref_doc_id) for node in index.docstore.get_nodes(ids)}
    else:
        hits = index.as_retriever().retrieve("Sentence")
    return {hit.node.ref_doc_id for hit in hits if hit.node.ref_doc_id}


KINDS = ["summary", "keywords", "tree", "flat tree", "document summary"]

Deletion = Callable[[Faces, VectorStoreIndex], Any]

DELETIONS: dict[str, Deletion] = {
    "delete_ref_doc": lambda _, vector: vector.delete_ref_doc("a"),
    "delete_ref_doc from docstore": lambda _, vector: vector.delete_ref_doc("a", delete_from_docstore=True),
    "adelete_ref_doc": lambda _, vector: asyncio.run(vector.adelete_ref_doc("a")),
    "delete_nodes": lambda faces, vector: vector.delete_nodes(sorted(faces.nodes_of("a"))),
    "docstore.delete_document": lambda faces, _: faces.context().docstore.delete_document("a"),
    "docstore.delete_ref_doc": lambda faces, _: faces.context().docstore.delete_ref_doc("a"),
}


@pytest.mark.parametrize("deletion", DELETIONS)
def test_siblings_go_on_without_what_another_index_deleted(faces: Faces, deletion: str) -> None:
    nodes = nodes_of(*DOCUMENTS)
    vector = a_vector_index(faces, nodes)
    siblings = {kind: a_sibling(kind, faces.context(), nodes) for kind in KINDS}
    for kind, index in siblings.items():
        assert retrieved(kind, index) == {"a", "b", "c"}
    DELETIONS[deletion](faces, vector)
    for kind, index in siblings.items():
        assert retrieved(kind, index) == {"b", "c"}
        loaded = load_index_from_storage(faces.context(), index.index_id, **options())
        assert named_nodes(loaded.index_struct) == named_nodes(index.index_struct)
    assert {hit.node.ref_doc_id for hit in vector.as_retriever(similarity_top_k=20).retrieve("x")} == {"b", "c"}
    faces.assert_agree()


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_is_loaded_names_live_nodes_alone_and_writes_so(faces: Faces, kind: str) -> None:
    nodes = nodes_of(*DOCUMENTS)
    vector = a_vector_index(faces, nodes)
    index_id = a_sibling(kind, faces.context(), nodes).index_id
    before = faces.sql("SELECT body FROM ragstore.index_struct WHERE index_id = %s", index_id)
    vector.delete_ref_doc("a")
    assert faces.sql("SELECT body FROM ragstore.index_struct WHERE index_id = %s", index_id) == before
    loaded = load_index_from_storage(faces.context(), index_id, **options())
    others = load_indices_from_storage(faces.context(), **options())
    for index in (loaded, *(other for other in others if other.index_id == index_id)):
        gone = {node.node_id for node in nodes if node.ref_doc_id == "a"}
        assert gone.isdisjoint(named_nodes(index.index_struct))
    ((body,),) = faces.sql("SELECT body FROM ragstore.index_struct WHERE index_id = %s", index_id)
    assert not any(node_id in body for node_id in gone)
    assert faces.mongo["index_store/data"].find_one({"_id": index_id})["__data__"] == body  # type: ignore[index]


@pytest.mark.parametrize("kind", ["summary", "keywords", "tree", "document summary"])
def test_an_index_in_memory_goes_on_without_what_another_process_deleted(
    faces: Faces, elsewhere: Faces, kind: str
) -> None:
    index = a_sibling(kind, faces.context(), nodes_of(*DOCUMENTS))
    elsewhere.context().docstore.delete_ref_doc("a")
    assert retrieved(kind, index) == {"b", "c"}
    assert retrieved(kind, index) == {"b", "c"}


def test_a_summary_index_can_be_refreshed_after_another_index_deleted_a_document(faces: Faces) -> None:
    vector = VectorStoreIndex.from_documents(DOCUMENTS, storage_context=faces.context(), **options())
    summary = SummaryIndex.from_documents(DOCUMENTS, storage_context=faces.context(), **options())
    vector.delete_ref_doc("a")
    summary.delete_ref_doc("a")
    assert summary.refresh_ref_docs(DOCUMENTS) == [True, False, False]
    assert retrieved("summary", summary) == {"a", "b", "c"}
    vector.delete_ref_doc("b")
    vector.delete_ref_doc("a")
    vector.delete_ref_doc("c")
    assert retrieved("summary", summary) == set()
    summary.insert(a_document("d"))
    assert retrieved("summary", summary) == {"d"}


def test_user_code_still_hears_of_a_node_that_is_not_there(faces: Faces) -> None:
    SummaryIndex(nodes_of(*DOCUMENTS), storage_context=faces.context())
    with pytest.raises(ValueError, match="unknown not found"):
        faces.context().docstore.get_nodes(["unknown"])


def test_a_struct_whose_nodes_are_in_another_document_store_is_left_alone(faces: Faces) -> None:
    context = faces.context()
    mixed = StorageContext.from_defaults(docstore=SimpleDocumentStore(), index_store=context.index_store)
    index = SummaryIndex(nodes_of(*DOCUMENTS), storage_context=mixed)
    a_vector_index(faces, nodes_of(a_document("x"))).delete_ref_doc("x")
    struct = faces.context().index_store.get_index_struct(index.index_id)
    assert struct is not None and len(named_nodes(struct)) == 9 == len(index.index_struct.nodes)


def test_a_knowledge_graphs_keywords_lose_the_nodes_that_are_gone(faces: Faces) -> None:
    nodes = nodes_of(*DOCUMENTS)
    vector = a_vector_index(faces, nodes)
    with pytest.warns(DeprecationWarning, match="KnowledgeGraphIndex"):
        graph = KnowledgeGraphIndex(
            nodes,
            storage_context=faces.context(),
            kg_triplet_extract_fn=lambda text: [(text, "is", "here")],
            **options(),
        )
    vector.delete_ref_doc("a")
    assert len(named_nodes(graph.index_struct)) == 6
    hits = graph.as_retriever(retriever_mode="keyword").retrieve("here")
    # One of the hits is the triplets themselves.
    assert {hit.node.ref_doc_id for hit in hits} <= {"b", "c", None}


def test_a_tree_stays_one_that_can_be_inserted_into() -> None:
    leaves = [TextNode(id_=f"l{i}", text="") for i in range(4)]
    parents = [TextNode(id_=f"p{i}", text="") for i in range(2)]
    tree = IndexGraph()
    for leaf in leaves:
        tree.insert(leaf)
    for i, parent in enumerate(parents):
        tree.insert(parent, children_nodes=leaves[2 * i : 2 * i + 2])
    tree.root_nodes = {4: "p0", 5: "p1"}
    remove_nodes(tree, {"l0"})
    assert tree.node_id_to_children_ids["p0"] == ["l1"] and tree.root_nodes == {3: "p0", 4: "p1"}
    remove_nodes(tree, {"l1"})
    assert tree.all_nodes == {0: "l2", 1: "l3", 2: "p1"} and tree.root_nodes == {2: "p1"}
    tree.insert_under_parent(TextNode(id_="new", text=""), parents[1])
    assert tree.get_children(parents[1]) == {0: "l2", 1: "l3", 3: "new"}


def a_summary_index(context: StorageContext, *documents: Document, **kwargs: Any) -> DocumentSummaryIndex:
    made = DocumentSummaryIndex.from_documents(list(documents), storage_context=context, **options(), **kwargs)
    assert isinstance(made, DocumentSummaryIndex)
    return made


def test_summaries_with_vectors_are_refused_before_anything_is_stored_beside_a_vector_index(faces: Faces) -> None:
    """Either would find the other's nodes, and a document's summary take the place of its nodes."""
    VectorStoreIndex.from_documents(DOCUMENTS, storage_context=faces.context(), **options())
    before = faces.state()
    for documents in (DOCUMENTS, [a_document("new")]):
        with pytest.raises(UsageError, match="DocumentSummaryIndex") as caught:
            a_summary_index(faces.context(), *documents)
        assert "collection of its own" in caught.value.hint
    assert faces.state() == before
    without = a_summary_index(faces.context(), *DOCUMENTS, embed_summaries=False)
    assert retrieved("document summary", without) == {"a", "b", "c"}
    VectorStoreIndex.from_documents([a_document("d")], storage_context=faces.context(), **options())
    assert faces.texts().total() == 15
    faces.assert_agree()


def test_nodes_with_vectors_are_refused_before_anything_is_stored_beside_summaries(
    faces: Faces, elsewhere: Faces
) -> None:
    summaries = a_summary_index(faces.context(), *DOCUMENTS)
    before = faces.state()
    with pytest.raises(UsageError, match="DocumentSummaryIndex"):
        VectorStoreIndex.from_documents([a_document("d")], storage_context=elsewhere.context(), **options())
    assert faces.state() == before
    summaries.insert(a_document("d", n_sentences=3))
    again = a_summary_index(elsewhere.context(), a_document("a", n_sentences=3))
    hits = again.as_retriever(similarity_top_k=1).retrieve("Sentence 1 of a")
    assert {hit.node.ref_doc_id for hit in hits} == {"a"}
    summaries.delete_ref_doc("d")
    assert retrieved("document summary", summaries) == {"b", "c"}


def test_index_structs_are_found_by_an_index_of_mongodb(faces: Faces) -> None:
    mongo.apply(faces.mongo)
    for i in range(50):
        faces.mongo["index_store/data"].insert_one({"_id": f"other{i}", "collection": "other", "__data__": "x" * 1000})
    faces.context().index_store.add_index_struct(IndexList(index_id="mine"))
    plan = faces.mongo["index_store/data"].find({"collection": "docs", "_id": {"$nin": ["mine"]}}).explain()
    assert plan["executionStats"]["totalDocsExamined"] == 0
    assert [struct.index_id for struct in faces.context().index_store.index_structs()] == ["mine"]
