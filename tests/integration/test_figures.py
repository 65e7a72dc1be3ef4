"""Figures of collections: what is counted, also of nodes that belong to no document."""

from __future__ import annotations

from llama_index.core.schema import TextNode

from ragstore.app import Ragstore
from ragstore.postgres.documents import read_gauges
from tests.support.internals import pool_of
from tests.support.llama_faces import DIM, HashEmbedding, a_document, a_splitter


def test_nodes_without_a_document_count_as_nodes(store: Ragstore) -> None:
    for name in ("empty", "docs", "both"):
        store.create_collection(name, model="external", dim=DIM)
    nodes = [TextNode(id_=f"n{i}", text=f"text {i}", embedding=[float(i + 1)] * DIM) for i in range(30)]
    store.storage_context("docs").vector_store.add(nodes)
    store.storage_context("both").vector_store.add(nodes[:5])
    index = store.index("both", embed_model=HashEmbedding())
    index._transformations = [a_splitter()]
    index.insert(a_document("a"))
    figures = {each.name: (each.documents, each.nodes) for each in store.collections()}
    assert figures == {"empty": (0, 0), "docs": (0, 30), "both": (1, 11)}
    gauges = {each.name: (each.n_documents, each.n_nodes) for each in read_gauges(pool_of(store)).collections}
    assert gauges == figures
    # They are no document, in LlamaIndex either.
    assert store.index("docs", embed_model=HashEmbedding()).ref_doc_info == {}
    store.storage_context("docs").vector_store.delete_nodes(["n1", "n2"])
    assert {each.name: each.nodes for each in store.collections()} == {"empty": 0, "docs": 28, "both": 11}


def test_a_collection_whose_table_is_lost_is_still_listed(store: Ragstore) -> None:
    store.create_collection("docs", model="external", dim=DIM)
    store.create_collection("lost", model="external", dim=DIM)
    with pool_of(store).transaction() as cursor:
        cursor.execute("DROP TABLE ragstore.data_lost")
    assert {each.name: each.nodes for each in store.collections()} == {"docs": 0, "lost": 0}
