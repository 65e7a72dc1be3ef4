from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstore.errors import EmbeddingSpaceError, FilterError, UsageError
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace
from ragstore.model.filters import Condition
from ragstore.postgres.pool import PostgresPool
from ragstore.query.search import Question, joined, mmr, search

COLLECTION = Collection(1, "docs", EmbeddingSpace("external", 3), Chunking(512, 64), "english")
VECTOR = [1.0, 0.0, 0.0]

components = st.floats(-10, 10, width=32, allow_subnormal=False)
vectors = st.lists(components, min_size=3, max_size=3)


def cosine(left: Any, right: Any) -> float:
    lengths = math.sqrt(sum(x * x for x in left)) * math.sqrt(sum(x * x for x in right))
    return sum(x * y for x, y in zip(left, right, strict=True)) / lengths if lengths else 0.0


def marginal_relevance(vector: Any, candidates: Any, chosen: list[int], position: int, lambda_: float) -> float:
    redundancy = max([0.0, *(cosine(candidates[position], candidates[other]) for other in chosen)])
    return lambda_ * cosine(vector, candidates[position]) - (1 - lambda_) * redundancy


@given(vector=vectors, candidates=st.lists(vectors, max_size=8), k=st.integers(1, 9), lambda_=st.floats(0, 1))
def test_each_chosen_candidate_has_the_highest_marginal_relevance_of_those_left(
    vector: Any, candidates: Any, k: int, lambda_: float
) -> None:
    chosen = mmr(np.array(vector), np.array(candidates, dtype=np.float32).reshape(-1, 3), k, lambda_)
    before: list[int] = []
    for position, score in chosen:
        left = [other for other in range(len(candidates)) if other not in before]
        best = max(marginal_relevance(vector, candidates, before, other, lambda_) for other in left)
        assert score == pytest.approx(best, abs=1e-5)
        assert marginal_relevance(vector, candidates, before, position, lambda_) == pytest.approx(best, abs=1e-5)
        before.append(position)
    assert len(set(before)) == len(before) == min(k, len(candidates))
    scores = [score for _, score in chosen]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(scores))


def test_near_duplicates_give_way_to_something_else() -> None:
    candidates = np.array([[1.0, 0.1, 0], [1.0, 0.11, 0], [0.7, 0, 0.7]])
    assert [position for position, _ in mmr(np.array(VECTOR), candidates, 2, 0.5)] == [0, 2]
    assert [position for position, _ in mmr(np.array(VECTOR), candidates, 2, 1.0)] == [0, 1]


def test_zero_vectors_are_similar_to_nothing() -> None:
    candidates = np.array([[0.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0]])
    assert mmr(np.array(VECTOR), candidates, 3, 1.0) == [(2, 1.0), (0, 0.0), (1, -1.0)]
    assert [score for _, score in mmr(np.zeros(3), candidates, 3, 1.0)] == [0.0, 0.0, 0.0]


@pytest.fixture
def pool_without_server() -> PostgresPool:
    return PostgresPool("postgresql://nobody@127.0.0.1:1/none", connect_timeout_s=1)


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (Question(vector=VECTOR, mode="vector", top_k=0), UsageError),
        (Question(vector=VECTOR, mode="vector", top_k=1001), UsageError),
        (Question(vector=VECTOR, mode="vector", top_k=True), UsageError),
        (Question(vector=VECTOR, mode="vector", top_k=1.5), UsageError),  # type: ignore[arg-type]
        (Question(vector=VECTOR, mode="dense"), UsageError),  # type: ignore[arg-type]
        (Question(vector=[1.0, 0.0], mode="vector"), EmbeddingSpaceError),
        (Question(vector=[VECTOR], mode="vector"), EmbeddingSpaceError),
        (Question(vector=[1.0, 0.0, float("nan")], mode="vector"), UsageError),
        (Question(vector=[1.0, 0.0, 1e300], mode="vector"), UsageError),
        (Question(text="words", mode="vector"), UsageError),
        (Question(text="words", mode="hybrid"), UsageError),
        (Question(vector=VECTOR, mode="hybrid"), UsageError),
        (Question(vector=VECTOR, mode="keyword"), UsageError),
        (Question(text="words", vector=VECTOR, dense_weight=-1), UsageError),
        (Question(text="words", vector=VECTOR, dense_weight=float("inf")), UsageError),
        (Question(text="words", mode="keyword", n_context=51), UsageError),
        (Question(text="words", mode="keyword", n_context=-1), UsageError),
        (Question(text="words", vector=VECTOR, mmr_lambda=1.1), UsageError),
        (Question(text="words", mode="keyword", mmr_lambda=0.5), UsageError),
        (Question(vector=VECTOR, mode="vector", filters=Condition("k", ">", True)), FilterError),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_the_database_is(
    pool_without_server: PostgresPool, question: Question, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        search(pool_without_server, COLLECTION, question)
    assert getattr(caught.value, "hint", "")


def test_a_vector_of_another_model_is_refused_with_both_sizes(pool_without_server: PostgresPool) -> None:
    with pytest.raises(EmbeddingSpaceError, match=r"has 2 dimensions.*'docs'.*external \(3 dimensions"):
        search(pool_without_server, COLLECTION, Question(vector=[1.0, 0.0], mode="vector"))


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([[0, 7, "one two"], [4, 13, "two three"]], "one two three"),
        ([[4, 13, "two three"], [0, 7, "one two"]], "one two three"),
        ([[0, 7, "one two"], [8, 13, "three"]], "one two\n\nthree"),
        ([[0, 13, "one two three"], [4, 7, "two"]], "one two three"),
        ([[0, 7, "one two"], [4, 13, "TWO three"]], "one two\n\nTWO three"),
        ([[0, 3, "one"], [3, 7, " two"]], "one two"),
        ([[5, 10, "alone"]], "alone"),
        ([[5, None, "alone"]], "alone"),
        ([[0, 12, "|a|\n|-|\n|b|\n"], [8, 16, "|a|\n|-|\n|b|\n|c|\n"]], "|a|\n|-|\n|b|\n|c|\n"),
        ([[20, 24, "|a|\n|-|\n|c|\n"], [24, 28, "|a|\n|-|\n|d|\n"]], "|a|\n|-|\n|c|\n|d|\n"),
        ([[0, 3, "one"], [None, None, "two"]], None),
        ([], None),
    ],
)
def test_neighbours_are_joined_without_what_they_share(chunks: list[list[object]], text: str | None) -> None:
    assert joined(chunks) == text
