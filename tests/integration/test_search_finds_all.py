"""Few texts among many that resemble each other: what an exact search finds, the default one finds."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ragstore.app import Ragstore
from ragstore.cli.verify import found_lines
from ragstore.embedding import wordllama_model
from ragstore.embedding.embedder import ModelOptions, ModelRequest
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace
from ragstore.postgres import effort as efforts
from ragstore.postgres.collections import create_collection, get_collection
from ragstore.postgres.documents import read_gauges
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.search import Mode, Query, effort_of, vector_search
from ragstore.postgres.segment_tables import visit_live_vectors
from ragstore.query.search import Question, search
from tests.integration.test_search import Node, a_connection, add_nodes
from tests.support.corpus import write_documents
from tests.support.internals import collection_of, pool_of, trees_above
from tests.support.segments import merge_at_rest, seal

N_CROWD, N_AT_ONCE, TREES_ABOVE = 3_700, 925, 1_000 * 16

TEXTS = {
    "router": "To reset the router, hold the small button on its back for ten seconds until the lamp blinks orange.",
    "pump": "Clean the filter of the pond pump each spring: unscrew the lid, rinse the sponge, and oil the gasket.",
    "leave": "Employees have thirty days of paid leave a year; ask your manager two weeks before you take it.",
    "bread": "Let the sourdough rise overnight in the fridge, then bake it for forty minutes in a hot iron pot.",
    "invoice": "Invoices are due within fourteen days; after a second reminder we charge interest of five percent.",
    "fire": "In case of fire leave the building by the stairs, never by the lift, and meet at the old oak tree.",
    "bike": "A squeaking bicycle chain wants cleaning with a dry rag and a drop of oil on each of its links.",
    "passport": "A lost passport must be reported to the police and to the embassy before a new one can be issued.",
    "tomato": "Tomatoes need full sun, a stake to lean on, and water at the roots, but never on their leaves.",
    "violin": "Loosen the bow of the violin after playing, and wipe the rosin from the strings with a soft cloth.",
    "tax": "Travel to work is deductible from income tax with thirty cents for each kilometre of the shortest way.",
    "cat": "The cat gets half a tin of food in the morning, and her medicine for the kidneys every evening.",
    "printer": "When the printer shows error E-4711, open the rear flap and remove the crumpled sheet of paper.",
    "wedding": "For the wedding we have rented the boathouse by the lake; music ends at two in the morning.",
    "glacier": "The glacier has lost a third of its ice since 1950, and the hut above it stands on bare rock now.",
    "chess": "In the endgame the king is a strong piece: bring him to the centre and support the passed pawn.",
    "vaccine": "The second dose of the vaccine is given four weeks after the first, in the other upper arm.",
    "sail": "Reef the mainsail before the squall arrives, and let the boat run off if she heels too far.",
    "museum": "The museum is closed on Mondays; on the first Sunday of a month nobody pays for a ticket.",
    "password": "A forgotten password is set again by a link that we send to the address with which you signed up.",
}
QUESTIONS = {
    "router": "how do I reset the router",
    "pump": "when must the filter of the pump be cleaned",
    "leave": "how many days of paid leave do I have",
    "bread": "how long is sourdough bread baked",
    "invoice": "when do I have to pay an invoice",
    "fire": "where do we meet when there is a fire",
    "bike": "my bicycle chain squeaks",
    "passport": "I have lost my passport",
    "tomato": "how should tomatoes be watered",
    "violin": "care of a violin bow",
    "tax": "can I deduct travel to work from my tax",
    "cat": "what does the cat eat",
    "printer": "the printer shows an error",
    "wedding": "where is the wedding party",
    "glacier": "how much ice has the glacier lost",
    "chess": "what to do with the king in an endgame",
    "vaccine": "when is the second vaccine dose",
    "sail": "when to reef the sail",
    "museum": "when is the museum free",
    "password": "I forgot my password",
}


def log_lines(chance: random.Random) -> str:
    return "\n".join(
        f"2024-05-{chance.randint(1, 28):02d}T{chance.randint(0, 23):02d}:{chance.randint(0, 59):02d}:11Z INFO http "
        f"request GET /api/v1/items/{chance.randint(1, 9999)} status 200 duration {chance.randint(2, 90)} ms"
        for _ in range(6)
    )


def order_rows(chance: random.Random) -> str:
    return "\n".join(
        f"{chance.randint(10_000, 99_999)};C-{chance.randint(1_000, 9_999)};{chance.choice(['bolt', 'nut', 'washer'])} "
        f"M{chance.randint(3, 12)};{chance.randint(1, 500)};{chance.randint(1, 90)}.{chance.randint(10, 99)} EUR;shipped"
        for _ in range(8)
    )


def random_words(chance: random.Random) -> str:
    words = " ".join(TEXTS.values()).split()
    return " ".join(chance.choice(words) for _ in range(18))


CROWDS: dict[str, Callable[[random.Random], str]] = {
    "log lines": log_lines,
    "order rows": order_rows,
    "random words": random_words,
}


@functools.cache
def _model() -> Any:
    return wordllama_model.load(ModelRequest("wordllama", "", ModelOptions(), lambda _: None))


def embedded(texts: Sequence[str], dim: int) -> Any:
    """Vectors of wordllama, turned into more dimensions, which keeps all neighbourhoods, and a little of noise there."""
    vectors = _model().embed_documents(list(texts)).astype(np.float32)
    if dim != vectors.shape[1]:
        chance = np.random.default_rng(7)
        turned, _ = np.linalg.qr(chance.standard_normal((dim, vectors.shape[1])))
        # The same text has the same noise.
        noise = np.array([np.random.default_rng(len(text)).standard_normal(dim) for text in texts])
        vectors = vectors @ turned.T.astype(np.float32)
        vectors = vectors + 0.1 * (np.linalg.norm(vectors, axis=1, keepdims=True) / dim**0.5 * noise).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@dataclass
class Corpus:
    """Nodes in trees, and the questions."""

    pool: PostgresPool
    collection: Collection
    vectors: Any
    questions: Any

    def now(self) -> Corpus:
        return replace(self, collection=get_collection(self.pool, "docs"))

    def scores(self, vector: Any, k: int, *, exact: bool = False) -> list[tuple[str, float]]:
        with self.pool.autocommit() as connection:
            rows = vector_search(connection, self.collection, vector, Query(k, exact=exact)).rows
        return [(row.node_id, row.score) for row in rows]

    def assert_finds_what_exact_finds(self) -> None:
        """Each of the texts among the first five, and of all these five as many as the measurement promises."""
        shares = []
        for name, vector in zip(QUESTIONS, self.questions, strict=True):
            exact, found = self.scores(vector, 5, exact=True), self.scores(vector, 5)
            assert [n for n, _ in exact if n in TEXTS] == [n for n, _ in found if n in TEXTS], name
            # Of equal ones any will do.
            shares.append(np.mean([score >= exact[-1][1] - 1e-6 for _, score in found]))
        assert np.mean(shares) >= efforts.TARGET_OF_KIND

    def assert_every_node_finds_itself(self, *, every: int = 1) -> None:
        lost = [n for n, vector in enumerate(self.vectors[::every]) if self.scores(vector, 1)[0][1] < 1 - 1e-5]
        assert lost == []


@pytest.fixture
def pool(postgres_database: str) -> Iterator[PostgresPool]:
    pool = PostgresPool(postgres_database, size=3)
    with trees_above(TREES_ABOVE):
        yield pool
    pool.close()


def a_corpus(pool: PostgresPool, url: str, crowd: str, place: str, *, dim: int = 256) -> Corpus:
    """20 texts before, after or among thousands that resemble each other; sealed as they came."""
    chance = random.Random(f"{crowd} {place}")
    texts = [(f"crowd {n}", CROWDS[crowd](chance)) for n in range(N_CROWD)]
    for n, item in enumerate(TEXTS.items()):
        texts.insert({"early": n, "late": len(texts), "in between": n * (N_CROWD // 20)}[place], item)
    vectors = embedded([text for _, text in texts], dim)
    collection = create_collection(
        pool, "docs", space=EmbeddingSpace("external", dim), chunking=Chunking(512, 64), text_search_config="english"
    )
    nodes = [Node(name, vector, text) for (name, text), vector in zip(texts, vectors, strict=True)]
    connection = a_connection(url)
    for begin in range(0, len(nodes), N_AT_ONCE):
        add_nodes(connection, nodes[begin : begin + N_AT_ONCE])
        seal(pool, collection)
        connection.statements.clear()
    connection.close()
    return Corpus(pool, get_collection(pool, "docs"), vectors, embedded(list(QUESTIONS.values()), dim))


def in_trees(corpus: Corpus) -> int:
    return sum(segment.n_nodes for segment in corpus.collection.segments if segment.n_cells)


@pytest.mark.parametrize("place", ["early", "late", "in between"])
@pytest.mark.parametrize("crowd", CROWDS)
def test_few_texts_among_many_are_found(pool: PostgresPool, postgres_database: str, crowd: str, place: str) -> None:
    corpus = a_corpus(pool, postgres_database, crowd, place)
    assert len(corpus.collection.segments) > 1 and in_trees(corpus) > 0.9 * N_CROWD
    corpus.assert_finds_what_exact_finds()
    merge_at_rest(pool, corpus.collection)
    corpus = corpus.now()
    assert len(corpus.collection.segments) == 1 and in_trees(corpus) == N_CROWD + len(TEXTS)
    corpus.assert_finds_what_exact_finds()
    corpus.assert_every_node_finds_itself(every=5)
    effort = efforts.measure(pool, corpus.collection)
    assert effort.found is not None and effort.found.recall >= efforts.TARGET
    assert effort.found.self_recall == 1.0
    corpus = corpus.now()
    assert corpus.collection.effort == effort
    corpus.assert_finds_what_exact_finds()
    corpus.assert_every_node_finds_itself(every=1 if place == "in between" else 5)


@pytest.mark.parametrize("crowd", ["log lines", "random words"])
def test_few_texts_among_many_are_found_by_long_vectors(pool: PostgresPool, postgres_database: str, crowd: str) -> None:
    corpus = a_corpus(pool, postgres_database, crowd, "in between", dim=1_536)
    corpus.assert_finds_what_exact_finds()
    merge_at_rest(pool, corpus.collection)
    efforts.measure(pool, corpus.now().collection)
    corpus = corpus.now()
    assert in_trees(corpus) == N_CROWD + len(TEXTS)
    corpus.assert_finds_what_exact_finds()
    corpus.assert_every_node_finds_itself(every=5)


@pytest.mark.parametrize("crowd", CROWDS)
def test_they_are_found_when_a_third_of_the_others_is_deleted(
    pool: PostgresPool, postgres_database: str, crowd: str
) -> None:
    corpus = a_corpus(pool, postgres_database, crowd, "in between")
    merge_at_rest(pool, corpus.collection)
    corpus = corpus.now()
    is_kept = np.array([n % 3 != 1 for n in range(len(corpus.vectors))])
    with pool.transaction() as cursor:
        gone = (
            "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM ragstore.data_docs) AS numbered"
        )
        cursor.execute(f"DELETE FROM ragstore.data_docs WHERE id IN ({gone} WHERE n % 3 = 1)")
    corpus.vectors = corpus.vectors[is_kept]
    corpus.assert_finds_what_exact_finds()
    corpus.assert_every_node_finds_itself(every=5)
    before = corpus.collection
    merge_at_rest(pool, corpus.collection)
    corpus = corpus.now()
    assert corpus.collection.segments != before.segments and in_trees(corpus) == len(corpus.vectors)
    efforts.measure(pool, corpus.collection)
    corpus = corpus.now()
    corpus.assert_finds_what_exact_finds()
    corpus.assert_every_node_finds_itself(every=5)


def test_where_no_effort_finds_enough_every_node_is_compared_and_the_collection_says_so(
    pool: PostgresPool, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = a_corpus(pool, postgres_database, "random words", "early")
    merge_at_rest(pool, corpus.collection)
    # So far a look reads a region and some cells, which holds few of the nearest of words by chance.
    monkeypatch.setattr(efforts, "STEPS", (1, 2))
    effort = efforts.measure(pool, corpus.now().collection)
    assert effort.is_exact
    assert effort.found is not None and (effort.found.recall, effort.found.self_recall) == (1.0, 1.0)
    corpus = corpus.now()
    assert effort_of(corpus.collection).is_exact
    corpus.assert_finds_what_exact_finds()
    corpus.assert_every_node_finds_itself(every=10)
    # It is measured again when much was added, not before.
    assert not efforts.is_due(pool, corpus.collection, at_rest=True)
    assert efforts.is_due(
        pool, replace(corpus.collection, effort=replace(effort, n_nodes=effort.n_nodes // 2)), at_rest=True
    )
    # So it is with the first questions that were asked, and a day later.
    asked = corpus.vectors[: efforts.N_ASKED].tolist()
    efforts.keep_asked(pool, corpus.collection.collection_id, asked)
    assert efforts.is_due(pool, corpus.collection, at_rest=True)
    effort = efforts.measure(pool, corpus.collection)
    assert effort.found is not None and effort.found.asked_recall == 1.0
    assert not efforts.is_due(pool, corpus.now().collection, at_rest=True)
    aged = replace(effort, measured_at=effort.measured_at - 90_000)
    assert efforts.is_due(pool, replace(corpus.collection, effort=aged), at_rest=True)


def test_vectors_of_live_nodes_are_visited_some_hundred_at_a_time(pool: PostgresPool, postgres_database: str) -> None:
    corpus = a_corpus(pool, postgres_database, "log lines", "early")
    merge_at_rest(pool, corpus.collection)
    collection, n_visited = corpus.now().collection, []
    with pool.transaction() as cursor:
        cursor.execute("DELETE FROM ragstore.data_docs WHERE id % 3 = 1")
        for segment in collection.segments:
            visit_live_vectors(cursor, collection, segment, lambda vectors: n_visited.append(len(vectors)))
        last = collection.segments[-1].upto
        cursor.execute("SELECT count(*) FROM ragstore.data_docs WHERE id <= %s", [last])
        assert cursor.fetchone() == (sum(n_visited),)
    assert len(n_visited) > 5 and max(n_visited) < 1_000 < sum(n_visited)


def test_while_a_collection_grows_it_is_measured_each_time_that_it_has_doubled(
    pool: PostgresPool, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = a_corpus(pool, postgres_database, "log lines", "early")
    merge_at_rest(pool, corpus.collection)
    collection = replace(corpus.now().collection, effort=None)
    n_nodes = sum(segment.n_nodes for segment in collection.segments)
    monkeypatch.setattr(efforts, "FIRST_GROWING", n_nodes - 1)
    assert efforts.is_due(pool, collection, at_rest=False)
    monkeypatch.setattr(efforts, "FIRST_GROWING", n_nodes)
    assert not efforts.is_due(pool, collection, at_rest=False)
    effort = efforts.measure(pool, collection, at_rest=False)
    assert effort.n_nodes == n_nodes and effort.found is None
    corpus = corpus.now()
    corpus.assert_finds_what_exact_finds()
    # What was found with it is measured as soon as nothing is added.
    assert efforts.is_due(pool, corpus.collection, at_rest=True)
    for times, is_due in ((2.0, False), (2.1, True)):
        grown = replace(corpus.collection, effort=replace(effort, n_nodes=int(n_nodes / times)))
        assert efforts.is_due(pool, grown, at_rest=False) == is_due


def test_a_manual_and_then_logs_as_people_ingest_them(store: Ragstore, tmp_path: Path) -> None:
    chance = random.Random(1)
    store.create_collection("docs")
    write_documents(tmp_path / "manual", {f"{name}.txt": text for name, text in TEXTS.items()})
    logs = {f"app{n}.txt": "\n".join(log_lines(chance) for _ in range(60)) for n in range(20)}
    write_documents(tmp_path / "logs", logs)
    with trees_above(TREES_ABOVE):
        store.ingest(tmp_path / "manual", collection="docs")
        store.ingest(tmp_path / "logs", collection="docs")
        collection = collection_of(store, "docs")
        seal(pool_of(store), collection)
        merge_at_rest(pool_of(store), collection)
        efforts.measure(pool_of(store), collection_of(store, "docs"))
        assert any(segment.n_cells for segment in collection_of(store, "docs").segments)
    collection, model = collection_of(store, "docs"), store.embed_model("docs")
    modes: tuple[Mode, ...] = ("vector", "hybrid")
    shares = []
    for mode in modes:
        for name, text in QUESTIONS.items():
            question = Question(text, model.get_query_embedding(text), mode, top_k=5)
            exact = search(pool_of(store), collection, replace(question, exact=True))
            hits = store.query(text, collection="docs", mode=mode, top_k=5)
            shares.append(np.mean([hit.score >= exact[-1].score - 1e-6 for hit in hits]))
            found = [Path(hit.document_id).name for hit in hits]
            assert f"{name}.txt" in found or mode == "hybrid", (name, found)
    assert np.mean(shares) >= efforts.TARGET_OF_KIND


def test_what_is_found_is_told_by_segment(pool: PostgresPool, postgres_database: str, store: Ragstore) -> None:
    corpus = a_corpus(pool, postgres_database, "log lines", "late")
    asked = [(corpus.vectors[n] + corpus.vectors[n + 1]).tolist() for n in range(8)]
    efforts.keep_asked(pool, corpus.collection.collection_id, asked)
    effort = efforts.measure(pool, corpus.now().collection)
    assert effort.found is not None and effort.found.asked_recall is not None
    collection = corpus.now().collection
    sizes = [segment.n_nodes for segment in collection.segments]
    assert len(sizes) > 1
    for found in (effort.found, store.verify("docs", deep=True).found["docs"]):
        assert [segment.nodes for segment in found.of_segments] == sizes
        shares = [segment.recall for segment in found.of_segments if segment.recall is not None]
        assert shares and min(shares) > 0.9 and not found.is_low
        assert {segment.self_recall for segment in found.of_segments} <= {1.0, None}
    assert not store.verify("docs").found
    (summary,) = store.collections()
    assert summary.found == effort.found
    lines = found_lines("docs", effort.found)
    assert len(lines) == 1 + len(sizes) and "low" not in lines[0]
    (of_docs,) = read_gauges(pool).collections
    assert of_docs.found == effort.found
    # A look at next to nothing is told as such, and names the command that measures anew.
    least = replace(effort, entries=1, members=1)
    with pool.transaction() as cursor:
        cursor.execute("UPDATE ragstore.collection SET effort = %s", [orjson.dumps(asdict(least)).decode()])
    with trees_above(TREES_ABOVE):
        merge_at_rest(pool, collection)
    poor = store.verify("docs", deep=True).found["docs"]
    assert poor.is_low and "run 'ragstore maintain'" in found_lines("docs", poor)[0]


def test_a_search_that_finds_nothing_of_the_nearest_is_told_as_such(pool: PostgresPool, postgres_database: str) -> None:
    collection = a_corpus(pool, postgres_database, "log lines", "late").now().collection
    with pool.autocommit() as connection:
        sample = efforts.sampled(connection, collection)
        beyond_all = replace(sample, tenth=sample.tenth + 2, own=-sample.own)
        found = efforts.measured(connection, collection, beyond_all)
    assert (found.recall, found.self_recall) == (0.0, 0.0) and found.is_low
