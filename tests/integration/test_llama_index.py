"""VectorStoreIndex on ragstore's stores: building, inserting, updating, deleting, loading."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy
from llama_index.core import Document, StorageContext, SummaryIndex, VectorStoreIndex, load_index_from_storage
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.schema import IndexNode, NodeRelationship, TextNode
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.errors import UsageError
from ragstore.protocol.indexing import Indexer
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_splitter, faces_on
from tests.support.segments import SEGMENTS
from tests.support.servers import Servers

pytestmark = pytest.mark.on_both


def an_index(context: StorageContext, *documents: Document, **kwargs: Any) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        list(documents),
        storage_context=context,
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
        **kwargs,
    )


def test_building_an_index_puts_its_nodes_into_both_databases(faces: Faces) -> None:
    documents = [a_document("a"), a_document("b")]
    an_index(faces.context(), *documents)
    faces.assert_holds(*documents)


def test_building_an_index_again_doubles_nothing(faces: Faces) -> None:
    documents = [a_document("a"), a_document("b"), a_document("c")]
    for _ in range(2):
        an_index(faces.context(), *documents)
    context = faces.context()
    for _ in range(2):
        an_index(context, *documents)
    faces.assert_holds(*documents)


def test_building_an_index_again_with_changed_documents_replaces_them(faces: Faces) -> None:
    an_index(faces.context(), a_document("a"), a_document("b"))
    an_index(faces.context(), a_document("a", version=2), a_document("c"))
    faces.assert_holds(a_document("a", version=2), a_document("b"), a_document("c"))


def test_a_document_that_is_cut_into_several_batches_is_whole(faces: Faces) -> None:
    documents = [a_document("a", n_sentences=17), a_document("b", n_sentences=9)]
    for _ in range(2):
        an_index(faces.context(), *documents, insert_batch_size=4)
    faces.assert_holds(*documents)


@pytest.mark.parametrize("use_async", [False, True])
@pytest.mark.parametrize("override", [False, True])
def test_the_ways_to_build_an_index_hold_the_same(faces: Faces, use_async: bool, override: bool) -> None:
    documents = [a_document("a"), a_document("b")]
    for _ in range(2):
        an_index(faces.context(), *documents, use_async=use_async, store_nodes_override=override)
    faces.assert_holds(*documents)


def test_inserting_a_document_again_replaces_it(faces: Faces) -> None:
    index = faces.index()
    for _ in range(2):
        index.insert(a_document("a"))
    faces.index().insert(a_document("a", version=2))
    faces.assert_holds(a_document("a", version=2))


def test_refresh_adds_updates_and_leaves_alone(faces: Faces) -> None:
    index = faces.index()
    assert index.refresh_ref_docs([a_document("a"), a_document("b")]) == [True, True]
    before = faces.nodes_of("a")
    assert faces.index().refresh_ref_docs([a_document("a"), a_document("b", version=2)]) == [False, True]
    assert faces.nodes_of("a") == before
    faces.assert_holds(a_document("a"), a_document("b", version=2))


def test_refresh_on_a_plain_index_adds_updates_and_leaves_alone(faces: Faces) -> None:
    index = an_index(faces.context(), a_document("a"), a_document("b"))
    assert index.refresh_ref_docs([a_document("a"), a_document("b", version=2), a_document("c")]) == [False, True, True]
    faces.assert_holds(a_document("a"), a_document("b", version=2), a_document("c"))


def test_deleting_a_document_removes_it_from_both_databases_and_it_can_come_back(faces: Faces) -> None:
    index = an_index(faces.context(), a_document("a"), a_document("b"))
    index.delete_ref_doc("a", delete_from_docstore=True)
    faces.assert_holds(a_document("b"))
    assert index.refresh_ref_docs([a_document("a")]) == [True]
    faces.assert_holds(a_document("a"), a_document("b"))


@pytest.mark.parametrize("override", [False, True])
def test_deleting_nodes_keeps_the_others_of_the_document(faces: Faces, override: bool) -> None:
    index = an_index(faces.context(), a_document("a"), store_nodes_override=override)
    gone, *rest = sorted(faces.nodes_of("a"))
    index.delete_nodes([gone], delete_from_docstore=True)
    assert faces.nodes_of("a") == set(rest)
    faces.assert_agree()
    index.delete_nodes(rest, delete_from_docstore=True)
    assert faces.hashes() == {}
    faces.assert_holds()


def test_a_failed_build_is_not_taken_for_a_complete_one(faces: Faces) -> None:
    class Broken(HashEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            if "version 2" in text:
                raise ConnectionError("no model")
            return super()._get_text_embedding(text)

    context = faces.context()
    an_index(context, a_document("a"))
    with pytest.raises(ConnectionError):
        VectorStoreIndex.from_documents(
            [a_document("a", version=2), a_document("b")],
            storage_context=context,
            embed_model=Broken(),
            transformations=[a_splitter()],
            insert_batch_size=2,
        )
    faces.assert_holds(a_document("a"))
    index = faces.index()
    assert index.refresh_ref_docs([a_document("a", version=2), a_document("b")]) == [True, True]
    faces.assert_holds(a_document("a", version=2), a_document("b"))


def test_nodes_inserted_in_several_calls_add_up(faces: Faces) -> None:
    nodes = a_splitter().get_nodes_from_documents([a_document("a")])
    index = faces.index()
    index.insert_nodes(nodes[:2])
    index.insert_nodes(nodes[2:])
    faces.index().insert_nodes([TextNode(text="extra", relationships=nodes[0].relationships)])
    assert faces.texts() == Counter([*(n.get_content() for n in nodes), "extra"])
    faces.assert_agree()


def test_the_same_ids_added_three_times_are_there_once_with_the_last_text(faces: Faces) -> None:
    nodes = a_splitter().get_nodes_from_documents([a_document("a")])
    index = faces.index()
    for i in range(3):
        nodes[0].set_content(f"Text number {i}")
        index.insert_nodes(nodes)
    assert faces.texts() == Counter(n.get_content() for n in nodes)
    faces.assert_agree()
    hits = index.as_retriever(similarity_top_k=6).retrieve("Text number")
    assert len({hit.node_id for hit in hits}) == 6


def test_the_same_id_twice_in_one_call_is_there_once_with_the_last_text(faces: Faces) -> None:
    faces.index().insert_nodes([TextNode(id_="n", text="first"), TextNode(id_="n", text="last")])
    assert faces.texts() == Counter(["last"])
    faces.assert_agree()


def test_a_node_can_move_to_another_document(faces: Faces) -> None:
    a, b = a_document("a"), a_document("b")
    index = faces.index()
    for document in (a, b):
        node = TextNode(
            id_="n", text="moving", relationships={NodeRelationship.SOURCE: document.as_related_node_info()}
        )
        index.insert_nodes([node])
    assert faces.nodes_of("b") == {"n"} and faces.nodes_of("a") == set()
    assert set(faces.hashes()) == {"b"}
    faces.assert_agree()


def test_the_index_knows_its_documents(faces: Faces) -> None:
    an_index(faces.context(), a_document("a", author="Ann"), a_document("b"))
    info = faces.index().ref_doc_info
    assert set(info) == {"a", "b"}
    assert set(info["a"].node_ids) == faces.nodes_of("a")
    assert info["a"].metadata["author"] == "Ann"
    texts = [node.get_content() for node in faces.context().docstore.get_nodes(info["a"].node_ids)]
    assert texts == [node.get_content() for node in a_splitter().get_nodes_from_documents([a_document("a")])]


def test_loading_finds_the_index_with_and_without_its_id_and_writes_nothing(faces: Faces) -> None:
    an_index(faces.context(), a_document("a"))
    before = faces.state()
    for kwargs in ({}, {"index_id": "docs"}):
        index = load_index_from_storage(faces.context(), embed_model=HashEmbedding(), **kwargs)
        assert index.index_id == "docs"
        assert index.as_retriever().retrieve("Sentence 1 of a")
    with pytest.raises(ValueError, match="Failed to load index"):
        load_index_from_storage(faces.context(), index_id="unknown", embed_model=HashEmbedding())
    assert faces.state() == before


def test_an_index_can_be_loaded_where_none_was_built(faces: Faces) -> None:
    index = load_index_from_storage(faces.context(), index_id="docs", embed_model=HashEmbedding())
    assert index.as_retriever().retrieve("anything") == []
    assert list(faces.mongo["index_store/data"].find()) == []


def test_an_index_keeps_the_id_it_was_given(faces: Faces) -> None:
    index = an_index(faces.context(), a_document("a"))
    index.set_index_id("mine")
    an_index(faces.context(), a_document("b"))
    for kwargs in ({"index_id": "mine"}, {"index_id": "docs"}, {}):
        loaded = load_index_from_storage(faces.context(), embed_model=HashEmbedding(), **kwargs)
        assert len(loaded.as_retriever(similarity_top_k=20).retrieve("Sentence")) == 12


def test_the_struct_stays_small_and_alone_whatever_is_added(faces: Faces) -> None:
    for i in range(3):
        index = an_index(faces.context(), *(a_document(f"d{i}-{j}") for j in range(20)), store_nodes_override=True)
        index.insert_nodes([IndexNode(text="pointer", index_id="elsewhere", id_=f"pointer{i}")])
    (struct,) = faces.mongo["index_store/data"].find()
    assert len(str(struct)) < 1000
    # A retriever names the struct's nodes in its query: were there any, it would find only those.
    assert len(index.as_retriever(similarity_top_k=50).retrieve("Sentence 1")) == 50


def test_two_kinds_of_index_on_the_same_documents_do_not_disturb_each_other(faces: Faces) -> None:
    context = faces.context()
    vector = an_index(context, a_document("a"))
    summary = SummaryIndex.from_documents([a_document("a")], storage_context=context, transformations=[a_splitter()])
    assert faces.texts().total() == 6
    an_index(faces.context(), a_document("a"))
    assert faces.texts().total() == 6
    loaded = load_index_from_storage(faces.context(), index_id=summary.index_id)
    assert len(loaded.as_retriever().retrieve("all of it")) == 6
    assert len(vector.as_retriever(similarity_top_k=20).retrieve("Sentence")) == 6
    faces.assert_agree()


def test_collections_do_not_see_each_others_nodes(
    faces: Faces, test_servers: Servers, mongo_database: Database[dict[str, Any]]
) -> None:
    an_index(faces.context(), a_document("a"))
    with faces_on(faces.postgres_url, test_servers.mongo_url, mongo_database.name, name="other") as other:
        assert other.index().as_retriever().retrieve("Sentence") == []
        an_index(other.context(), a_document("a", version=2))
        other.index().delete_ref_doc("a")
    faces.assert_agree()
    assert faces.texts().total() == 6


def test_a_collection_that_grows_gets_its_index(faces: Faces) -> None:
    indexer = Indexer(faces.backend.pool.another(size=2), min_nodes=500, memory_mb=64)
    faces.backend = replace(faces.backend, indexer=indexer)
    context = faces.context()
    documents = [a_document(f"d{i}", n_sentences=20) for i in range(60)]
    index = an_index(context, *documents)
    indexer.close()
    assert [is_there for _, is_there in faces.sql(SEGMENTS)] == [True]
    hits = index.as_retriever(similarity_top_k=3).retrieve("Sentence 7 of d9 in version 1 is here.")
    assert hits[0].node.get_content() == "Sentence 7 of d9 in version 1 is here."
    faces.assert_holds(*documents)


def test_code_below_the_vector_store_works_on_the_pool_of_the_process(faces: Faces) -> None:
    store = faces.context().vector_store
    for _ in range(20):
        with store.client.connect() as connection:
            assert (
                connection.execute(sqlalchemy.text("SELECT current_setting('application_name')")).scalar() == "ragstore"
            )
    assert "ragstore:" not in repr(store) and "password" not in repr(store)


def test_an_opened_store_gives_contexts_and_an_index_that_share_what_they_know(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=DIM)
    documents = [a_document("a"), a_document("b")]
    for _ in range(2):
        an_index(store.storage_context("docs"), *documents)
    index = store.index("docs", embed_model=HashEmbedding())
    assert index.refresh_ref_docs(documents) == [False, False]
    assert {state.document_id: state.n_nodes for state in store.documents("docs")} == {"a": 6, "b": 6}
    assert [event.action for event in store.history("a", "docs")] == ["added", "completed", "updated", "completed"]
    embedding = HashEmbedding().get_query_embedding("Sentence 2 of b in version 1 is here.")
    hits = store.query("Sentence", collection="docs", embedding=embedding, mode="vector", top_k=1)
    assert [(hit.document_id, hit.text) for hit in hits] == [("b", "Sentence 2 of b in version 1 is here.")]
    assert store.delete("a", collection="docs") == 1
    assert store.storage_context("docs").docstore.get_document_hash("a") is None
    with pytest.raises(UsageError, match="embed_model"):
        store.index("docs")


def test_the_struct_of_a_loaded_index_equals_that_of_the_built_one(faces: Faces) -> None:
    """As upstream's test of an index that is inserted into, saved and loaded."""
    built = an_index(faces.context(), a_document("a"))
    built.insert(a_document("b"))
    loaded = load_index_from_storage(faces.context(), embed_model=HashEmbedding())
    assert loaded.index_struct == built.index_struct
    assert built.index_struct == loaded.index_struct
    assert loaded.index_struct == faces.index().index_struct
    assert loaded.index_struct != IndexDict(index_id="other")
    assert loaded.index_struct != "docs"


def test_every_vector_index_knows_its_documents_however_it_was_made(faces: Faces) -> None:
    built = an_index(faces.context(), a_document("a", color="red"), a_document("b"))
    override = an_index(faces.context(), a_document("a", color="red"), store_nodes_override=True)
    on_store = VectorStoreIndex.from_vector_store(faces.context().vector_store, embed_model=HashEmbedding())
    expected = faces.index().ref_doc_info
    assert set(expected) == {"a", "b"} and expected["a"].metadata == {"color": "red"}
    assert built.ref_doc_info == override.ref_doc_info == on_store.ref_doc_info == expected
    # LlamaIndex's own stores answer as before.
    memory = VectorStoreIndex.from_documents([a_document("m")], embed_model=HashEmbedding())
    assert set(memory.ref_doc_info) == {"m"}


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_copying_what_holds_connections_is_refused_by_its_name(faces: Faces, copied: Callable[[Any], Any]) -> None:
    context = faces.context()
    for store in (
        context.docstore,
        context.vector_store,
        context.index_store,
        context.graph_store,
        context.property_graph_store,
        faces.index(),
    ):
        with pytest.raises(UsageError, match=r"Ragstore.*holds ragstore's connections") as caught:
            copied(store)
        assert "storage_context" in caught.value.hint


def test_hybrid_gives_as_many_hits_as_pgvectorstore_at_most(faces: Faces) -> None:
    index = an_index(faces.context(), *(a_document(name) for name in "abc"))

    def n_hits(**kwargs: int) -> int:
        retriever = index.as_retriever(vector_store_query_mode="hybrid", **kwargs)
        return len(retriever.retrieve("Sentence of version"))

    assert n_hits(similarity_top_k=2) == 2
    assert n_hits(similarity_top_k=2, sparse_top_k=10) == 12
    assert n_hits(similarity_top_k=2, sparse_top_k=10, hybrid_top_k=6) == 6
    assert n_hits(similarity_top_k=2, hybrid_top_k=5) == 5
    assert n_hits(similarity_top_k=2, sparse_top_k=1_000) == 18
