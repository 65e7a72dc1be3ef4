from __future__ import annotations

from typing import Any

import pytest

from ragstore.errors import FilterError
from ragstore.model.filters import Condition, Filter, Group
from ragstore.postgres.filters import MAX_DEPTH, to_sql

HOSTILE = ["x' OR '1'='1", "'; DROP TABLE data_docs; --", "O'Brien", "%s", "%(k)s", ":k", "\\", "{0}", '"]', "--", "/*"]
SCALAR_OPERATORS = ["==", "!=", ">", ">=", "<", "<=", "contains", "text_match", "text_match_insensitive"]
LIST_OPERATORS = ["in", "nin", "any", "all"]


@pytest.mark.parametrize("operator", [*SCALAR_OPERATORS, *LIST_OPERATORS, "is_empty"])
def test_the_text_of_a_condition_does_not_depend_on_its_key_and_value(operator: Any) -> None:
    def text_of(key: str, value: str) -> str:
        return to_sql(Condition(key, operator, [value] if operator in LIST_OPERATORS else value))[0]

    assert {text_of(key, value) for key in HOSTILE for value in HOSTILE} == {text_of("key", "value")}


@pytest.mark.parametrize("operator", [*SCALAR_OPERATORS, *LIST_OPERATORS, "is_empty"])
def test_there_is_one_parameter_for_each_placeholder(operator: Any) -> None:
    values = ["a", "b"] if operator in LIST_OPERATORS else "a"
    text, params = to_sql(Group("not", [Condition("k", operator, values), Condition("l", "==", 1)]))
    assert text.count("%") == text.count("%s") == len(params)


@pytest.mark.parametrize(
    "tree",
    [
        Condition("k", "==", "v"),
        Condition("k", "in", ["v", 1]),
        Condition("k", "any", ["v", 1]),
        Condition("k", "all", ["v", 1]),
        Condition("k", "contains", 7),
        Group("and", [Condition("k", "==", "v"), Condition("l", "!=", "w")]),
    ],
)
def test_what_the_index_can_serve_is_written_as_containment(tree: Filter) -> None:
    assert "user_metadata @> " in to_sql(tree)[0]


def test_values_keep_their_types() -> None:
    values: list[str | int | float | bool | None] = ["07001", 7001, 7001.5, True, None]
    _, params = to_sql(Group("and", [Condition("zip", "contains", value) for value in values]))
    assert [param for param in params if param.startswith("{")] == [
        '{"zip": ["07001"]}', '{"zip": [7001]}', '{"zip": [7001.5]}', '{"zip": [true]}', '{"zip": [null]}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    ["a\0b", "\ud800", float("nan"), float("inf"), float("-inf"), 10**5000],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_no_row_can_hold_never_reaches_the_database(value: Any) -> None:
    assert to_sql(Condition("k", "==", value)) == ("FALSE", [])
    assert to_sql(Condition("k", "!=", value)) == ("(NOT FALSE)", [])
    assert to_sql(Condition("k", "in", [value, "v"])) == to_sql(Condition("k", "in", ["v"]))


def test_a_key_that_no_row_can_hold_is_a_missing_key() -> None:
    assert to_sql(Condition("\0", "==", 1)) == ("FALSE", [])
    assert to_sql(Condition("\0", "is_empty")) == ("TRUE", [])
    assert to_sql(Condition("\0", "nin", [1])) == ("(NOT FALSE)", [])


@pytest.mark.parametrize("joiner", ["and", "or", "not"])
def test_an_empty_group_is_true(joiner: Any) -> None:
    assert to_sql(Group(joiner, [])) == ("TRUE", [])


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        *[("==", value) for value in (["a"], {"a": 1}, b"a", object())],
        *[(operator, value) for operator in (">", ">=", "<", "<=") for value in (True, None, [1], 1j)],
        *[(operator, value) for operator in LIST_OPERATORS for value in ("a", 1, None, [["a"]], [object()], {"a": 1})],
        ("contains", ["a"]),
        *[(operator, value) for operator in ("text_match", "text_match_insensitive") for value in (1, None, ["a"])],
        ("text_match", 10**5000),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_a_value_of_the_wrong_kind_is_refused_by_operator_and_key(operator: Any, value: Any) -> None:
    with pytest.raises(FilterError) as caught:
        to_sql(Condition("the key", operator, value))
    assert repr(operator) in caught.value.message
    assert "'the key'" in caught.value.message
    assert caught.value.hint


def test_unknown_operators_groups_and_keys_are_refused() -> None:
    invalid: list[Any] = [Condition("k", "like", "v"), Group("xor", []), Condition(1, "==", "v")]  # type: ignore[arg-type]
    for tree in invalid:
        with pytest.raises(FilterError):
            to_sql(tree)


def test_a_filter_may_be_deep_but_not_endless() -> None:
    def nested(depth: int) -> Filter:
        return Condition("k", "==", 1) if depth == 0 else Group("not", [nested(depth - 1)])

    assert to_sql(nested(MAX_DEPTH))[1] == ['{"k": 1}']
    with pytest.raises(FilterError, match="deep"):
        to_sql(nested(MAX_DEPTH + 1))


def test_the_column_can_be_another() -> None:
    assert to_sql(Condition("k", "==", 1), column="n.user_metadata") == ("(n.user_metadata @> %s::jsonb)", ['{"k": 1}'])
