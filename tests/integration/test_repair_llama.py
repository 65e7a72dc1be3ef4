"""repair: nodes that LlamaIndex code put, with and without a vector, with and without a source."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import Document, StorageContext
from llama_index.core.schema import NodeRelationship, TextNode
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.model.drift import Kind
from ragstore.settings import Settings
from tests.support.corpus import a_text
from tests.support.llama_faces import a_hierarchy, a_splitter
from tests.support.parts import execute

COLLECTION = "docs"


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection(COLLECTION)
    return store


def a_mixed_collection(rs: Ragstore) -> list[str]:
    """Documents with metadata, a hierarchy whose parents have no vector, nodes without a source; their texts."""
    index = rs.index(COLLECTION)
    index._transformations = [a_splitter()]
    for i in range(3):
        index.insert(Document(text=a_text(i, 6), id_=f"doc-{i}", metadata={"tenant": f"t{i}", "year": 2020 + i}))
    tree = Document(text=a_text("tree", 16), id_="tree", metadata={"kind": "tree"})
    nodes = a_hierarchy().get_nodes_from_documents([tree])
    index.docstore.add_documents([*nodes, tree])
    index.insert_nodes([node for node in nodes if NodeRelationship.CHILD not in node.relationships])
    index.insert_nodes([TextNode(text=a_text(f"alone {i}", 2), id_=f"alone-{i}", metadata={"n": i}) for i in range(4)])
    return [a_text(i, 6)[:80] for i in range(3)] + [a_text(f"alone {i}", 2)[:80] for i in range(4)]


def answers(rs: Ragstore, questions: list[str]) -> list[list[tuple[str, float]]]:
    index = rs.index(COLLECTION)
    retriever = index.as_retriever(similarity_top_k=5)
    return [[(hit.node_id, round(hit.score or 0.0, 5)) for hit in retriever.retrieve(q)] for q in questions]


def held(rs: Ragstore) -> Any:
    context: StorageContext = rs.storage_context(COLLECTION)
    docs = {node_id: node.to_dict() for node_id, node in context.docstore.docs.items()}
    infos = {i: (info.node_ids, info.metadata) for i, info in (context.docstore.get_all_ref_doc_info() or {}).items()}
    return docs, infos, {i: context.docstore.get_document_hash(i) for i in infos}


def assert_ok(rs: Ragstore) -> None:
    report = rs.verify(deep=True)
    assert report.ok, report.drift.as_dict()


def test_a_collection_of_llama_index_code_is_sound(rs: Ragstore) -> None:
    a_mixed_collection(rs)
    assert_ok(rs)
    assert rs.verify().ok


def test_a_lost_mongo_database_is_rebuilt(rs: Ragstore, mongo_database: Database[dict[str, Any]]) -> None:
    questions = a_mixed_collection(rs)
    before, hits = held(rs), answers(rs, questions)
    mongo_database.client.drop_database(mongo_database.name)
    report = rs.repair()
    assert report.ok, report.as_dict()
    assert report.embedded == 0
    assert (held(rs), answers(rs, questions)) == (before, hits)
    assert_ok(rs)


def test_a_dropped_table_comes_back_with_the_same_hits(rs: Ragstore, settings: Settings) -> None:
    questions = a_mixed_collection(rs)
    before, hits = held(rs), answers(rs, questions)
    execute(settings, "DROP TABLE ragstore.data_docs")
    report = rs.repair()
    assert report.ok, report.as_dict()
    assert report.embedded > 0
    assert (held(rs), answers(rs, questions)) == (before, hits)
    assert_ok(rs)


def test_lost_bodies_come_back(rs: Ragstore, settings: Settings) -> None:
    a_mixed_collection(rs)
    before = held(rs)
    assert execute(settings, "DELETE FROM ragstore.body RETURNING 1")
    report = rs.repair()
    assert report.ok, report.as_dict()
    assert report.embedded == 0
    assert held(rs) == before
    assert_ok(rs)


@pytest.mark.parametrize("name", ["doc-0", "tree"])
def test_a_document_lost_with_all_its_rows_comes_back(name: str, rs: Ragstore, settings: Settings) -> None:
    questions = a_mixed_collection(rs)
    before, hits = held(rs), answers(rs, questions)
    for table in ("data_docs", "body", "document"):
        execute(settings, f"DELETE FROM ragstore.{table} WHERE document_id = %s", (name,))
    report = rs.repair()
    assert report.ok, report.as_dict()
    assert (held(rs), answers(rs, questions)) == (before, hits)
    assert_ok(rs)


def test_vectors_from_outside_cannot_be_computed_and_are_reported(store: Ragstore, settings: Settings) -> None:
    store.create_collection("own", model="external", dim=3)
    context = store.storage_context("own")
    nodes = [TextNode(text=f"text {i}", id_=f"n{i}", embedding=[1.0, float(i), 0.0]) for i in range(3)]
    context.vector_store.add(nodes)
    execute(settings, "DELETE FROM ragstore.data_own WHERE node_id = 'n1'")
    report = store.repair()
    assert not report.ok
    assert report.kept.counts == {Kind.MISSING_IN_POSTGRES: 1}
    assert "came from outside" in report.kept.examples[Kind.MISSING_IN_POSTGRES][0]
    context.vector_store.add([nodes[1]])
    assert_ok(store)


def test_a_zero_vector_from_outside_is_its_makers_wish(store: Ragstore) -> None:
    store.create_collection("own", model="external", dim=3)
    store.storage_context("own").vector_store.add([TextNode(text="zero", id_="zero", embedding=[0.0, 0.0, 0.0])])
    assert_ok(store)


def test_what_was_deleted_does_not_come_back(rs: Ragstore, mongo_database: Database[dict[str, Any]]) -> None:
    a_mixed_collection(rs)
    bodies = list(mongo_database[f"{COLLECTION}/data"].find({"__data__.relationships.1.node_id": "doc-0"}))
    rs.storage_context(COLLECTION).docstore.delete_ref_doc("doc-0")
    before = held(rs)
    mongo_database[f"{COLLECTION}/data"].insert_many(bodies)
    report = rs.repair()
    assert report.repaired.counts == {Kind.ORPHAN_IN_MONGO: len(bodies)}
    assert held(rs) == before
    assert_ok(rs)


def test_another_process_finds_what_was_repaired(settings: Settings, rs: Ragstore) -> None:
    questions = a_mixed_collection(rs)
    hits = answers(rs, questions)
    execute(settings, "DROP TABLE ragstore.data_docs")
    with ragstore.open(settings) as other:
        assert other.repair().ok
    assert answers(rs, questions) == hits
