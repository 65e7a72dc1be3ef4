from __future__ import annotations

import struct
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstore.model.collection import Chunking, Collection, EmbeddingSpace
from ragstore.model.node import Node
from ragstore.postgres.copy import COLUMNS, encode_rows
from ragstore.postgres.vectors import (
    as_stored,
    cannot_hold,
    unholdable,
)

ANY = st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=3, max_size=3)
FITTING = st.lists(st.floats(-65_504, 65_504, width=32), min_size=2, max_size=2).map(lambda rest: [1.0, *rest])


def a_collection(vector_type: Literal["vector", "halfvec"] = "halfvec", dim: int = 3) -> Collection:
    space = EmbeddingSpace("external", dim)
    return Collection(1, "docs", space, Chunking(64, 8), "english", vector_type=vector_type)


def fields_of(row: bytes) -> list[bytes | None]:
    (n_fields,), position = struct.unpack_from(">h", row), 2
    fields: list[bytes | None] = []
    for _ in range(n_fields):
        (size,) = struct.unpack_from(">i", row, position)
        position += 4
        fields.append(None if size < 0 else row[position : position + size])
        position += max(size, 0)
    assert position == len(row)
    return fields


def embedding_of(vector: Any, vector_type: Literal["vector", "halfvec"]) -> bytes:
    rows = encode_rows([Node("n", "d", "text", {}, {})], np.array([vector], dtype=np.float32), vector_type)
    found = dict(zip(COLUMNS, fields_of(rows), strict=True))["embedding"]
    assert found is not None
    return found


@given(FITTING)
def test_a_half_vector_is_its_length_two_bytes_of_nothing_and_float16_of_the_network(values: list[float]) -> None:
    expected = struct.pack(">HH3e", 3, 0, *np.array(values, dtype=np.float32).astype(np.float16).tolist())
    assert embedding_of(values, "halfvec") == expected


@given(FITTING)
def test_a_vector_is_the_same_with_float32(values: list[float]) -> None:
    assert embedding_of(values, "vector") == struct.pack(">HH3f", 3, 0, *values)


@given(FITTING)
def test_what_is_stored_is_what_is_written(values: list[float]) -> None:
    vectors = np.array([values], dtype=np.float32)
    stored = as_stored(a_collection(), vectors)
    assert struct.pack(">HH3e", 3, 0, *stored[0].tolist()) == embedding_of(values, "halfvec")
    assert np.array_equal(as_stored(a_collection(), stored), stored)
    assert as_stored(a_collection("vector"), vectors) is vectors


@given(st.lists(ANY, min_size=1, max_size=5))
def test_what_can_be_held_is_finite_and_points_where_it_did(rows: list[list[float]]) -> None:
    vectors = np.array(rows, dtype=np.float32)
    position = unholdable(a_collection(), vectors)
    good = vectors if position is None else vectors[:position]
    wide, held = good.astype(np.float64), as_stored(a_collection(), good).astype(np.float64)
    assert np.isfinite(held).all()
    lengths = np.linalg.norm(wide, axis=1)
    assert (np.linalg.norm(held - wide, axis=1) <= 1e-3 * lengths).all()


@pytest.mark.parametrize("values", [[65_520, 0, 0], [0, -1e30, 1], [1e-5, 0, 0], [9e-5, -9e-5, 0], [np.nan, 1, 1]])
def test_what_cannot_be_held_is_found_among_others(values: list[float]) -> None:
    vectors = np.array([[1, 2, 3], [0, 0, 0], values, [1, 1, 1]], dtype=np.float32)
    assert unholdable(a_collection(), vectors) == 2


@pytest.mark.parametrize("values", [[65_504, 0, 0], [0, -65_504, 1e-9], [1e-4, 0, 0], [0, 0, 0]])
def test_the_largest_and_the_smallest_that_can_be_held_are(values: list[float]) -> None:
    assert unholdable(a_collection(), np.array([values], dtype=np.float32)) is None


def test_no_vectors_are_no_trouble() -> None:
    assert unholdable(a_collection(), np.empty((0, 3), dtype=np.float32)) is None


def test_a_refusal_says_whose_vector_it_is_and_what_to_do() -> None:
    error = cannot_hold(a_collection(), "node n", node_id="n")
    assert "vector of node n " in error.message and "collection 'docs'" in error.message
    assert "length 1" in error.hint
    assert error.facts == {"node_id": "n"}
