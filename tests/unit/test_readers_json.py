from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ragstore.errors import ParseError
from ragstore.ingest.splitting import split
from ragstore.model.collection import Chunking
from ragstore.sources.raw import PART_SEPARATOR
from ragstore.sources.readers import ReadText, read


def records_of(read_text: ReadText) -> list[str]:
    assert read_text.shape == "records"
    ends = [*(start - len(PART_SEPARATOR) for start in read_text.part_starts[1:]), len(read_text.text)]
    return [read_text.text[start:end] for start, end in zip(read_text.part_starts, ends, strict=True)]


def records(data: str, name: str = "a.json") -> list[str]:
    return records_of(read(data.encode(), name))


def test_nested_values_are_lines_with_their_whole_path() -> None:
    assert records('{"name": "x", "v": 1.10, "deep": {"one": true, "two": {"id": 70, "no": null}}}') == [
        "name: x\nv: 1.10",
        "deep.one: true\ndeep.two.id: 70",
    ]


def test_each_object_of_an_array_is_a_record_with_its_text_last() -> None:
    data = '[{"text": "Long\\n\\nwords.", "id": 1}, {"id": 2, "tags": ["a", "b"]}, "plain", {}]'
    assert records(data) == ["id: 1\nLong\n\nwords.", "id: 2\ntags: a, b", "plain"]


def test_arrays_inside_objects_are_records_too_and_no_record_says_its_position() -> None:
    data = {"shop": "S", "data": {"page": 1, "items": [{"n": "a", "lines": [{"q": 1}, {"q": 2}]}, {"n": "b"}]}}
    assert records(json.dumps(data)) == [
        "shop: S",
        "data.page: 1",
        "data.items.n: a\n\ndata.items.lines.q: 1\n\ndata.items.lines.q: 2",
        "data.items.n: b",
    ]
    assert records('{"users": {"u1": {"n": 1}, "u2": {"n": 2}}}') == ["users.u1.n: 1", "users.u2.n: 2"]


def test_lists_of_plain_values_are_one_line_if_they_are_short() -> None:
    assert records('{"at": [7.40, 46.9], "m": [[1, 2], [3, 4]], "s": ["a, b", "c"]}') == [
        "at: 7.40, 46.9",
        "m: 1, 2",
        "m: 3, 4",
        "s: a, b",
        "s: c",
    ]


def an_item(i: int) -> dict[str, Any]:
    return {"id": 9000 + i, "name": f"pump number {i}", "parts": [{"sku": f"p{i}", "n": 2}, {"sku": f"q{i}", "n": 3}]}


@pytest.mark.parametrize("wrap", ['{"items": %s}', '{"data": {"page": {"items": %s}}}', "%s"])
def test_an_element_put_first_changes_few_chunks(wrap: str) -> None:
    items = [an_item(i) for i in range(400)]

    def hashes(of: list[Any]) -> list[bytes]:
        read_text = read((wrap % json.dumps(of)).encode(), "a.json")
        return [chunk.chunk_hash for chunk in split(read_text, Chunking(256, 32))]

    before = hashes(items)
    assert len(before) > 40
    assert len(set(hashes([an_item(random.Random(1).randrange(10**6)), *items])) - set(before)) <= 4


def test_json_lines_are_read_under_both_names() -> None:
    data = '{"id": 1}\n\n{"id": 2}\n'
    assert records(data, "a.jsonl") == records(data, "a.json") == ["id: 1", "id: 2"]
    assert read(data.encode(), "a.jsonl").places == [{"line": 1}, {"line": 3}]


@pytest.mark.parametrize(
    "data", ['{"a": 1}{"a": 2}', '{\n "a": 1\n}\n{\n "a": 2\n}\n', '{"a": 1},\n{"a": 2}', '\x1e{"a":1}\n\x1e{"a":2}\n']
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_values_one_after_the_other_are_all_read(data: str, name: str) -> None:
    assert records(data, name) == ["a: 1", "a: 2"]


def test_a_repeated_key_keeps_all_its_values() -> None:
    data = '{"step": "unplug the device", "step": "replace the fuse", "in": {"x": {"y": 1}, "x": [2, 3]}}'
    assert records(data) == [
        "step: unplug the device\nstep: replace the fuse",
        "in.x.y: 1\nin.x: 2, 3",
    ]


def test_numbers_keep_their_digits_however_many_and_their_words() -> None:
    digits = "9" * 5000
    assert records(f'{{"n": {digits}, "a": NaN, "b": -Infinity}}') == [f"n: {digits}\na: NaN\nb: -Infinity"]


def test_indentation_and_empty_lines_of_values_stay() -> None:
    assert records('{"text": "para\\n\\n    indented code\\n"}') == ["para\n\n    indented code"]
    code = "def f():\n    if a:\n\n        return 1"
    assert records(json.dumps([{"content": code, "id": 1}])) == [f"id: 1\n{code}"]
    assert records(json.dumps({"code": f"\n    x = 1\n{code}\n\n"})) == [f"code:\n    x = 1\n{code}"]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ('// about\n{"a": 1, /* b */ "u": "http://x//y, ]",}\n', "a: 1\nu: http://x//y, ]"),
        ("{a: 'it\\'s \"x\"', b: +.5, c: 0x1F, d: [1, 2,], }", 'a: it\'s "x"\nb: +.5\nc: 0x1F\nd: 1, 2'),
        ("{'a': None, 'b': True, 'c': '1.10'}", "b: true\nc: 1.10"),
        ('{"a": "one\ntwo"}', "a: one\ntwo"),
        ('# config\n{"a": 1}', "a: 1"),
    ],
)
def test_json5_comments_and_trailing_commas_are_mended_and_noted(data: str, shown: str) -> None:
    read_text = read(data.encode(), "a.json")
    assert read_text.text == shown
    assert int(read_text.notes["json_mended"]) > 0


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("broken", ['{"a": 3, "b": "cut he', '{"b": }'])
def test_a_line_that_is_cut_leaves_the_others(broken: str, name: str) -> None:
    for data in (f'{{"a": 1}}\n{{"a": 2}}\n{broken}', f'{{"a": 1}}\n{broken}\n{{"a": 2}}\n'):
        read_text = read(data.encode(), name)
        assert records_of(read_text) == ["a: 1", "a: 2"]
        assert read_text.notes == {"lines_unread": 1}


def test_lone_surrogates_are_replaced() -> None:
    read_text = read(b'{"a": "x\\ud800y", "b": "\\ud83d\\ude00"}', "a.json")
    assert read_text.text == "a: x\ufffdy\nb: \U0001f600"
    assert read_text.notes == {"lone_surrogates": 1}


@pytest.mark.parametrize(
    ("data", "name", "where"),
    [
        ('{"a": 1,\n "b": }', "a.json", "line 2, column 7"),
        ('{"a": }\n{"b": }\n', "a.jsonl", "line 1, column 7"),
        ('[\n1,\n"text"\n', "a.json", "line 4, column 1"),
        ('[{"a": 1}', "a.json", "line 1, column 10"),
        ("no json at all", "a.jsonl", "line 1, column 1"),
    ],
)
def test_invalid_json_names_its_line(data: str, name: str, where: str) -> None:
    with pytest.raises(ParseError, match=where):
        read(data.encode(), name)


def test_json_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ParseError, match="nested too deeply"):
        read(b"[" * 100_000 + b"]" * 100_000, "a.json")


@pytest.mark.parametrize("data", ["/*" * 300_000, '"\\"' * 300_000, "'" * 600_001, "{" + '"a":1,' * 100_000 + "x"])
@pytest.mark.timeout(60)  # what takes quadratic time would take hours
def test_what_cannot_be_mended_is_refused_in_time(data: str) -> None:
    with pytest.raises(ParseError):
        read(data.encode(), "a.json")


@pytest.mark.parametrize("text", [",", " , ,", "// nothing"])
def test_json_without_a_value_is_invalid(text: str) -> None:
    with pytest.raises(ParseError, match="is invalid JSON"):
        read(text.encode(), "a.json")
