from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragstore.errors import TransferError
from ragstore.transfer import persist_dir
from ragstore.transfer.persist_dir import entries

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
SECTIONS = st.dictionaries(st.text(), st.dictionaries(st.text(), VALUES))


@pytest.fixture(params=[1, 7, 1 << 20])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Characters that are read at once: whatever a window's end cuts through, the values are the same."""
    monkeypatch.setattr(persist_dir, "WINDOW_CHARS", request.param)
    return int(request.param)


def read(text: bytes | str) -> list[tuple[str, str | None, Any]]:
    data = text.encode() if isinstance(text, str) else text
    return [(entry.section, entry.key, entry.value) for entry in entries(io.BytesIO(data), "x.json")]


@settings(max_examples=40)
@given(SECTIONS, st.booleans(), st.sampled_from([None, 1]), st.sampled_from([1, 2, 5, 64]))
def test_what_json_wrote_is_read_back(
    sections: dict[str, dict[str, Any]], ascii_only: bool, indent: int | None, n_chars: int
) -> None:
    before, persist_dir.WINDOW_CHARS = persist_dir.WINDOW_CHARS, n_chars
    try:
        text = json.dumps(sections, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
        assert read(text) == [(name, key, value) for name, part in sections.items() for key, value in part.items()]
    finally:
        persist_dir.WINDOW_CHARS = before


@pytest.mark.usefixtures("window")
def test_numbers_that_json_does_not_have_are_read_as_llamaindex_writes_them() -> None:
    ((_, _, vector),) = read('{"embedding_dict": {"a": [NaN, -Infinity, 1e-5, 12]}}')
    assert math.isnan(vector[0])
    assert vector[1:] == [-math.inf, 1e-5, 12]


@pytest.mark.usefixtures("window")
def test_sections_that_are_no_objects_come_whole() -> None:
    assert read('{"a": null, "b": [1, 2], "c": {}, "d": 12}') == [
        ("a", None, None),
        ("b", None, [1, 2]),
        ("d", None, 12),
    ]


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("", 0),
        ("[]", 0),
        ('{"a": {"b": 1', 13),
        ('{"a": {"b": [1, }', 16),
        ('{"ü": {"b" 1}}', 12),
        ('{"a": {"b": "never ends', 12),
        ('{"a": {}} {}', 10),
        ('{"a": {1: 2}}', 7),
        ('{"a": {"b": 1},}', 15),
    ],
)
def test_damage_is_told_with_its_place(text: str, offset: int) -> None:
    with pytest.raises(TransferError, match=r"x\.json .* at byte") as refused:
        read(text)
    assert refused.value.facts["offset"] == offset


@pytest.mark.usefixtures("window")
def test_bytes_that_are_no_text_are_told_with_their_place() -> None:
    with pytest.raises(TransferError, match="no UTF-8") as refused:
        read(b'{"a": {"b": "\xff"}}')
    assert refused.value.facts["offset"] == 13


def test_damage_in_the_middle_is_found_without_reading_to_the_end() -> None:
    stream = io.BytesIO(b'{"a": {"b": [1, oops' + b" " * 50_000_000)
    with pytest.raises(TransferError):
        list(entries(stream, "x.json"))
    assert stream.tell() < 5_000_000


def test_a_value_that_never_ends_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persist_dir, "MAX_VALUE_CHARS", 10_000_000)
    stream = io.BytesIO(b'{"a": {"b": "' + b"x" * 100_000_000)
    with pytest.raises(TransferError, match="more than 10,000,000 characters"):
        list(entries(stream, "x.json"))
    assert stream.tell() < 50_000_000
