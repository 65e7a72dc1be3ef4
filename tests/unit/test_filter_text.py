from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ragstore.errors import FilterError
from ragstore.model.filters import Condition, Filter, Group
from ragstore.query.filter_text import parse_filter, parse_filters
from tests.support.filter_oracle import matches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lang=en", Condition("lang", "==", "en")),
        ("lang==en", Condition("lang", "==", "en")),
        ("lang = en", Condition("lang", "==", "en")),
        ("zip=07001", Condition("zip", "==", "07001")),
        ('year="2020"', Condition("year", "==", "2020")),
        ("year=2020", Group("or", (Condition("year", "==", 2020), Condition("year", "==", "2020")))),
        ("year!=2020", Group("and", (Condition("year", "!=", 2020), Condition("year", "!=", "2020")))),
        ("year>=2020", Group("or", (Condition("year", ">=", 2020), Condition("year", ">=", "2020")))),
        ("done=true", Group("or", (Condition("done", "==", True), Condition("done", "==", "true")))),
        ("name<m", Condition("name", "<", "m")),
        ("name<=m", Condition("name", "<=", "m")),
        ("name>m", Condition("name", ">", "m")),
        ("name>true", Condition("name", ">", "true")),
        ("title~100%", Condition("title", "text_match", "100%")),
        ("title~2020", Condition("title", "text_match", "2020")),
        ('title~" a "', Condition("title", "text_match", " a ")),
        ("title~*GuIde", Condition("title", "text_match_insensitive", "GuIde")),
        ("title:text_match=a", Condition("title", "text_match", "a")),
        ("tenant=x' OR '1'='1", Condition("tenant", "==", "x' OR '1'='1")),
        ("url=https://a/?b=c&d>e", Condition("url", "==", "https://a/?b=c&d>e")),
        ("dc:title=x", Condition("dc:title", "==", "x")),
        ("empty=", Condition("empty", "==", "")),
        ("value=null", Condition("value", "==", "null")),
        ("value=NaN", Condition("value", "==", "NaN")),
        ("lang:in=de,en", Condition("lang", "in", ["de", "en"])),
        ("lang:in=de, en", Condition("lang", "in", ["de", "en"])),
        ("dc:lang:nin=de", Condition("dc:lang", "nin", ["de"])),
        ("year:in=2019,x", Condition("year", "in", [2019, "2019", "x"])),
        ('year:in=["a,b", 1]', Condition("year", "in", ["a,b", 1])),
        ("year:in=", Condition("year", "in", [])),
        ("tags:any=red,blue", Condition("tags", "any", ["red", "blue"])),
        ("tags:all=red,1", Group("and", (Condition("tags", "any", ["red"]), Condition("tags", "any", [1, "1"])))),
        ("tags:all=", Condition("tags", "all", [])),
        ("tags:contains=red", Condition("tags", "contains", "red")),
        ("tags:is_empty", Condition("tags", "is_empty")),
        ('{"key": "year", "op": ">=", "value": 2020}', Condition("year", ">=", 2020)),
        ('{"key": "year", "value": "2020"}', Condition("year", "==", "2020")),
        ('{"key": "a=b", "op": "is_empty"}', Condition("a=b", "is_empty")),
        (
            '{"not": [{"key": "a", "value": 1}, {"or": []}]}',
            Group("not", (Condition("a", "==", 1), Group("or", ()))),
        ),
    ],
)
def test_a_text_means_its_filter(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "found", "not_found"),
    [
        ("year=2020", [2020, 2020.0, "2020"], [2021, "2020.0", None, [2020]]),
        ('year="2020"', ["2020"], [2020]),
        ("year=07001", ["07001"], [7001, "7001"]),
        ("year!=2020", [2021, "x", None], [2020, "2020"]),
        ("year>5", [6, "6"], [5, "4", True]),
        ("year=true", [True, "true"], [1, "True"]),
        ("year:nin=1,b", [2, "a", None], [1, "1", "b"]),
    ],
)
def test_a_bare_value_finds_the_value_and_its_text(text: str, found: list[Any], not_found: list[Any]) -> None:
    tree = parse_filter(text)
    assert [value for value in found if not matches(tree, {"year": value})] == []
    assert [value for value in not_found if matches(tree, {"year": value})] == []


def test_several_texts_must_all_hold() -> None:
    assert parse_filters([]) is None
    assert parse_filters(["a=b"]) == Condition("a", "==", "b")
    assert parse_filters(["a=b", "c~d"]) == Group("and", (Condition("a", "==", "b"), Condition("c", "text_match", "d")))


@pytest.mark.parametrize(
    "text",
    [
        "", "year", "=2020", ":in=1", "tags:is_empty=1", "year=[2020]", 'year={"a": 1}', "year:contains=[1]",
        "{", '{"key": "a"}', '{"value": 1}', '{"key": 1, "value": 1}', '{"key": "a", "op": "like", "value": 1}',
        '{"key": "a", "value": 1, "extra": 1}', '{"and": {"key": "a", "value": 1}}', '{"and": [1]}', '{"and": [], "or": []}',
        '{"key": "a", "value": NaN}', '{"xor": []}', '{"not": ' * 5000, '{"not": [' * 5000 + "]}" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("title:like=AB%", "title~VALUE"), ("title:ilike=x", "title~*VALUE"), ("year:gte=2020", "year>=VALUE"),
        ("lang:eq=en", "lang=VALUE"), ("tags:contain=x", "tags:contains=VALUE"), ("lang:not_in=a", "lang:nin=VALUE"),
        ("tags:isnull=1", "tags:is_empty?"), ("dc:title:startswith=x", "dc:title~VALUE"), ("year:In=1", "year:in=VALUE"),
    ],
)  # fmt: skip
def test_an_operator_of_another_program_is_refused_with_ours(text: str, meant: str) -> None:
    with pytest.raises(FilterError, match="unknown operator") as caught:
        parse_filter(text)
    assert f"did you mean {meant}" in caught.value.hint
    written = re.search(r"'(\{.*\})'", caught.value.hint)
    assert written is not None
    key = json.loads(written[1].replace("…", "1"))["key"]
    assert parse_filter(json.dumps({"key": key, "value": "x"})) == Condition(key, "==", "x")


def test_an_operator_of_a_tree_is_guessed_too() -> None:
    for operator, meant in (
        ("like", "text_match"),
        ("gte", ">="),
        ("not_in", "nin"),
        ("~", "text_match"),
        ("cnotains", "contains"),
    ):
        with pytest.raises(FilterError) as caught:
            parse_filter(json.dumps({"key": "a", "op": operator, "value": 1}))
        assert f"did you mean {meant!r}" in caught.value.hint
        parse_filter(json.dumps({"key": "a", "op": meant, "value": 1}))
    with pytest.raises(FilterError, match="followed by"):
        parse_filter("year:in>5")
