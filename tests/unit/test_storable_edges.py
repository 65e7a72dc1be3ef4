"""Values at the edges of the rules: of classes of their own, without a counterpart, endless, or just too large."""

from __future__ import annotations

import math
from collections import OrderedDict, UserDict
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import pytest

from ragstore.errors import InvalidNodeError
from ragstore.model.node import MAX_NODE_BYTES, Node, check_node
from ragstore.model.storable import MAX_DEPTH, MAX_METADATA_BYTES, storable_metadata, storable_text


class Size(IntEnum):
    LARGE = 3


class Pair(Enum):
    BOTH = (1, 2)


class Shout(str):
    def __str__(self) -> str:
        return "SHOUT"


def stored(value: Any) -> Any:
    return storable_metadata({"key": value})["key"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("07001", "07001"),
        ("", ""),
        (0, 0),
        (-(2**63), -(2**63)),
        (5e-324, 5e-324),
        (Decimal("3.00"), 3),
        (Decimal(2**63 - 1), 2**63 - 1),
        (Decimal("1E-7"), 1e-7),
        (np.uint8(7), 7),
        (np.float64(0.5), 0.5),
        (np.str_("text"), "text"),
        (np.datetime64("2026-01-31T12:30:00.000000001"), "2026-01-31T12:30:00.000000001"),
        (frozenset({2, 1}), [1, 2]),
        ([1, [2, (3,)]], [1, [2, [3]]]),
        (Pair.BOTH, [1, 2]),
        (Size.LARGE, 3),
        ({1: "a", None: "b", False: "c"}, {"1": "a", "None": "b", "False": "c"}),
        (OrderedDict(a=UserDict({"b": 1})), {"a": {"b": 1}}),
        ({"nul\0": 1}, {"nul": 1}),
        ({"$set": 1, "a.b": 2, "": 3}, {"$set": 1, "a.b": 2, "": 3}),
    ],
    ids=repr,
)
def test_a_value_is_stored_as_a_plain_one(value: Any, wanted: Any) -> None:
    found = stored(value)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    "value",
    [
        float("-inf"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal(2**63),
        Decimal("1E+400"),
        Decimal("1E+999999999"),
        np.uint64(2**63),
        np.float32("nan"),
        np.longdouble(1),
        np.complex64(1),
        np.datetime64("NaT"),
        np.timedelta64(1, "ns"),
        bytearray(b"bytes"),
        1j,
        {"a\0": 1, "a": 2},
        [[b"deep"]],
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_value_that_neither_store_can_hold_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidNodeError, match="key") as raised:
        stored(value)
    assert raised.value.hint


def test_a_refusal_names_the_place_of_the_value() -> None:
    with pytest.raises(InvalidNodeError, match=r"'a\.b\[1\]\.c'"):
        storable_metadata({"a": {"b": [0, {"c": b""}]}})


def test_a_text_of_a_class_of_its_own_becomes_plain_text() -> None:
    assert type(stored(Shout("quiet"))) is str


def test_zero_keeps_its_sign() -> None:
    assert math.copysign(1, stored(-0.0)) == -1


@pytest.mark.parametrize("wrap", [lambda v: {"k": v}, lambda v: [v]], ids=["objects", "lists"])
def test_nesting_is_limited_in_objects_and_lists_alike(wrap: Any) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert stored(value) == value
    with pytest.raises(InvalidNodeError, match="nested deeper"):
        stored(wrap(value))


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidNodeError, match="nested deeper"):
        stored(endless)


def test_metadata_is_measured_in_bytes() -> None:
    assert stored("x" * (MAX_METADATA_BYTES - 10))
    for large in ("x" * MAX_METADATA_BYTES, "é" * (MAX_METADATA_BYTES // 2), ["x" * 1000] * 1001):
        with pytest.raises(InvalidNodeError, match="more than"):
            stored(large)


def test_text_that_both_stores_take_is_not_copied() -> None:
    text = "é" * 100
    assert storable_text(text) is text


@pytest.mark.parametrize("node_id", ["", "x" * 1025, "é" * 513, "nul\0"])
def test_a_node_id_that_an_index_cannot_hold_is_refused(node_id: str) -> None:
    with pytest.raises(InvalidNodeError, match="node id"):
        check_node(Node(node_id, None, "text", {}, {}))


def test_a_node_too_large_for_mongodb_is_refused() -> None:
    check_node(Node("id", None, "x" * MAX_NODE_BYTES, {}, {}))
    for text in ("x" * (MAX_NODE_BYTES + 1), "é" * (MAX_NODE_BYTES // 2 + 1)):
        with pytest.raises(InvalidNodeError, match="bytes of text"):
            check_node(Node("id", None, text, {}, {}))
