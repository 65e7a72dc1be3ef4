"""Vectors of more than 2,000 dimensions, which pgvector indexes at half precision only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.errors import InvalidNodeError, UsageError
from ragstore.postgres.vectors import ensure_index
from tests.support.children import until
from tests.support.llama_faces import Faces, faces_on, fetch
from tests.support.servers import Servers

pytestmark = pytest.mark.on_both

N_SCANS = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'data_docs_embedding_idx'"


@pytest.fixture
def databases(
    test_servers: Servers, postgres_database: str, mongo_database: Database[dict[str, Any]]
) -> tuple[str, str, str]:
    return postgres_database, test_servers.mongo_url, mongo_database.name


@contextmanager
def a_collection_of(databases: tuple[str, str, str], dim: int) -> Iterator[Faces]:
    with faces_on(*databases, dim=dim) as faces:
        yield faces


def some_nodes(n: int, dim: int) -> list[TextNode]:
    rng = np.random.default_rng(1)
    return [TextNode(id_=f"n{i}", text=f"text {i}", embedding=rng.normal(size=dim).tolist()) for i in range(n)]


@pytest.mark.parametrize("dim", [2_000, 2_001, 4_000])
def test_a_query_uses_the_index_and_finds_the_nearest(databases: tuple[str, str, str], dim: int) -> None:
    nodes = some_nodes(300, dim)
    with a_collection_of(databases, dim) as faces:
        faces.context().vector_store.add(nodes)
        assert ensure_index(faces.backend.pool, faces.collection, min_nodes=1)
    with a_collection_of(databases, dim) as faces:
        store = faces.context().vector_store
        for node in nodes[:5]:
            found = store.query(VectorStoreQuery(query_embedding=node.embedding, similarity_top_k=3))
            assert (found.ids or [])[0] == node.node_id
            assert (found.similarities or [])[0] == pytest.approx(1.0, abs=1e-5), "ranked at full precision"
        ((definition,),) = faces.sql("SELECT indexdef FROM pg_indexes WHERE indexname = 'data_docs_embedding_idx'")
        assert ("halfvec" in definition) == (dim > 2_000)
    # PostgreSQL counts a connection's scans when it ends.
    until(lambda: fetch(databases[0], N_SCANS)[0][0] >= 5, what="the index was scanned for each query")


def test_a_vector_that_float16_cannot_hold_is_refused_before_anything_is_written(
    databases: tuple[str, str, str],
) -> None:
    with a_collection_of(databases, 2_001) as faces:
        store = faces.context().vector_store
        good, *_, bad = some_nodes(3, 2_001)
        before = faces.state()
        for values in ([70_000.0] * 2_001, [65_520.0, *[0.0] * 2_000], [1e-9] * 2_001):
            bad.embedding = values
            with pytest.raises(InvalidNodeError, match=r"n2 .*float16") as caught:
                store.add([good, bad])
            assert "length 1" in caught.value.hint
        assert faces.state() == before
        bad.embedding = [65_504.0, *[0.0] * 2_000]
        store.add([good, bad])
        assert ensure_index(faces.backend.pool, faces.collection, min_nodes=1)
        question = VectorStoreQuery(query_embedding=[1e30] * 2_001, similarity_top_k=2)
        assert len(faces.context().vector_store.query(question).ids or []) == 2


def test_a_vector_of_float32_may_have_any_finite_values(databases: tuple[str, str, str]) -> None:
    with a_collection_of(databases, 2_000) as faces:
        faces.context().vector_store.add([TextNode(id_="n", text="t", embedding=[70_000.0] * 2_000)])
        assert faces.texts() == {"t": 1}


@pytest.mark.parametrize("dim", [0, -1, 4_001, 16_001])
def test_a_length_that_no_index_takes_is_refused_with_advice(store: Ragstore, dim: int) -> None:
    with pytest.raises(UsageError, match="cannot be stored") as caught:
        store.create_collection("long", model="external", dim=dim)
    assert "4,000" in caught.value.hint and "dimensions=" in caught.value.hint
    assert store.collections() == []
