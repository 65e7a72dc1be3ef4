"""What PostgreSQL does for each kind of search: a plan that reads too much finds the same, only late."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ragstore.model.collection import Chunking, Collection, EmbeddingSpace, TableForm
from ragstore.model.filters import Condition, Group
from ragstore.postgres import search as postgres_search
from ragstore.postgres.collections import create_collection, get_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.search import Query
from ragstore.postgres.segment_tables import table_of
from tests.integration.test_search import Node, RecordingConnection, a_connection, add_nodes
from tests.support import servers
from tests.support.filter_oracle import matches
from tests.support.internals import searches_compare_all_of, searches_of_few, trees_above
from tests.support.segments import seal

pytestmark = pytest.mark.on_both

N_INDEXED, N_FRESH, N_SMALLEST, DIM, N_CLUSTERS = 9_000, 300, 2_000, 32, 12


@dataclass
class Nodes:
    """Two segments and fresh nodes, half of the keys declared; vectors in clusters of 750."""

    connection: RecordingConnection
    collection: Collection
    rows: list[dict[str, Any]]
    vectors: Any
    n_statements: int = 0

    def search(self, tree: Any = None, position: int = 0, **options: Any) -> list[str]:
        query = Query(10, filters=tree, **options)
        found = postgres_search.vector_search(self.connection, self.collection, self.vectors[position], query)
        return [row.node_id for row in found.rows]

    def nearest(self, tree: Any, position: int = 0) -> set[str]:
        allowed = [at for at, row in enumerate(self.rows) if matches(tree, row)]
        order = np.argsort(-(self.vectors[allowed] @ self.vectors[position]))[:10]
        return {f"n{allowed[at]:05d}" for at in order}

    def plan(self, searching: Callable[[], object], statement: int = 0, options: str = "") -> str:
        """What PostgreSQL does for one of the looks of a search."""
        self.connection.statements.clear()
        searching()
        looks = [sent for sent in self.connection.statements if "WITH\n" in sent]
        self.n_statements = len(looks)
        settings, text = looks[statement].split("WITH\n", 1)
        explain = f"{settings} EXPLAIN ({options or 'COSTS off'}) WITH\n{text}"
        return "\n".join(line for (line,) in self.connection.run(explain))


@pytest.fixture(scope="module", params=["analyzed", "without statistics"])
def nodes(test_servers: Any, template_database: str, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    random = np.random.default_rng(4)
    n_nodes = N_INDEXED + N_FRESH
    clusters = random.integers(N_CLUSTERS, size=n_nodes)
    vectors = random.normal(size=(N_CLUSTERS, DIM))[clusters] + random.normal(size=(n_nodes, DIM)) * 0.4
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = [
        {
            "cluster": f"c{clusters[at]}",
            "mark": f"m{at % 900}",
            "year": at % 3000,
            "half": at % 2,
            "place": at % 2500,
            "third": at % 3,
        }
        for at in range(n_nodes)
    ]
    made = [Node(f"n{at:05d}", vectors[at], "text " * 100, rows[at], f"doc{at // 10}") for at in range(n_nodes)]
    with servers.cloned_database(test_servers, template_database) as url:
        pool, connection = PostgresPool(url), a_connection(url)
        collection = create_collection(
            pool,
            "docs",
            space=EmbeddingSpace("external", DIM),
            chunking=Chunking(512, 64),
            text_search_config="english",
            form=TableForm(filter_keys=("year", "mark", "third")),
        )
        connection.run("ALTER TABLE ragstore.data_docs SET (autovacuum_enabled = off)")
        for part in (made[:6000], made[6000:N_INDEXED], made[N_INDEXED:]):
            add_nodes(connection, part)
            if part[-1] is not made[-1]:
                with trees_above(N_SMALLEST * DIM):
                    assert seal(pool, collection) == len(part)
        if request.param == "analyzed":
            connection.run("ANALYZE ragstore.data_docs")
        collection = get_collection(pool, "docs")
        assert [segment.n_nodes for segment in collection.segments] == [6000, N_INDEXED - 6000]
        assert all(segment.n_cells for segment in collection.segments)
        yield Nodes(connection, collection, rows, vectors)
        connection.close()
        pool.close()


def assert_looks_near_by_indexes(plan: str, collection: Collection) -> None:
    for segment in collection.segments:
        table = table_of(collection, segment).removeprefix("ragstore.")
        assert f"{table}_cell_idx" in plan
        assert f"Seq Scan on {table}" not in plan
    assert re.search(rf"data_docs_pkey.*\n\s+Index Cond: \(id > {collection.segments[-1].upto}\)", plan)
    assert "Tid Scan on data_docs node" in plan
    assert "Seq Scan on data_docs" not in plan


def test_the_few_nodes_that_a_look_has_found_are_not_looked_for_by_a_declared_key(nodes: Nodes) -> None:
    tree = Condition("third", "==", 1)
    plan = nodes.plan(lambda: nodes.search(tree))
    assert nodes.n_statements == 1
    assert " using filter_" not in plan
    assert set(nodes.search(tree)) == nodes.nearest(tree)


def test_an_unfiltered_search_reads_the_index_of_each_segment_and_the_fresh_nodes_by_their_ids(nodes: Nodes) -> None:
    assert_looks_near_by_indexes(nodes.plan(nodes.search), nodes.collection)
    assert nodes.n_statements == 1


@pytest.mark.parametrize(
    ("tree", "index"),
    [
        (Condition("place", "==", 7), "data_docs_metadata_idx"),
        (Condition("place", "in", [7, 8]), "data_docs_metadata_idx"),
        (Group("and", [Condition("place", "==", 7), Condition("half", ">", 0)]), "data_docs_metadata_idx"),
        (Group("or", [Condition("place", "==", 7), Condition("place", "==", 9)]), "data_docs_metadata_idx"),
        (Condition("year", "==", 4), "filter_|data_docs_metadata_idx"),
        (Condition("mark", "==", "m7"), "filter_|data_docs_metadata_idx"),
        (Condition("mark", "in", ["m7", "m8"]), "filter_|data_docs_metadata_idx"),
    ],
    ids=str,
)
def test_few_nodes_of_one_value_are_all_compared_at_once_found_by_its_index(
    nodes: Nodes, tree: Any, index: str
) -> None:
    plan = nodes.plan(lambda: nodes.search(tree))
    assert nodes.n_statements == 1
    assert "seg_" not in plan and "Seq Scan on data_docs" not in plan
    assert re.search(index, plan[plan.index("CTE few") : plan.index("CTE dense")])
    assert set(nodes.search(tree)) == nodes.nearest(tree)


@pytest.mark.parametrize(
    ("tree", "index"),
    [
        (Condition("year", "<", 4), "_number"),
        (Group("and", [Condition("year", ">=", 40), Condition("year", "<=", 42)]), "_number"),
        (Condition("mark", "<", "m1"), "_string"),
    ],
    ids=str,
)
def test_few_nodes_of_a_range_are_found_by_its_index_and_compared_in_the_same_statement(
    nodes: Nodes, tree: Any, index: str
) -> None:
    plan = nodes.plan(lambda: nodes.search(tree))
    assert nodes.n_statements == 1
    assert_looks_near_by_indexes(plan, nodes.collection)
    assert re.search(index, plan[plan.index("CTE few") : plan.index("CTE dense")])
    assert set(nodes.search(tree)) == nodes.nearest(tree)


@pytest.mark.parametrize(
    ("only", "index"),
    [
        ({"document_ids": ["doc7", "doc8"]}, "data_docs_document_idx"),
        ({"node_ids": ["n00007", "n00008"]}, "data_docs_node_id_key"),
    ],
)
def test_named_documents_and_nodes_are_found_by_their_own_indexes(
    nodes: Nodes, only: dict[str, Any], index: str
) -> None:
    plan = nodes.plan(lambda: nodes.search(**only))
    assert index in plan
    assert "Seq Scan on data_docs" not in plan


def test_nodes_are_not_counted_where_enough_of_the_nearest_are_allowed(nodes: Nodes) -> None:
    plan = nodes.plan(lambda: nodes.search(Condition("year", ">", 9)), options="ANALYZE, COSTS off, TIMING off")
    few = plan[plan.index("CTE few") : plan.index("CTE dense")]
    assert "One-Time Filter" in few
    assert "never executed" in few
    assert nodes.n_statements == 1


@pytest.mark.parametrize("near", [True, False])
def test_many_nodes_of_one_value_are_looked_for_where_they_are(nodes: Nodes, near: bool) -> None:
    own = nodes.rows[0]["cluster"]
    tree = Condition("cluster", "==", own if near else next(f"c{n}" for n in range(N_CLUSTERS) if f"c{n}" != own))
    with pytest.MonkeyPatch.context() as patch:
        searches_compare_all_of(patch, 100)
        plan = nodes.plan(lambda: nodes.search(tree))
        assert nodes.n_statements == 1
        assert "CTE few" not in plan and "CTE mask_0" in plan and "segment_pair_pkey" in plan
        assert_looks_near_by_indexes(plan, nodes.collection)
        assert len(set(nodes.search(tree)) & nodes.nearest(tree)) >= 9


@pytest.mark.parametrize(
    "tree", [Condition("place", "<", 3), Condition("half", "!=", 1), Condition("half", "is_empty")], ids=str
)
def test_what_no_index_finds_is_not_counted(nodes: Nodes, tree: Any) -> None:
    plan = nodes.plan(lambda: nodes.search(tree))
    assert "CTE few" not in plan
    assert_looks_near_by_indexes(plan, nodes.collection)


def test_a_filter_that_excludes_the_neighbourhood_has_the_index_searched_further(nodes: Nodes) -> None:
    tree = Condition("cluster", "!=", nodes.rows[0]["cluster"])
    found = nodes.search(tree)
    assert len(found) == len(set(found)) == 10
    assert len(set(found) & nodes.nearest(tree)) >= 9
    assert_looks_near_by_indexes(nodes.plan(lambda: nodes.search(tree), statement=1), nodes.collection)
    assert nodes.n_statements == 2


def test_a_filter_that_allows_too_many_to_count_has_the_index_searched_further(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches_of_few(monkeypatch, 100)
    others = [f"c{n}" for n in range(N_CLUSTERS) if f"c{n}" != nodes.rows[0]["cluster"]]
    tree = Condition("cluster", "in", others)
    plan = nodes.plan(lambda: nodes.search(tree), statement=1)
    assert nodes.n_statements == 2
    assert_looks_near_by_indexes(plan, nodes.collection)


def test_fresh_nodes_far_away_do_not_stand_in_for_nearer_ones_of_a_segment(nodes: Nodes) -> None:
    # As many fresh nodes as are wanted are allowed, and hardly any of the nearest of the segments.
    tree = Group("or", [Condition("mark", "==", "m7"), Condition("mark", "in", [f"m{n}" for n in range(300, 360)])])
    for position in range(0, 1000, 100):
        found = set(nodes.search(tree, position))
        assert len(found & nodes.nearest(tree, position)) >= 9
