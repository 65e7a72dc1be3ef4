"""What a question costs and what it may remember: one round trip each, and never a wrong answer for it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from pydantic import SecretStr

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import CollectionNotFoundError, EmbeddingSpaceError, StoreError, UsageError
from ragstore.model.filters import Condition
from ragstore.model.hit import Hits
from ragstore.postgres import pool as pools
from ragstore.postgres import prepared
from ragstore.postgres.collections import get_collection
from ragstore.postgres.segments import rebuild
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.internals import pool_of, trees_above
from tests.support.parts import execute, postgres_url
from tests.support.segments import SEGMENTS, merge_at_rest, seal
from tests.support.sql_spy import SqlSpy, a_sql_spy

DIM = 8
N_NODES = 40
# But for the one with which each connection begins.
OWN_SETTINGS = (
    "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'idle_in_transaction_session_timeout'"
)

Vector = np.ndarray[Any, np.dtype[np.float32]]


def a_vector(seed: int, dim: int = DIM) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).normal(size=dim)]


def fill(store: Ragstore, name: str = "docs", *, prefix: str = "n", dim: int = DIM) -> list[TextNode]:
    """A collection of nodes whose vectors are ``a_vector`` of their number."""
    store.create_collection(name, model="external", dim=dim)
    nodes = [
        TextNode(
            id_=f"{prefix}{i}",
            text=f"{prefix} text about word{i}",
            metadata={"half": i % 2, "page": i},
            embedding=a_vector(i, dim),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i % 4}")},
        )
        for i in range(N_NODES)
    ]
    store.storage_context(name).vector_store.add(nodes)
    return nodes


@dataclass
class Scene:
    """``asking`` remembers what it meets, and its statements pass the spy; ``other`` shares nothing with it."""

    asking: Ragstore
    other: Ragstore
    spy: SqlSpy

    def best(self, seed: int, *, dim: int = DIM, **choices: Any) -> str:
        return self.asking.query("", collection="docs", mode="vector", embedding=a_vector(seed, dim), **choices)[
            0
        ].node_id

    def asked(self) -> list[str]:
        return self.spy.taken()

    def session(self, statement: str) -> list[tuple[Any, ...]]:
        """What the one connection of ``asking`` says."""
        with pool_of(self.asking).autocommit() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def build_index(self) -> None:
        """One segment with a tree of cells."""
        with trees_above(N_NODES * DIM // 2):
            # The first look of who added them may be under way, and no two seal at once.
            until(lambda: seal(pool_of(self.other), get_collection(pool_of(self.other), "docs")), what="it is sealed")
            now = merge_at_rest(pool_of(self.other), get_collection(pool_of(self.other), "docs"))
            for segment in now.segments:
                if not segment.n_cells:  # who added them had sealed it already
                    rebuild(pool_of(self.other), now, segment.number)
        (segment,) = get_collection(pool_of(self.other), "docs").segments
        assert segment.n_cells


@contextmanager
def a_scene(settings: Settings) -> Iterator[Scene]:
    # No lease runs out while the test lasts, so that no thread asks anything by itself.
    with a_sql_spy(postgres_url(settings)) as spy:
        through_spy = settings.model_copy(
            update={"postgres_url": SecretStr(spy.url), "pool_size": 1, "lease_ttl_s": 3600}
        )
        with ragstore.open(through_spy) as asking, ragstore.open(settings) as other:
            yield Scene(asking, other, spy)


@pytest.fixture
def scene(settings: Settings) -> Iterator[Scene]:
    with a_scene(settings) as opened:
        fill(opened.other)
        yield opened


CHOICES: Sequence[dict[str, Any]] = (
    {"mode": "vector"},
    {"mode": "keyword"},
    {"mode": "hybrid"},
    {"mode": "vector", "mmr_lambda": 0.5},
    {"mode": "vector", "filters": Condition("half", "==", 1)},
    {"mode": "hybrid", "filters": Condition("half", "==", 1)},
)


@pytest.mark.parametrize("choices", CHOICES, ids=repr)
@pytest.mark.parametrize("is_indexed", [False, True])
def test_a_question_is_one_round_trip_however_long_the_connection_was_idle(
    scene: Scene, choices: dict[str, Any], is_indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_indexed:
        scene.build_index()
    scene.asking.query("word3", collection="docs", embedding=a_vector(3), top_k=5, **choices)
    scene.asked()
    monkeypatch.setattr(pools, "PING_AFTER_IDLE_S", 0.0)
    answers = []
    for _ in range(4):
        answers.append(scene.asking.query("word3", collection="docs", embedding=a_vector(3), top_k=5, **choices))
        assert len(scene.asked()) == 1
    assert answers[0]
    assert answers == [answers[0]] * 4


@pytest.mark.parametrize(
    "mode", [VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SPARSE]
)
def test_a_retriever_of_llamaindex_gets_whole_nodes_in_one_round_trip(scene: Scene, mode: VectorStoreQueryMode) -> None:
    face = scene.asking.storage_context("docs").vector_store
    query = VectorStoreQuery(
        query_embedding=a_vector(3),
        query_str="word3",
        similarity_top_k=5,
        sparse_top_k=5,
        hybrid_top_k=5,
        mode=mode,
    )
    stored = {
        node.node_id: node
        for node in scene.other.storage_context("docs").vector_store.get_nodes([f"n{i}" for i in range(N_NODES)])
    }
    face.query(query)
    scene.asked()
    for _ in range(3):
        found = face.query(query)
        assert len(scene.asked()) == 1
        assert found.nodes
        assert found.ids is not None
        for node, node_id in zip(found.nodes, found.ids, strict=True):
            assert node.to_dict() == stored[node_id].to_dict() | {"embedding": None}


def test_a_statement_is_planned_once_and_answers_the_same(scene: Scene) -> None:
    scene.build_index()
    for _ in range(2):
        scene.best(1, top_k=2)  # now the index is known
    scene.asked()
    answers = [
        [
            (hit.node_id, hit.score)
            for hit in scene.asking.query("", collection="docs", mode="vector", embedding=a_vector(seed))
        ]
        for seed in (3, 3, 3, 5)
    ]
    whole, preparing, executing, again = scene.asked()
    assert "WITH" in whole
    assert "PREPARE" not in whole
    assert "PREPARE" in preparing
    assert "WITH" not in executing
    assert "WITH" not in again
    assert answers[0] == answers[1] == answers[2]
    assert answers[3][0][0] == "n5"


def test_a_planned_statement_uses_the_index(scene: Scene) -> None:
    scene.build_index()
    for _ in range(4):
        scene.best(1)
    [(prepare, types)] = scene.session("SELECT statement, parameter_types::text[] FROM pg_prepared_statements")
    name, values = prepare.split()[1], ", ".join([f"'{a_vector(1)}'"] * len(types))
    plan = scene.session(
        f"SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_generic_plan; "
        f"EXPLAIN EXECUTE {name} ({values})"
    )
    ((segment, _),) = execute(scene.other.settings, SEGMENTS)
    assert any(f"{segment}_cell_idx" in line for (line,) in plan), plan
    assert any(re.search(r"Sort Key: .*<#> .*\$\d", line) for (line,) in plan), plan


def test_a_connection_keeps_few_planned_statements(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MAX_KEPT", 3)
    for top_k in (1, 2, 3, 4, 5, 6):
        for _ in range(3):
            assert scene.best(top_k, top_k=top_k) == f"n{top_k}"
    [(n_prepared,)] = scene.session("SELECT count(*) FROM pg_prepared_statements")
    assert 1 <= n_prepared <= 3


@pytest.mark.parametrize("loss", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_a_question_is_answered_where_somebody_discarded_what_was_planned(scene: Scene, loss: str) -> None:
    for _ in range(6):
        assert scene.best(3) == "n3"
        scene.session(loss)
        assert scene.best(4) == "n4"


def test_no_setting_of_a_question_stays_with_the_connection(scene: Scene) -> None:
    scene.build_index()
    for choices in CHOICES:
        for _ in range(3):
            scene.asking.query("word3", collection="docs", embedding=a_vector(3), **choices)
    with pytest.raises(StoreError):
        # Goes wrong in the middle of the statement that its settings came with.
        scene.session("SET LOCAL enable_sort = off; SELECT 1 / 0")
    assert scene.session(OWN_SETTINGS) == []


def test_no_work_on_a_collection_leaves_a_setting_with_a_connection(settings: Settings) -> None:
    with ragstore.open(settings.model_copy(update={"pool_size": 1})) as rs:
        fill(rs)
        assert seal(pool_of(rs), get_collection(pool_of(rs), "docs"))
        rs.query("word3", collection="docs", embedding=a_vector(3))
        assert rs.verify().ok
        rs.repair()
        rs.upkeep().go_round()
        with pool_of(rs).autocommit() as connection, connection.cursor() as cursor:
            cursor.execute(OWN_SETTINGS)
            assert cursor.fetchall() == []


def test_a_collection_that_others_dropped_is_told_as_missing(scene: Scene) -> None:
    for _ in range(3):
        assert scene.best(3) == "n3"
    scene.other.drop_collection("docs")
    for _ in range(2):
        with pytest.raises(CollectionNotFoundError):
            scene.best(3)
    fill(scene.other, prefix="m")
    assert scene.best(3) == "m3"


@pytest.mark.parametrize("n_asked_before", [1, 3])
@pytest.mark.parametrize("is_indexed", [False, True])
def test_a_collection_that_others_made_anew_answers_with_its_own_nodes(
    scene: Scene, n_asked_before: int, is_indexed: bool
) -> None:
    if is_indexed:
        scene.build_index()
    for _ in range(n_asked_before):
        assert scene.best(3) == "n3"
    scene.other.drop_collection("docs")
    fill(scene.other, prefix="m")
    for _ in range(n_asked_before):
        assert scene.best(3) == "m3"
        words = scene.asking.query("word7", collection="docs", mode="keyword", top_k=1)
        assert [hit.node_id for hit in words] == ["m7"]


@pytest.mark.parametrize("n_asked_before", [1, 3])
def test_a_collection_made_anew_with_longer_vectors_is_asked_with_longer_ones(
    scene: Scene, n_asked_before: int
) -> None:
    for _ in range(n_asked_before):
        assert scene.best(3) == "n3"
    scene.other.drop_collection("docs")
    fill(scene.other, prefix="m", dim=12)
    with pytest.raises(EmbeddingSpaceError):
        scene.best(3)
    assert scene.best(3, dim=12) == "m3"


def test_a_collection_made_anew_with_another_model_is_asked_with_that_model(scene: Scene) -> None:
    assert scene.best(3) == "n3"
    scene.other.drop_collection("docs")
    scene.other.create_collection("docs", model="wordllama")
    assert scene.asking.query("anything", collection="docs") == []


def test_a_question_in_words_is_refused_once_others_made_the_collection_anew_without_a_model(scene: Scene) -> None:
    scene.other.drop_collection("docs")
    scene.other.create_collection("docs", model="wordllama")
    assert scene.asking.query("anything", collection="docs", mode="vector") == []
    scene.other.drop_collection("docs")
    fill(scene.other, dim=256)
    # The old model's vectors have the length of the new ones, and would find something.
    with pytest.raises(UsageError, match="come from outside"):
        scene.asking.query("anything", collection="docs", mode="vector")


def test_an_index_that_others_built_is_used_from_the_second_question_on(scene: Scene) -> None:
    for _ in range(3):
        assert scene.best(3) == "n3"
    scene.build_index()
    scene.asked()
    assert scene.best(4) == "n4"
    assert scene.best(5) == "n5"
    before, after = scene.asked()
    assert "ragstore.seg_" not in before
    assert "ragstore.seg_" in after


@pytest.mark.parametrize("is_noted", [False, True])
def test_a_question_is_right_where_others_dropped_the_index_that_is_remembered(scene: Scene, is_noted: bool) -> None:
    scene.build_index()
    for _ in range(4):
        assert scene.best(3) == "n3"
    [(table, _)] = execute(scene.other.settings, SEGMENTS)
    execute(scene.other.settings, f'DROP TABLE ragstore."{table}"')
    if is_noted:
        # Lost, and the ledger does not know: every node is compared.
        assert scene.best(6) == "n6"
    execute(scene.other.settings, "UPDATE ragstore.collection SET segments = '[]'")
    for seed in (3, 4, 5):
        assert scene.best(seed) == f"n{seed}"


def test_a_face_of_llamaindex_uses_an_index_that_others_built(scene: Scene) -> None:
    face = scene.asking.storage_context("docs").vector_store
    query = VectorStoreQuery(query_embedding=a_vector(3), similarity_top_k=1)
    assert face.query(query).ids == ["n3"]
    scene.build_index()
    scene.asked()
    assert face.query(query).ids == ["n3"]
    assert face.query(query).ids == ["n3"]
    before, after = scene.asked()
    assert "ragstore.seg_" not in before
    assert "ragstore.seg_" in after


def test_each_answer_is_of_a_collection_that_was_there_while_it_was_asked(scene: Scene) -> None:
    generation, n_generations, is_over = 0, 5, threading.Event()
    answers: list[tuple[int, int, str | None]] = []

    def ask() -> None:
        while not is_over.is_set():
            before = generation
            try:
                hits = scene.asking.query("", collection="docs", mode="vector", embedding=a_vector(3))
            except CollectionNotFoundError:
                hits = Hits([], "cosine")
            answers.append((before, generation, hits[0].node_id if hits else None))

    def has_answered(n_times: int) -> bool:
        return len(answers) >= n_times or asking.done()

    scene.other.drop_collection("docs")
    fill(scene.other, prefix="g0_")
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        try:
            for generation in range(1, n_generations + 1):
                scene.other.drop_collection("docs")
                fill(scene.other, prefix=f"g{generation}_")
                until(partial(has_answered, len(answers) + 2), what="it was asked about again")
        finally:
            is_over.set()
        asking.result()
    for first, last, best in answers:
        # A generation is counted before it is made, so that the one before it may still answer.
        assert best in {None, *(f"g{number}_3" for number in range(first - 1, last + 1))}
    assert {best for _, _, best in answers} >= {f"g{number}_3" for number in range(1, n_generations + 1)}
