"""Pairs of keys and values in segments: a search passes over nothing that a filter allows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings

from ragstore.model.collection import Collection
from ragstore.model.filters import Condition, Filter, Group
from ragstore.postgres import pairs, segments
from ragstore.postgres.filters import to_sql
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.search import Query, vector_search
from ragstore.postgres.segment_tables import table_of
from tests.integration.test_filters_agree_with_python import filters, metadata_rows
from tests.integration.test_search import Node, RecordingConnection, a_collection, a_connection, add_nodes
from tests.support.internals import searches_compare_all_of, trees_above
from tests.support.segments import AGED, merge_at_rest, seal

DIM, N_NODES, N_CLUSTERS = 16, 3_000, 30
MANY_PAIRS = {f"k{i}": i for i in range(17)}
MISSED = """
SELECT user_metadata FROM (SELECT *, ragstore.pairs(user_metadata) AS pairs FROM rows) AS rows
WHERE {condition} AND NOT coalesce({may_be_allowed}, false)
"""


@pytest.fixture
def cursor(postgres_database: str) -> Iterator[Any]:
    connection = psycopg2.connect(postgres_database)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE rows (user_metadata jsonb NOT NULL, document_id text)")
        yield cursor
    connection.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=metadata_rows, tree=filters)
@example(rows=[MANY_PAIRS], tree=Condition("k16", "==", 16))
@example(rows=[{"k": list(range(17))}], tree=Condition("k", "any", [3]))
@example(rows=[{"k": list(range(16))}], tree=Condition("k", "all", [0, 15]))
@example(rows=[{"k": 1}], tree=Condition("k", "==", 1.0))
@example(rows=[{"k": 1, "l": 2}], tree=Group("and", [Condition("k", "in", [0, 1]), Condition("l", "!=", 1)]))
@example(rows=[{"l": 2}], tree=Group("or", [Condition("k", "==", 1), Condition("l", ">", 1)]))
def test_no_node_that_a_filter_allows_is_passed_over(cursor: Any, rows: list[dict[str, Any]], tree: Filter) -> None:
    some, said = pairs.said_by(tree)
    if some is None:
        return
    cursor.execute("TRUNCATE rows")
    stored = [json.dumps(row, ensure_ascii=False) for row in rows]
    cursor.execute("INSERT INTO rows SELECT unnest(%s::jsonb[])", [stored])
    hashes = []
    for key, value in said:
        cursor.execute("SELECT ragstore.pair(%s, %s)", [key, json.dumps(value)])
        hashes.append(bytes(cursor.fetchone()[0]))
    condition, values = to_sql(tree)
    named = {f"value_{place}": value for place, value in enumerate(values)}
    condition = condition.replace("%s", "{}").format(*(f"%({name})s" for name in named)) if values else condition
    parameters = named | pairs.Wanted(some, hashes, 0, 0).parameters()
    cursor.execute(MISSED.format(condition=condition, may_be_allowed=pairs.node_condition(some)), parameters)
    assert cursor.fetchall() == []


FILTERS: list[Filter] = [
    Condition("cluster", "==", 3),
    Condition("cluster", "in", [3, 4, 5]),
    Condition("tags", "any", ["t1", "t2"]),
    Condition("tags", "all", ["t1", "t2"]),
    Condition("tags", "contains", 7),
    *(Condition("own", "==", f"n{i:05}") for i in (17, 500, 1_500, 2_000, 2_900)),
    Condition("rare", "==", True),
    Group("and", [Condition("cluster", "==", 3), Condition("half", "==", 1)]),
    Group("or", [Condition("cluster", "==", 3), Condition("own", "==", "n00017")]),
    Group("and", [Condition("cluster", "==", 3), Group("not", [Condition("half", "==", 1)])]),
]


@pytest.fixture
def connection(postgres_database: str) -> Iterator[RecordingConnection]:
    connection = a_connection(postgres_database)
    yield connection
    connection.close()


@pytest.fixture
def in_clusters(connection: RecordingConnection, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Node], Collection]:
    """A tree, in whose groups each cluster's nodes are by themselves; some nodes have too many pairs.

    Few nodes do not mean that all of them are compared.
    """
    searches_compare_all_of(monkeypatch, 0)
    rng = np.random.default_rng(3)
    clusters = np.sort(rng.integers(N_CLUSTERS, size=N_NODES))
    vectors = rng.normal(size=(N_CLUSTERS, DIM))[clusters] + 0.2 * rng.normal(size=(N_NODES, DIM))
    nodes = [
        Node(f"n{i:05}", vectors[i], "text", metadata_of(i, int(clusters[i])), f"d{i // 10}") for i in range(N_NODES)
    ]
    return nodes, a_collection(connection, nodes, dim=DIM, indexed=True)


def metadata_of(i: int, cluster: int) -> dict[str, Any]:
    tags = [f"t{i % 5}", f"t{i % 3}", i % 50]
    return {"own": f"n{i:05}", "half": i % 2, "cluster": cluster, "tags": tags} | (
        {"rare": True} | MANY_PAIRS if i in (7, 8, 9) else {}
    )


@pytest.mark.parametrize("tree", FILTERS, ids=str)
def test_every_group_with_an_allowed_node_is_met(
    connection: RecordingConnection, in_clusters: tuple[list[Node], Collection], tree: Filter
) -> None:
    _, collection = in_clusters
    found = pairs.find_wanted(connection, collection, tree)
    assert found is not None
    (segment,) = collection.segments
    table, condition = table_of(collection, segment), allowed(connection, tree)
    groups = f"""
        WITH RECURSIVE mask AS MATERIALIZED ({pairs.mask_sql(collection, segment.number, found.some)}),
        holder AS (
            SELECT cell AS id FROM {table} WHERE n = 0 AND cell > 0
                AND id IN (SELECT id FROM ragstore.data_docs WHERE {condition})
            UNION SELECT t.cell FROM {table} t JOIN holder ON holder.id = t.id AND t.n > 0 WHERE t.cell > 0
        )
        SELECT id, coalesce({pairs.group_condition(found.some, "mask")}, false) FROM holder
    """
    met = connection.run(groups, found.parameters())
    assert len(met) > 1
    assert all(is_met for _, is_met in met)


def test_what_stands_far_from_the_question_is_found_without_comparing_all(
    connection: RecordingConnection, in_clusters: tuple[list[Node], Collection]
) -> None:
    nodes, collection = in_clusters
    for tree in (Condition("cluster", "==", 20), Condition("cluster", "in", [20, 21, 22])):
        wanted = [
            node for node in nodes if node.metadata["cluster"] in (20, 21, 22)[: 1 if tree.operator == "==" else 3]
        ]
        question = np.asarray(nodes[0].vector, dtype=np.float32) / np.linalg.norm(nodes[0].vector)
        similarity = [float(np.dot(question, node.vector) / np.linalg.norm(node.vector)) for node in wanted]
        nearest = [wanted[position].node_id for position in np.argsort(similarity)[::-1][:10]]
        connection.statements.clear()
        rows = vector_search(connection, collection, question, Query(10, filters=tree)).rows
        assert [row.node_id for row in rows] == nearest
        assert len([sent for sent in connection.statements if sent.startswith("SET LOCAL")]) == 1


def test_fresh_nodes_are_found_by_their_own_metadata(
    connection: RecordingConnection, in_clusters: tuple[list[Node], Collection]
) -> None:
    nodes, collection = in_clusters
    add_nodes(connection, [Node("fresh", (-np.asarray(nodes[0].vector)).tolist(), "text", {"cluster": 20}, "d0")])
    question = -np.asarray(nodes[0].vector, dtype=np.float32)
    found = vector_search(connection, collection, question, Query(1, filters=Condition("cluster", "==", 20))).rows
    assert [row.node_id for row in found] == ["fresh"]


def test_pairs_go_with_the_tree_that_they_are_of(
    connection: RecordingConnection, in_clusters: tuple[list[Node], Collection], postgres_database: str
) -> None:
    _, collection = in_clusters
    first = collection.segments[0].number
    pool = PostgresPool(postgres_database)
    connection.run("DELETE FROM ragstore.data_docs WHERE (user_metadata->>'half')::int = 1")
    with trees_above(1):
        add_nodes(connection, [Node("new", [1.0] * DIM, "text", {"cluster": 99}, "d0")])
        seal(pool, collection)
        now = merge_at_rest(pool, collection)
    assert numbers(connection) == [first, now.segments[0].number]
    connection.run(AGED)
    segments.drop_retired(pool, now)
    assert numbers(connection) == [now.segments[0].number]
    found = pairs.find_wanted(connection, now, Condition("half", "==", 1))
    assert found is not None and found.n_nodes < N_NODES / 100
    with pool.transaction() as cursor:
        segments.drop_all(cursor, now)
    assert numbers(connection) == []
    pool.close()


def allowed(connection: RecordingConnection, tree: Filter) -> str:
    """The condition with its values in it."""
    text, values = to_sql(tree)
    with connection.cursor() as cursor:
        return str(cursor.mogrify(text, values).decode())


def numbers(connection: RecordingConnection) -> Sequence[int]:
    rows = connection.run("SELECT DISTINCT number FROM ragstore.segment_pair ORDER BY number")
    return [number for (number,) in rows]
