"""Retrievers on ragstore's vector store: modes, filters, restrictions, and nodes that come back whole."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import Document, QueryBundle, VectorStoreIndex
from llama_index.core.node_parser import SentenceWindowNodeParser, get_leaf_nodes
from llama_index.core.postprocessor import MetadataReplacementPostProcessor, PrevNextNodePostprocessor
from llama_index.core.retrievers import AutoMergingRetriever, RecursiveRetriever, VectorIndexRetriever
from llama_index.core.schema import IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from ragstore.errors import EmbeddingSpaceError, FilterError, UsageError
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_hierarchy, a_splitter

pytestmark = pytest.mark.on_both


@pytest.fixture
def animals(faces: Faces) -> VectorStoreIndex:
    """Four documents of three nodes each, with metadata of each kind."""
    index = faces.index()
    for i, name in enumerate(("cat", "dog", "emu", "O'Brien's fox")):
        document = Document(
            id_=name,
            text=f"The {name} sleeps. The {name} eats. The {name} runs.",
            metadata={"animal": name, "legs": 2 if name == "emu" else 4, "code": f"0{7000 + i}", "tags": [name, "all"]},
        )
        index.insert(document)
    return index


def names(hits: Any) -> set[str]:
    return {hit.node.metadata["animal"] for hit in hits}


def only(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


def test_the_nearest_nodes_come_first_and_whole(animals: VectorStoreIndex) -> None:
    hits = animals.as_retriever(similarity_top_k=5).retrieve("animal: dog The dog eats.")
    assert hits[0].node.get_content() == "The dog eats."
    assert [hit.score for hit in hits] == sorted((hit.score or 0.0 for hit in hits), reverse=True)
    node = hits[0].node
    assert node.ref_doc_id == "dog" and node.prev_node and node.next_node and node.metadata["legs"] == 4
    assert len(hits) == 5


@pytest.mark.parametrize(
    ("key", "value", "operator", "expected"),
    [
        ("animal", "dog", "==", {"dog"}),
        ("animal", "O'Brien's fox", "==", {"O'Brien's fox"}),
        ("animal", "x' OR '1'='1", "==", set()),
        ("animal", "dog", "!=", {"cat", "emu", "O'Brien's fox"}),
        ("animal", ["dog", "emu"], "in", {"dog", "emu"}),
        ("animal", ["dog", "emu"], "nin", {"cat", "O'Brien's fox"}),
        ("legs", 3, ">", {"cat", "dog", "O'Brien's fox"}),
        ("legs", 2, "<=", {"emu"}),
        ("code", "07001", "==", {"dog"}),
        ("code", 7001, "==", set()),
        ("tags", "emu", "contains", {"emu"}),
        ("tags", ["emu", "cat"], "any", {"emu", "cat"}),
        ("tags", ["emu", "all"], "all", {"emu"}),
        ("animal", "BRIEN", "text_match_insensitive", {"O'Brien's fox"}),
        ("unknown", None, "is_empty", {"cat", "dog", "emu", "O'Brien's fox"}),
        ("ref_doc_id", "cat", "==", {"cat"}),
    ],
)
def test_filters_find_what_matches(
    faces: Faces, animals: VectorStoreIndex, key: str, value: Any, operator: str, expected: set[str]
) -> None:
    filters = only(key, value, FilterOperator(operator))
    retriever = animals.as_retriever(similarity_top_k=12, filters=filters)
    hits = retriever.retrieve("The cat eats.")
    assert names(hits) == expected
    assert len(hits) == 3 * len(expected)
    found = faces.context().vector_store.get_nodes(filters=filters)
    assert {node.node_id for node in found} == {hit.node_id for hit in hits}


def test_conditions_join_filters(animals: VectorStoreIndex) -> None:
    for condition, expected in (
        (FilterCondition.AND, set()),
        (FilterCondition.OR, {"cat", "dog"}),
        (FilterCondition.NOT, {"emu", "O'Brien's fox"}),
    ):
        filters = MetadataFilters(
            filters=[*only("animal", "cat").filters, *only("animal", "dog").filters], condition=condition
        )
        assert names(animals.as_retriever(similarity_top_k=12, filters=filters).retrieve("eats")) == expected


def test_document_and_node_ids_restrict_a_query(faces: Faces, animals: VectorStoreIndex) -> None:
    assert names(animals.as_retriever(similarity_top_k=12, doc_ids=["cat", "emu"]).retrieve("The dog eats.")) == {
        "cat",
        "emu",
    }
    assert animals.as_retriever(similarity_top_k=12, doc_ids=[]).retrieve("The dog eats.") == []
    wanted = sorted(faces.nodes_of("dog"))[:2]
    result = animals.vector_store.query(
        VectorStoreQuery(query_embedding=[1.0] * DIM, similarity_top_k=12, node_ids=wanted)
    )
    assert sorted(result.ids or []) == wanted


@pytest.mark.parametrize("mode", ["sparse", "text_search"])
def test_words_are_found_without_an_embedding(animals: VectorStoreIndex, mode: str) -> None:
    hits = animals.as_retriever(vector_store_query_mode=mode, sparse_top_k=12).retrieve("dog")
    assert names(hits) == {"dog"} and len(hits) == 3


def test_hybrid_goes_from_words_alone_to_vectors_alone(animals: VectorStoreIndex) -> None:
    embedding = HashEmbedding().get_query_embedding("animal: cat The cat sleeps.")

    def best(alpha: float | None) -> list[str]:
        retriever = animals.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=12, alpha=alpha)
        return [hit.node.metadata["animal"] for hit in retriever.retrieve(QueryBundle("dog", embedding=embedding))]

    assert set(best(0)) == {"dog"}
    assert best(1)[0] == "cat" and len(best(1)) == 12
    assert best(0.99)[0] == "cat" and best(0.01)[0] == "dog"
    assert len(best(None)) == 12
    with pytest.raises(UsageError):
        best(1.5)


def test_maximal_marginal_relevance_gives_different_nodes(faces: Faces) -> None:
    nodes = [TextNode(id_=f"same{i}", text="one", embedding=[1.0] * DIM) for i in range(5)]
    nodes.append(TextNode(id_="other", text="two", embedding=[1.0] * (DIM - 1) + [-3.0]))
    store = faces.context().vector_store
    store.add(nodes)
    query = VectorStoreQuery(query_embedding=[1.0] * DIM, similarity_top_k=2, mode=VectorStoreQueryMode.MMR)
    assert "other" in (store.query(query, mmr_threshold=0.3).ids or [])
    assert "other" not in (store.query(query, mmr_threshold=1.0).ids or [])


def test_what_cannot_be_asked_is_refused(animals: VectorStoreIndex) -> None:
    store = animals.vector_store
    with pytest.raises(EmbeddingSpaceError):
        store.query(VectorStoreQuery(query_embedding=[1.0], similarity_top_k=1))
    with pytest.raises(UsageError):
        store.query(VectorStoreQuery(query_embedding=[1.0] * DIM, mode=VectorStoreQueryMode.SVM))
    with pytest.raises(UsageError):
        store.get_nodes()
    with pytest.raises(FilterError):
        store.get_nodes(filters=only("tags", 3, FilterOperator.IN))


def test_nodes_are_deleted_by_ids_and_filters_together(faces: Faces, animals: VectorStoreIndex) -> None:
    store = faces.context().vector_store
    store.delete_nodes()
    store.delete_nodes([])
    store.delete_nodes(filters=MetadataFilters(filters=[]))
    assert faces.texts().total() == 12
    dogs = sorted(faces.nodes_of("dog"))
    store.delete_nodes(dogs[:1] + sorted(faces.nodes_of("cat")), filters=only("animal", "dog"))
    assert faces.texts().total() == 11 and faces.nodes_of("dog") == set(dogs[1:])
    store.delete_nodes(filters=only("animal", "x' OR '1'='1"))
    store.delete_nodes(filters=only("legs", 4))
    assert names(animals.as_retriever(similarity_top_k=12).retrieve("eats")) == {"emu"}
    faces.assert_agree()


def test_parents_replace_their_leaves_in_an_auto_merging_retriever(faces: Faces) -> None:
    document = Document(id_="d", text=" ".join(f"word{i}" for i in range(128)))
    nodes = a_hierarchy().get_nodes_from_documents([document])
    context = faces.context()
    context.docstore.add_documents(nodes)
    index = VectorStoreIndex(get_leaf_nodes(nodes), storage_context=context, embed_model=HashEmbedding())
    leaves = index.as_retriever(similarity_top_k=4)
    assert isinstance(leaves, VectorIndexRetriever)
    retriever = AutoMergingRetriever(leaves, faces.context())
    (hit,) = retriever.retrieve("word1 word40 word70 word100")
    assert hit.node.get_content() == document.text


def test_index_nodes_lead_to_the_nodes_they_stand_for(faces: Faces) -> None:
    context = faces.context()
    context.docstore.add_documents([TextNode(id_="table", text="the whole table")])
    index = VectorStoreIndex(
        [IndexNode(id_="pointer", text="summary of a table", index_id="table")],
        storage_context=context,
        embed_model=HashEmbedding(),
    )
    retriever = RecursiveRetriever(
        "vector",
        retriever_dict={"vector": index.as_retriever()},
        node_dict={"table": context.docstore.get_node("table")},
    )
    assert [hit.node.get_content() for hit in retriever.retrieve("summary")] == ["the whole table"]


def test_a_sentence_brings_its_window(faces: Faces) -> None:
    parser = SentenceWindowNodeParser.from_defaults(
        sentence_splitter=lambda text: [f"{s.strip()}. " for s in text.split(".") if s.strip()], window_size=1
    )
    index = VectorStoreIndex.from_documents(
        [a_document("a")], storage_context=faces.context(), embed_model=HashEmbedding(), transformations=[parser]
    )
    hits = index.as_retriever(similarity_top_k=1).retrieve("Sentence 3 of a in version 1 is here.")
    (shown,) = MetadataReplacementPostProcessor(target_metadata_key="window").postprocess_nodes(hits)
    assert "Sentence 2" in shown.get_content() and "Sentence 4" in shown.get_content()


def test_neighbours_are_found_in_the_document_store(faces: Faces) -> None:
    index = VectorStoreIndex.from_documents(
        [a_document("a")], storage_context=faces.context(), embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    hits = index.as_retriever(similarity_top_k=1).retrieve("Sentence 3 of a in version 1 is here.")
    around = PrevNextNodePostprocessor(docstore=faces.context().docstore, num_nodes=1, mode="both").postprocess_nodes(
        hits
    )
    assert [hit.get_content()[:10] for hit in around] == ["Sentence 2", "Sentence 3", "Sentence 4"]


def test_a_users_own_document_keys_are_kept(faces: Faces) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d")}
    metadata = {"doc_id": "mine", "document_id": 7, "ref_doc_id": None}
    faces.index().insert_nodes([TextNode(id_="n", text="t", metadata=metadata, relationships=source)])
    assert faces.context().docstore.get_node("n").metadata == metadata
    (hit,) = faces.index().as_retriever().retrieve("t")
    assert hit.node.metadata == metadata and hit.node.ref_doc_id == "d"
