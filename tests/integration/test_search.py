from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg2
import psycopg2.extensions
import pytest

from ragstore.model.collection import Chunking, Collection, EmbeddingSpace
from ragstore.model.filters import Condition, Group
from ragstore.postgres import search as postgres_search
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.prepared import PreparingConnection, Statement
from ragstore.postgres.search import Query, Row
from ragstore.query.search import Question, search
from tests.support import servers
from tests.support.filter_oracle import matches
from tests.support.internals import keyword_searches_rank, searches_of_few, trees_above
from tests.support.segments import merge_at_rest, seal

pytestmark = pytest.mark.on_both

N_MANY, DIM, N_CLUSTERS = 6_000, 48, 30


@dataclass
class Node:
    node_id: str
    vector: Sequence[float]
    text: str = "some text"
    metadata: dict[str, Any] = field(default_factory=dict)
    document_id: str | None = "doc"


class RecordingCursor(psycopg2.extensions.cursor):
    statements: list[str]

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002
        super().execute(query, vars)
        assert isinstance(self.connection, RecordingConnection)
        self.connection.statements.append((self.query or b"").decode())


class RecordingConnection(PreparingConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url: str = args[0]
        self.statements: list[str] = []
        self.cursor_factory = RecordingCursor
        self.autocommit = True

    def fetch(self, statement: Statement, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Without preparing, so that what was sent can be explained."""
        return self.run(statement.settings + statement.text, values)

    def run(self, statement: str, params: Any = None) -> list[Any]:
        with self.cursor() as cursor:
            cursor.execute(statement, params)
            return cursor.fetchall() if cursor.description else []


def a_connection(url: str) -> RecordingConnection:
    return psycopg2.connect(url, connection_factory=RecordingConnection)


@pytest.fixture
def connection(postgres_database: str) -> Iterator[RecordingConnection]:
    connection = a_connection(postgres_database)
    yield connection
    connection.close()


def a_collection(
    connection: RecordingConnection, nodes: Sequence[Node], *, dim: int = 2, indexed: bool = False
) -> Collection:
    [(collection_id,)] = connection.run(
        "INSERT INTO ragstore.collection (name, model, dim, metric, chunk_size, chunk_overlap, text_search_config)"
        " VALUES ('docs', 'external', %s, 'cosine', 512, 64, 'english') RETURNING collection_id",
        (dim,),
    )
    connection.run("SELECT ragstore.ensure_collection_table('docs')")
    add_nodes(connection, nodes)
    connection.run(
        "INSERT INTO ragstore.document (collection_id, document_id, source_uri, revision)"
        " SELECT %s, document_id, '/data/' || document_id, 1 FROM ragstore.data_docs"
        " WHERE document_id IS NOT NULL GROUP BY document_id",
        (collection_id,),
    )
    connection.run("ANALYZE ragstore.data_docs")
    collection = Collection(collection_id, "docs", EmbeddingSpace("external", dim), Chunking(512, 64), "english")
    if not indexed:
        return collection
    pool = PostgresPool(connection.url)
    try:
        # One segment, a tree however few its nodes are.
        with trees_above(1):
            assert seal(pool, collection) == len(nodes)
            return merge_at_rest(pool, collection)
    finally:
        pool.close()


def add_nodes(connection: RecordingConnection, nodes: Sequence[Node]) -> None:
    connection.run(
        "INSERT INTO ragstore.data_docs"
        " (text, metadata_, node_id, embedding, document_id, ordinal, start_char, end_char, user_metadata)"
        " SELECT t, '{}', n, v::vector, d, 0, 10, 20, m FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[],"
        " %s::jsonb[]) AS new (t, n, v, d, m)",
        (
            [node.text for node in nodes],
            [node.node_id for node in nodes],
            [json.dumps([float(component) for component in node.vector]) for node in nodes],
            [node.document_id for node in nodes],
            [json.dumps(node.metadata) for node in nodes],
        ),
    )


def vector_search(connection: RecordingConnection, collection: Collection, vector: Any, query: Query) -> list[Row]:
    return postgres_search.vector_search(connection, collection, vector, query).rows


def keyword_search(connection: RecordingConnection, collection: Collection, text: str, query: Query) -> list[Row]:
    return postgres_search.keyword_search(connection, collection, text, query).rows


def hybrid_search(
    connection: RecordingConnection, collection: Collection, text: str, vector: Any, query: Query
) -> list[Row]:
    return postgres_search.hybrid_search(connection, collection, text, vector, query).rows


def a_vector(*components: float) -> Any:
    return np.array(components, dtype=np.float32)


def ids(rows: Sequence[Row]) -> list[str]:
    return [row.node_id for row in rows]


def plan_of(connection: RecordingConnection, searching: Callable[[], object]) -> str:
    """What PostgreSQL would do for the first search that is sent."""
    connection.statements.clear()
    searching()
    search = next(statement for statement in connection.statements if statement.startswith("SET LOCAL"))
    settings, statement = search.split("WITH\n", 1)
    return "\n".join(line for (line,) in connection.run(f"{settings} EXPLAIN WITH\n{statement}"))


@dataclass
class Many:
    """A collection whose vectors stand in clusters, as those of real texts do, in a segment with a tree."""

    connection: RecordingConnection
    collection: Collection
    nodes: list[Node]
    vectors: Any
    clusters: Any

    def nearest(self, vector: Any, tree: Any, k: int) -> set[str]:
        allowed = [position for position, node in enumerate(self.nodes) if matches(tree, node.metadata)]
        similarity = self.vectors[allowed] @ vector
        return {self.nodes[allowed[position]].node_id for position in np.argsort(-similarity)[:k]}

    def a_question(self, random: Any) -> tuple[int, Any]:
        position = int(random.integers(N_MANY))
        vector = self.vectors[position] + random.normal(size=DIM).astype(np.float32) * 0.05
        return int(self.clusters[position]), vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def many(test_servers: Any, template_database: str) -> Iterator[Many]:
    random = np.random.default_rng(11)
    clusters = random.integers(N_CLUSTERS, size=N_MANY)
    vectors = random.normal(size=(N_CLUSTERS, DIM))[clusters] + random.normal(size=(N_MANY, DIM)) * 0.6
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    nodes = [
        Node(
            f"n{position:05d}",
            vectors[position],
            f"chapter about w{position % 1000} and w{position % 7} " + "filling words " * 20,
            {
                "half": position % 2,
                "tenth": position % 10,
                "hundredth": position % 100,
                "rare": position % 1500,
                "cluster": int(clusters[position]),
            },
            f"doc{position // 20}",
        )
        for position in range(N_MANY)
    ]
    with servers.cloned_database(test_servers, template_database) as url:
        connection = a_connection(url)
        collection = a_collection(connection, nodes, dim=DIM, indexed=True)
        yield Many(connection, collection, nodes, vectors, clusters)
        connection.close()


def test_a_vector_finds_its_nearest_nodes_with_their_sources(postgres_database: str) -> None:
    connection = a_connection(postgres_database)
    nodes = [
        Node("far", [-1, 0], document_id="d1"),
        Node("near", [1, 0.1], "the text", {"page": 3, "headings": ["A", "B"], "n": 1}, "d2"),
        Node("middle", [1, 2], document_id=None),
    ]
    collection = a_collection(connection, nodes)
    connection.close()
    first, second, third = search(
        PostgresPool(postgres_database), collection, Question(vector=[2, 0.2], mode="vector", top_k=10)
    )
    assert (first.node_id, first.text, first.document_id, first.source) == ("near", "the text", "d2", "/data/d2")
    assert (first.start_char, first.end_char, first.page, first.headings) == (10, 20, 3, ("A", "B"))
    assert first.metadata == {"page": 3, "headings": ["A", "B"], "n": 1}
    assert first.score == pytest.approx(1.0)
    assert (second.node_id, second.document_id, second.source, second.page, second.headings) == (
        "middle", "", "", None, (),
    )  # fmt: skip
    assert third.node_id == "far" and third.score == pytest.approx(-1 / math.sqrt(1.01))


def test_an_unfiltered_search_uses_the_index_in_one_round_trip(many: Many) -> None:
    def searching() -> None:
        assert len(vector_search(many.connection, many.collection, many.vectors[0], Query(10))) == 10

    plan = plan_of(many.connection, searching)
    assert "_cell_idx" in plan
    assert "Seq Scan on seg_" not in plan
    assert "Seq Scan on data_docs" not in plan
    many.connection.statements.clear()
    searching()
    assert len(many.connection.statements) == 1


def test_an_exact_search_does_not_use_the_index(many: Many) -> None:
    query = Query(10, exact=True)
    plan = plan_of(many.connection, lambda: vector_search(many.connection, many.collection, many.vectors[0], query))
    assert "seg_" not in plan


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query(10, filters=Condition("rare", "==", 7)), "data_docs_metadata_idx"),
        (Query(10, filters=Condition("rare", "in", [7, 8])), "data_docs_metadata_idx"),
        (Query(10, document_ids=["doc7", "doc8"]), "data_docs_document_idx"),
        (Query(10, node_ids=["n00007", "n00008"]), "data_docs_node_id_key"),
    ],
)
def test_a_selective_condition_is_answered_from_its_own_index(many: Many, query: Query, index: str) -> None:
    plan = plan_of(many.connection, lambda: vector_search(many.connection, many.collection, many.vectors[0], query))
    assert index in plan
    assert "Seq Scan on data_docs" not in plan


def test_a_keyword_search_uses_the_index_on_words(many: Many) -> None:
    plan = plan_of(many.connection, lambda: keyword_search(many.connection, many.collection, "w77 w78", Query(10)))
    assert "data_docs_text_idx" in plan
    assert "Seq Scan on data_docs" not in plan


def test_a_hybrid_search_uses_both_indexes(many: Many) -> None:
    vector = many.vectors[0]
    plan = plan_of(many.connection, lambda: hybrid_search(many.connection, many.collection, "w77", vector, Query(10)))
    assert "_cell_idx" in plan
    assert "data_docs_text_idx" in plan


SETTINGS = ["jit", "enable_seqscan", "enable_sort"]


def test_settings_of_a_search_end_with_it(many: Many) -> None:
    before = [many.connection.run(f"SHOW {name}") for name in SETTINGS]
    vector_search(many.connection, many.collection, many.vectors[0], Query(500))
    assert [many.connection.run(f"SHOW {name}") for name in SETTINGS] == before


def test_settings_of_a_search_that_fails_end_with_it(many: Many) -> None:
    before = [many.connection.run(f"SHOW {name}") for name in SETTINGS]
    with pytest.raises(psycopg2.errors.DataException):
        vector_search(many.connection, many.collection, a_vector(1, 2), Query(500))
    assert [many.connection.run(f"SHOW {name}") for name in SETTINGS] == before


@pytest.mark.parametrize("max_few", [5_000, 100])
@pytest.mark.parametrize(
    "condition_for",
    [
        lambda _: Group("and", []),
        lambda _: Condition("half", "==", 1),
        lambda _: Condition("tenth", "==", 3),
        lambda _: Condition("tenth", ">", 8),
        lambda _: Condition("hundredth", "==", 3),
        lambda _: Condition("rare", "==", 3),
        lambda cluster: Condition("cluster", "==", cluster),
        lambda cluster: Condition("cluster", "!=", cluster),
        lambda cluster: Condition("cluster", "==", (cluster + 1) % N_CLUSTERS),
        lambda _: Condition("half", "==", 2),
    ],
    ids=["all", "half", "tenth", "above", "hundredth", "four", "own cluster", "not own", "other cluster", "none"],
)
def test_a_filter_loses_no_hits(
    many: Many, monkeypatch: pytest.MonkeyPatch, max_few: int, condition_for: Callable[[int], Any]
) -> None:
    # With a low limit the wider looks are needed too, as on a collection many times larger.
    searches_of_few(monkeypatch, max_few)
    random = np.random.default_rng(5)
    found, wanted = 0, 0
    for _ in range(20):
        cluster, vector = many.a_question(random)
        tree = condition_for(cluster)
        expected = many.nearest(vector, tree, 10)
        rows = vector_search(many.connection, many.collection, vector, Query(10, filters=tree))
        assert len(rows) == len(expected)
        assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
        assert all(matches(tree, row.user_metadata) for row in rows)
        found, wanted = found + len(expected & set(ids(rows))), wanted + len(expected)
    assert found >= 0.95 * wanted


def test_deleted_nodes_around_the_question_cost_no_hits(connection: RecordingConnection) -> None:
    random = np.random.default_rng(3)
    nodes = [Node(f"n{position:04d}", [1, *random.normal(size=7) * 0.1]) for position in range(600)]
    nodes += [Node(f"other{position:04d}", [-1, *random.normal(size=7)]) for position in range(2000)]
    collection = a_collection(connection, nodes, dim=8, indexed=True)
    connection.run("ALTER TABLE ragstore.data_docs SET (autovacuum_enabled = off)")
    connection.run("DELETE FROM ragstore.data_docs WHERE node_id LIKE 'n%'")
    rows = vector_search(connection, collection, a_vector(1, *[0] * 7), Query(10))
    exact = vector_search(connection, collection, a_vector(1, *[0] * 7), Query(10, exact=True))
    assert len(rows) == 10
    assert len(set(ids(rows)) & set(ids(exact))) >= 8


def test_more_hits_than_nodes_gives_every_node(many: Many, connection: RecordingConnection) -> None:
    collection = a_collection(connection, [Node(f"n{n}", [1, n]) for n in range(5)], indexed=True)
    assert len(vector_search(connection, collection, a_vector(1, 0), Query(1000))) == 5
    assert len(vector_search(many.connection, many.collection, many.vectors[0], Query(1000))) == 1000
    rare = Query(1000, filters=Condition("rare", "==", 3))
    assert len(vector_search(many.connection, many.collection, many.vectors[0], rare)) == 4


@pytest.mark.parametrize("dim", [1000, 1001, 2000, 2001, 4000, 4001, 16_000])
def test_every_dimension_finds_the_nearest_by_the_full_vectors(connection: RecordingConnection, dim: int) -> None:
    random = np.random.default_rng(dim)
    vectors = random.normal(size=(60, dim)).astype(np.float32)
    # So near each other that half precision cannot order them.
    vectors[:20] = vectors[0] + random.normal(size=(20, dim)) * 1e-4
    nodes = [Node(f"n{position:02d}", vector) for position, vector in enumerate(vectors)]
    collection = a_collection(connection, nodes, dim=dim, indexed=dim <= 4000)
    exact = vector_search(connection, collection, vectors[0], Query(10, exact=True))
    plan = plan_of(connection, lambda: vector_search(connection, collection, vectors[0], Query(10)))
    assert ("_cell_idx" in plan) == (dim <= 4000)
    assert ids(vector_search(connection, collection, vectors[0], Query(10))) == ids(exact)


def test_zero_vectors_are_similar_to_nothing_and_no_score_is_nan(connection: RecordingConnection) -> None:
    nodes = [Node("zero", [0, 0]), Node("with", [1, 0]), Node("against", [-1, 0]), Node("across", [0, 1])]
    collection = a_collection(connection, nodes)
    rows = vector_search(connection, collection, a_vector(1, 0), Query(10))
    assert [(row.node_id, row.score) for row in rows] == [("with", 1), ("across", 0), ("zero", 0), ("against", -1)]
    rows = vector_search(connection, collection, a_vector(0, 0), Query(3))
    assert [(row.node_id, row.score) for row in rows] == [("across", 0), ("against", 0), ("with", 0)]


@pytest.mark.parametrize("length", [1e-42, 1e-30, 1e30, 3e38])
def test_the_length_of_a_vector_does_not_matter(connection: RecordingConnection, length: float) -> None:
    collection = a_collection(connection, [Node("with", [1, 0]), Node("across", [0, 1])])
    rows = vector_search(connection, collection, a_vector(length, length), Query(10))
    assert [row.score for row in rows] == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-3)


def test_equal_nodes_come_in_the_order_of_their_ids(many: Many, connection: RecordingConnection) -> None:
    names = ["b", "a", "B", "ä", "c", "A"]
    collection = a_collection(connection, [Node(name, [1, 0], "same words") for name in names])
    in_order = sorted(names)
    assert ids(vector_search(connection, collection, a_vector(1, 0), Query(4))) == in_order[:4]
    assert ids(keyword_search(connection, collection, "words", Query(4))) == in_order[:4]
    assert ids(hybrid_search(connection, collection, "words", a_vector(1, 0), Query(4))) == in_order[:4]


def test_documents_and_nodes_can_be_named(many: Many) -> None:
    def found(**only: Any) -> set[str]:
        return set(ids(vector_search(many.connection, many.collection, many.vectors[0], Query(30, **only))))

    assert found(document_ids=["doc7"]) == {f"n{n:05d}" for n in range(140, 160)}
    assert found(node_ids=["n00007", "n05000", "absent", "\0", "x' OR '1'='1"]) == {"n00007", "n05000"}
    assert found(document_ids=["doc7"], node_ids=["n00007", "n00141"]) == {"n00141"}
    assert found(document_ids=["doc7"], filters=Condition("half", "==", 1)) == {f"n{n:05d}" for n in range(141, 160, 2)}
    assert found(document_ids=[]) == set()
    assert found(node_ids=[]) == set()
    everything = [f"doc{n}" for n in range(N_MANY // 20)]
    assert len(found(document_ids=everything)) == 30


def test_a_filter_value_cannot_reach_beyond_its_tenant(connection: RecordingConnection) -> None:
    hostile = ["x' OR '1'='1", "'; DROP TABLE ragstore.data_docs; --", "%s", "{condition}", "O'Brien", ":a"]
    nodes = [Node(f"n{position}", [1, 0], "words", {"tenant": name, name: 1}) for position, name in enumerate(hostile)]
    collection = a_collection(connection, [*nodes, Node("other", [1, 0], "words", {"tenant": "other"})])
    for position, name in enumerate(hostile):
        for tree in (
            Condition("tenant", "==", name),
            Condition(name, "==", 1),
            Condition("tenant", "text_match", name),
        ):
            query = Query(10, filters=tree)
            assert ids(vector_search(connection, collection, a_vector(1, 0), query)) == [f"n{position}"]
            assert ids(keyword_search(connection, collection, "words", query)) == [f"n{position}"]
            assert ids(hybrid_search(connection, collection, "words", a_vector(1, 0), query)) == [f"n{position}"]


def test_any_word_of_the_question_is_enough(connection: RecordingConnection) -> None:
    texts = {"both": "the zebra met a lion", "one": "a zebra alone in the desert", "none": "an empty desert"}
    collection = a_collection(connection, [Node(name, [1, 0], text) for name, text in texts.items()])
    assert ids(keyword_search(connection, collection, "Does a lion eat zebras?", Query(10))) == ["both", "one"]


@pytest.mark.parametrize(
    "text", ["", " ", "the and of", "?!", "\0", "' | '", "& ! ( ) :* <->", "\\", "'\\''", "\ud800"]
)
def test_a_text_without_words_finds_nothing(connection: RecordingConnection, text: str) -> None:
    collection = a_collection(connection, [Node("a", [1, 0], "the zebra")])
    assert keyword_search(connection, collection, text, Query(10)) == []


@pytest.mark.parametrize(
    "text",
    [
        "zebra's",
        "'zebra'",
        "!zebra",
        "zebra & absent",
        "zebra:*",
        "zebra\\",
        "\\zebra",
        "zebra\0lion",
        "(zebra",
        "%s zebra",
    ],
)
def test_a_text_is_never_read_as_a_query_language(connection: RecordingConnection, text: str) -> None:
    collection = a_collection(connection, [Node("a", [1, 0], "the zebra"), Node("b", [0, 1], "the desert")])
    assert ids(keyword_search(connection, collection, text, Query(10))) == ["a"]


def test_a_path_or_address_in_the_question_is_found(connection: RecordingConnection) -> None:
    special = ["C:\\temp\\it's.txt", "https://example.org/a'b?c=d\\e", "o'neil@example.org", "/usr/lib/x_1/é"]
    nodes = [Node(str(position), [1, 0], text) for position, text in enumerate(special)]
    collection = a_collection(connection, nodes)
    for position, text in enumerate(special):
        assert ids(keyword_search(connection, collection, text, Query(10)))[0] == str(position)


def test_a_rare_word_counts_more_than_a_common_one_that_is_repeated(connection: RecordingConnection) -> None:
    nodes = [Node(f"n{position:03d}", [1, 0], "tree " * 8 + "in the wood") for position in range(100)]
    collection = a_collection(connection, [*nodes, Node("rare", [1, 0], "one zebra alone in a very empty desert")])
    assert ids(keyword_search(connection, collection, "trees and zebras", Query(3))) == ["rare", "n000", "n001"]


def test_rare_words_choose_the_nodes_that_are_ranked(many: Many) -> None:
    assert ids(keyword_search(many.connection, many.collection, "chapter about w999 filling words", Query(6))) == [
        f"n{n:05d}" for n in range(999, N_MANY, 1000)
    ]


def test_common_words_fill_up_where_the_rare_ones_find_too_few(many: Many) -> None:
    rows = keyword_search(many.connection, many.collection, "w999 chapter", Query(10))
    assert len(rows) == 10
    assert set(ids(rows[:6])) == {f"n{n:05d}" for n in range(999, N_MANY, 1000)}
    tree = Condition("rare", "==", 3)
    rows = keyword_search(many.connection, many.collection, "w999 chapter", Query(10, filters=tree))
    assert set(ids(rows)) == {"n00003", "n01503", "n03003", "n04503"}


@pytest.mark.parametrize("text", ["chapter", "w77 chapter", "chapter about filling"])
def test_a_keyword_search_ranks_a_bounded_number_of_nodes(many: Many, text: str) -> None:
    many.connection.statements.clear()
    with keyword_searches_rank(50):
        assert len(keyword_search(many.connection, many.collection, text, Query(10))) == 10
    statement = many.connection.statements[-1]
    plan = [line for (line,) in many.connection.run("EXPLAIN ANALYZE " + statement[statement.index("WITH\n") :])]
    [ranked] = [line for line in plan if "Tid Scan" in line and "node" not in line]
    assert 10 <= float(re.findall(r"rows=([\d.]+)", ranked)[-1]) <= 150


@pytest.mark.parametrize("dense_weight", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("tree", [None, Condition("half", "==", 1), Condition("hundredth", "==", 7)])
def test_a_hybrid_search_fuses_the_ranks_of_both(many: Many, dense_weight: float, tree: Any) -> None:
    depth, text, vector = 50, "w77 w5 w123", many.vectors[77]
    near = vector_search(many.connection, many.collection, vector, Query(depth, filters=tree, exact=True))
    dense = [row.node_id for row in near if row.score > 0.1]
    words = ids(keyword_search(many.connection, many.collection, text, Query(depth, filters=tree)))
    scores: dict[str, float] = {}
    for weight, ranking in ((dense_weight, dense), (1, words)):
        for rank, node_id in enumerate(ranking, 1):
            scores[node_id] = scores.get(node_id, 0) + weight / (15 + rank)
    scores |= {row.node_id: 0.0 for row in near if row.node_id not in scores}
    expected = sorted(scores, key=lambda node_id: (-scores[node_id], node_id))[:15]
    query = Query(15, filters=tree, exact=True, dense_weight=dense_weight)
    rows = hybrid_search(many.connection, many.collection, text, vector, query)
    assert ids(rows) == expected
    assert [row.score for row in rows] == pytest.approx([scores[node_id] for node_id in expected])


def test_a_hybrid_search_loses_no_hits_to_a_filter(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    searches_of_few(monkeypatch, 100)
    cluster = int(many.clusters[0])
    for tree in (Condition("cluster", "==", (cluster + 1) % N_CLUSTERS), Condition("rare", "==", 3)):
        rows = hybrid_search(many.connection, many.collection, "absent", many.vectors[0], Query(10, filters=tree))
        assert len(rows) == len(many.nearest(many.vectors[0], tree, 10))


def test_words_alone_decide_when_the_vector_is_zero(many: Many) -> None:
    zero = np.zeros(DIM, dtype=np.float32)
    rows = hybrid_search(many.connection, many.collection, "w999", zero, Query(10))
    assert set(ids(rows[:6])) == {f"n{n:05d}" for n in range(999, N_MANY, 1000)}
    assert all(math.isfinite(row.score) for row in rows)


def test_vectors_alone_decide_when_the_text_has_no_words(many: Many) -> None:
    rows = hybrid_search(many.connection, many.collection, "the and", many.vectors[0], Query(10))
    assert ids(rows) == ids(vector_search(many.connection, many.collection, many.vectors[0], Query(10)))


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_mmr_prefers_a_different_node_to_a_copy(postgres_database: str, mode: Any) -> None:
    connection = a_connection(postgres_database)
    copies = [Node(f"copy{n}", [1, 0.1 + n / 1000, 0], "zebra") for n in range(5)]
    collection = a_collection(connection, [*copies, Node("different", [0.7, 0, 0.7], "zebra")], dim=3)
    connection.close()
    pool = PostgresPool(postgres_database)
    question = Question(text="zebra", vector=[1, 0, 0], mode=mode, top_k=2, mmr_lambda=0.5)
    hits = search(pool, collection, question)
    assert [hit.node_id for hit in hits] == ["copy0", "different"]
    assert hits[0].score >= hits[1].score
    assert [hit.text for hit in hits] == ["zebra", "zebra"]
    pool.close()


@pytest.mark.parametrize("mode", ["vector", "keyword", "hybrid"])
def test_an_empty_collection_has_no_hits(postgres_database: str, mode: Any) -> None:
    connection = a_connection(postgres_database)
    collection = a_collection(connection, [], indexed=True)
    connection.close()
    pool = PostgresPool(postgres_database)
    assert search(pool, collection, Question(text="zebra", vector=[1, 0], mode=mode, mmr_lambda=None)) == []
    pool.close()
