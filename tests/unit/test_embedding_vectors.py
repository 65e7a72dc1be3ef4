from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstore.embedding.embedder import checked_vectors
from ragstore.errors import ModelError

NUMBERS = st.floats(0.125, 1, width=32)


def refused(what: str) -> ModelError:
    return ModelError(what, hint="look at the server")


@given(st.integers(1, 5).flatmap(lambda dim: st.lists(st.lists(NUMBERS, min_size=dim, max_size=dim), min_size=1)))
def test_good_rows_come_back_as_they_are(rows: list[list[float]]) -> None:
    vectors = checked_vectors(rows, len(rows), len(rows[0]), refused)
    assert vectors.tolist() == rows
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([[1.0, 2.0]], "1 vectors for 2 texts"),
        ([[1.0, 2.0]] * 3, "3 vectors for 2 texts"),
        ([[1.0, 2.0], [1.0]], "several lengths"),
        ([[1.0, 2.0], [1.0, "a"]], "not of numbers"),
        ([[1.0, 2.0], [1.0, None]], "NaN"),
        ([[1.0, 2.0, 3.0]] * 2, "3 dimensions, earlier ones had 2"),
        ([[1.0, 2.0], [float("nan"), 1.0]], "NaN"),
        ([[1.0, 2.0], [1.0, float("inf")]], "infinity"),
        ([[1.0, 2.0], [1.0, 1e300]], "infinity"),
        ([[1.0, 2.0], [0.0, 0.0]], "zeros"),
        ([[], []], "no vectors"),
        ([1.0, 2.0], "no vectors"),
        ([[[1.0], [2.0]], [[1.0], [2.0]]], "no vectors"),
    ],
)
def test_rows_that_would_spoil_a_search_are_refused(rows: list[Any], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        checked_vectors(rows, 2, 2, refused)
