from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstore.errors import ContentError, ParseError, UnsupportedTypeError
from ragstore.sources.raw import Choices
from ragstore.sources.readers import ReadText, read


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße – naïve".encode(), "Grüße – naïve"),
        (b"\xef\xbb\xbf" + "Grüße".encode(), "Grüße"),
        ("Grüße".encode("utf-16"), "Grüße"),
        (b"\xfe\xff" + "Grüße".encode("utf-16-be"), "Grüße"),
        ("Grüße".encode("utf-32"), "Grüße"),
        ("Plain words without a mark".encode("utf-16-le"), "Plain words without a mark"),
        ("Plain words without a mark".encode("utf-16-be"), "Plain words without a mark"),
    ],
)
def test_text_is_read_in_its_encoding(data: bytes, text: str) -> None:
    assert read(data, "a.txt") == ReadText(text)


def test_windows_1252_is_noted() -> None:
    assert read("Grüße – “naïve”".encode("cp1252"), "a.txt") == ReadText(
        "Grüße – “naïve”", notes={"decoded_as_cp1252": 1}
    )


def test_one_damaged_byte_does_not_change_the_encoding_of_the_rest() -> None:
    read_text = read("Grüße aus Köln ".encode() + b"\xff end", "a.txt")
    assert read_text == ReadText("Grüße aus Köln \ufffd end", notes={"invalid_utf8": 1})


def test_nul_bytes_are_removed_and_counted() -> None:
    assert read(b"one\0 two\0\0 three\r\n", "a.txt") == ReadText("one two three\n", notes={"nul_bytes": 3})


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.json", "a.html"])
def test_binary_content_is_refused_as_such(name: str) -> None:
    with pytest.raises(UnsupportedTypeError, match="is binary, not text"):
        read(random.Random(1).randbytes(5000), name)


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a.json", "a.csv"])
def test_an_empty_file_is_said_to_be_empty(name: str) -> None:
    with pytest.raises(ParseError) as raised:
        read(b"", name)
    assert raised.value.message == "is empty"
    assert raised.value.code == "content.parse"


@pytest.mark.parametrize(
    ("data", "name"), [(b" \n\r\n\t", "a.txt"), (b"\xef\xbb\xbf", "a.txt"), (b"<html><script>x</script>", "a.html")]
)
def test_a_file_without_words_has_no_text(data: bytes, name: str) -> None:
    with pytest.raises(ParseError, match="has no text"):
        read(data, name)


def test_simple_front_matter_becomes_metadata() -> None:
    read_text = read(b'---\ntitle: "A guide"\ndraft: false\n# note\n---\n\n# One\nBody\n', "a.md")
    assert read_text == ReadText("\n# One\nBody\n", "markdown", metadata={"title": "A guide", "draft": "false"})


@pytest.mark.parametrize("header", ["---\ntags:\n  - a\n---\n", "---\ntags: [a, b]\n---\n", "---\nno end\n\n"])
def test_other_front_matter_stays_in_the_text(header: str) -> None:
    assert read(f"{header}Body".encode(), "a.md") == ReadText(f"{header}Body", "markdown")


@given(st.binary(max_size=300), st.sampled_from(["txt", "md", "html", "csv", "tsv", "json", "jsonl", "pdf", "docx"]))
def test_no_bytes_make_a_reader_fail_in_an_unexpected_way(data: bytes, suffix: str) -> None:
    try:
        read_text = read(data, f"a.{suffix}")
    except ContentError as error:
        assert error.message
        assert error.hint
    else:
        read_text.text.encode()
        assert "\0" not in read_text.text
        assert read_text.text.strip()


def test_a_chosen_encoding_decodes_what_is_not_utf8() -> None:
    words = "Настоящий договор вступает в силу"
    chosen = Choices(text_encoding="cp1251")
    assert read(words.encode("cp1251"), "a.txt", chosen) == ReadText(words, notes={"decoded_as": "cp1251"})
    assert read(words.encode(), "a.txt", chosen) == ReadText(words)
