"""Long vectors: up to 4,000 dimensions, of which the segments have float16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from llama_index.core.graph_stores.types import EntityNode
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.errors import InvalidNodeError, UsageError
from tests.support.children import until
from tests.support.internals import trees_above
from tests.support.llama_faces import Faces, faces_on, fetch
from tests.support.segments import N_SCANS, merge_at_rest, seal
from tests.support.servers import Servers

pytestmark = pytest.mark.on_both


@pytest.fixture
def databases(
    test_servers: Servers, postgres_database: str, mongo_database: Database[dict[str, Any]]
) -> tuple[str, str, str]:
    return postgres_database, test_servers.mongo_url, mongo_database.name


@contextmanager
def a_collection_of(databases: tuple[str, str, str], dim: int) -> Iterator[Faces]:
    with faces_on(*databases, dim=dim) as faces:
        yield faces


def index(faces: Faces) -> None:
    """One segment, a tree of cells where there are more than 25 nodes."""
    with trees_above(25 * faces.collection.space.dim):
        assert seal(faces.backend.pool, faces.collection)
        merge_at_rest(faces.backend.pool, faces.collection)


def some_nodes(n: int, dim: int) -> list[TextNode]:
    rng = np.random.default_rng(1)
    return [TextNode(id_=f"n{i}", text=f"text {i}", embedding=rng.normal(size=dim).tolist()) for i in range(n)]


@pytest.mark.parametrize("dim", [1_000, 1_001, 2_000, 2_001, 4_000])
def test_a_query_uses_the_index_and_finds_the_nearest(databases: tuple[str, str, str], dim: int) -> None:
    nodes = some_nodes(300, dim)
    with a_collection_of(databases, dim) as faces:
        faces.context().vector_store.add(nodes)
        index(faces)
    with a_collection_of(databases, dim) as faces:
        store = faces.context().vector_store
        for node in nodes[:5]:
            found = store.query(VectorStoreQuery(query_embedding=node.embedding, similarity_top_k=3))
            assert (found.ids or [])[0] == node.node_id
            assert (found.similarities or [])[0] == pytest.approx(1.0, abs=1e-5), "ranked at full precision"
    # PostgreSQL counts a connection's scans when it ends.
    until(lambda: fetch(databases[0], N_SCANS)[0][0] >= 10, what="the index was scanned for each query")


@pytest.mark.parametrize("dim", [1_000, 1_001, 2_001])
@pytest.mark.parametrize("factor", [1e6, 1e-9])
def test_vectors_that_float16_could_not_hold_are_stored_and_found_by_the_index(
    databases: tuple[str, str, str], dim: int, factor: float
) -> None:
    nodes = some_nodes(300, dim)
    for node in nodes:
        node.embedding = [factor * x for x in node.embedding or []]
    with a_collection_of(databases, dim) as faces:
        faces.context().vector_store.add(nodes)
        index(faces)
    with a_collection_of(databases, dim) as faces:
        store = faces.context().vector_store
        for node in nodes[:5]:
            found = store.query(VectorStoreQuery(query_embedding=node.embedding, similarity_top_k=3))
            assert (found.ids or [])[0] == node.node_id
        stored = store.get_nodes(["n1"])[0].embedding
        assert stored == np.array(nodes[1].embedding, dtype=np.float32).tolist()
    until(lambda: fetch(databases[0], N_SCANS)[0][0] >= 10, what="the index was scanned for each query")


def test_a_zero_vector_is_stored_and_found_with_a_segment_of_float16(databases: tuple[str, str, str]) -> None:
    with a_collection_of(databases, 1_001) as faces:
        nodes = some_nodes(20, 1_001)
        nodes[0].embedding = [0.0] * 1_001
        faces.context().vector_store.add(nodes)
        index(faces)
    with a_collection_of(databases, 1_001) as faces:
        question = VectorStoreQuery(query_embedding=nodes[1].embedding, similarity_top_k=20)
        assert set(faces.context().vector_store.query(question).ids or []) == {node.node_id for node in nodes}


def test_fresh_nodes_are_ranked_with_those_of_a_segment_of_float16(databases: tuple[str, str, str]) -> None:
    nodes = some_nodes(60, 1_001)
    for i in range(30, 60):
        # Each as near its partner in the index as float16 can tell, and nearer to the question.
        nodes[i].embedding = [x * (1 + 1e-5 * (j % 2)) for j, x in enumerate(nodes[i - 30].embedding or [])]
    with a_collection_of(databases, 1_001) as faces:
        faces.context().vector_store.add(nodes[:30])
        index(faces)
        faces.context().vector_store.add(nodes[30:])
    with a_collection_of(databases, 1_001) as faces:
        store = faces.context().vector_store
        for i in (30, 45, 59):
            found = store.query(VectorStoreQuery(query_embedding=nodes[i].embedding, similarity_top_k=2))
            assert set(found.ids or []) == {f"n{i}", f"n{i - 30}"}
            assert found.similarities == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("dim", [0, -1, 4_001, 16_001])
def test_a_length_that_no_index_takes_is_refused_with_advice(store: Ragstore, dim: int) -> None:
    with pytest.raises(UsageError, match="cannot be stored") as caught:
        store.create_collection("long", model="external", dim=dim)
    assert "4,000" in caught.value.hint and "dimensions=" in caught.value.hint
    assert store.collections() == []


@pytest.mark.parametrize(
    "values", [[1e38, 1e38, 0, 0], [1e19, 0, 0, 0], [1e-30, 0, 0, 0], [0, 1e-19, 1e-19, 0], [1e39, 0, 0, 0]], ids=str
)
def test_a_vector_that_could_not_be_compared_is_refused_by_name(
    databases: tuple[str, str, str], values: list[float]
) -> None:
    with a_collection_of(databases, 4) as faces:
        store = faces.context().vector_store
        with pytest.raises(InvalidNodeError, match="node bad"):
            store.add([TextNode(id_="bad", text="text", embedding=values)])
        graph = faces.context().property_graph_store
        assert graph is not None
        with pytest.raises(InvalidNodeError, match="bad"):
            graph.upsert_nodes([EntityNode(name="bad", embedding=values)])
        assert faces.sql("SELECT count(*) FROM ragstore.data_docs") == [(0,)]


@pytest.mark.parametrize("scale", [1e-18, 1e-10, 1.0, 1e10, 7e17])
def test_vectors_of_all_lengths_that_are_stored_are_compared_rightly(
    databases: tuple[str, str, str], scale: float
) -> None:
    with a_collection_of(databases, 4) as faces:
        store = faces.context().vector_store
        store.add([TextNode(id_="n", text="text", embedding=[scale, scale, 0, 0])])
        for question in ([1.0, 0, 0, 0], [1e38, 0, 0, 0], [1e-38, 0, 0, 0]):
            found = store.query(VectorStoreQuery(query_embedding=question, similarity_top_k=1))
            assert (found.similarities or [])[0] == pytest.approx(0.7071, abs=1e-3)
