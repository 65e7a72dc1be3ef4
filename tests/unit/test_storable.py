from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from bson import BSON
from hypothesis import given
from hypothesis import strategies as st

from ragstore.errors import InvalidNodeError
from ragstore.model.storable import MAX_DEPTH, storable_metadata, storable_text


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("plain", "plain"),
        ("a\0b", "ab"),
        ("a\ud800b", "a\ufffdb"),
        ("\U0001f600", "\U0001f600"),
        (2**63 - 1, 2**63 - 1),
        (1.5, 1.5),
        (True, True),
        (None, None),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (Decimal("2.50"), 2.5),
        (Decimal(7), 7),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        ({"b", "a"}, ["a", "b"]),
        ((1, 2), [1, 2]),
        (Colour.RED, "red"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("a/b"), "a/b"),
        ({1: {"x": (1,)}}, {"1": {"x": [1]}}),
    ],
)
def test_a_value_becomes_what_both_stores_can_hold(value: Any, stored: Any) -> None:
    result = storable_metadata({"key": value})["key"]
    assert result == stored
    assert type(result) is type(stored)


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        2**63,
        -(2**63) - 1,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal(2**70),
        object(),
        np.array([1, 2]),
        {1: "a", "1": "b"},
    ],
)
def test_a_value_that_one_store_would_refuse_is_refused_for_both_and_named(value: Any) -> None:
    with pytest.raises(InvalidNodeError, match="outer"):
        storable_metadata({"outer": {"inner": value}})


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> Any:
        return {"k": nested(depth - 1)} if depth else "leaf"

    storable_metadata(nested(MAX_DEPTH - 1))
    with pytest.raises(InvalidNodeError, match="nested deeper"):
        storable_metadata(nested(MAX_DEPTH + 2))


def test_metadata_is_bounded() -> None:
    storable_metadata({"key": "x" * 900_000})
    with pytest.raises(InvalidNodeError, match="more than 1,000,000"):
        storable_metadata({"key": "x" * 1_100_000})


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.dates() | st.decimals()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_whatever_is_accepted_goes_through_json_and_bson_unchanged(metadata: dict[str, Any]) -> None:
    try:
        stored = storable_metadata(metadata)
    except InvalidNodeError:
        return
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert BSON.encode(stored).decode() == stored
    assert storable_metadata(stored) == stored


@given(st.text(st.characters()))
def test_text_loses_nothing_but_what_cannot_be_stored(text: str) -> None:
    stored = storable_text(text)
    stored.encode()
    assert "\0" not in stored
    assert stored == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text if c != "\0")
