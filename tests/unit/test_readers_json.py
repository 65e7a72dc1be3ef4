from __future__ import annotations

import pytest

from ragstore.errors import ParseError
from ragstore.sources.readers import read


def records(data: str, name: str = "a.json") -> list[str]:
    read_text = read(data.encode(), name)
    assert read_text.shape == "records"
    return read_text.text.split("\n\n")


def test_nested_values_are_lines_with_their_whole_path() -> None:
    assert records('{"name": "x", "v": 1.10, "deep": {"list": [true, null, {"id": 07e1}]}}'.replace("07e1", "70")) == [
        "name: x\nv: 1.10",
        "deep.list[0]: true\ndeep.list[2].id: 70",
    ]


def test_each_object_of_an_array_is_a_record_with_its_text_last() -> None:
    data = '[{"text": "Long\\n\\nwords.", "id": 1}, {"id": 2, "tags": ["a", "b"]}, "plain", {}]'
    assert records(data) == ["id: 1\nLong\nwords.", "id: 2\ntags[0]: a\ntags[1]: b", "plain"]


def test_json_lines_are_read_under_both_names() -> None:
    data = '{"id": 1}\n\n{"id": 2}\n'
    assert records(data, "a.jsonl") == records(data, "a.json") == ["id: 1", "id: 2"]


def test_numbers_keep_their_digits_however_many() -> None:
    digits = "9" * 5000
    assert records(f'{{"n": {digits}}}') == [f"n: {digits}"]


def test_lone_surrogates_are_replaced() -> None:
    read_text = read(b'{"a": "x\\ud800y", "b": "\\ud83d\\ude00"}', "a.json")
    assert read_text.text == "a: x\ufffdy\nb: \U0001f600"
    assert read_text.notes == {"lone_surrogates": 1}


@pytest.mark.parametrize(
    ("data", "name", "where"),
    [
        ('{"a": 1,\n "b": }', "a.json", "line 2, column 7"),
        ('{"a": 1}\n{"b": }\n', "a.jsonl", "line 2, column 7"),
        ('{"a": 1}\n{"b": }\n', "a.json", "line 2, column 7"),
        ('[{"a": 1}', "a.json", "line 1, column 10"),
    ],
)
def test_invalid_json_names_its_line(data: str, name: str, where: str) -> None:
    with pytest.raises(ParseError, match=where):
        read(data.encode(), name)


def test_json_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ParseError, match="nested too deeply"):
        read(b"[" * 100_000 + b"]" * 100_000, "a.json")
