from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragstore.errors import ContentError, ParseError, UnsupportedTypeError
from ragstore.sources.raw import Choices
from ragstore.sources.readers import ReadText, read
from tests.support.files import a_docx


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
@pytest.mark.parametrize("data", [b"", b" \n\r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_emptied_file_of_any_type_is_an_empty_document(name: str, data: bytes) -> None:
    assert read(data, name) == ReadText("", notes={"empty": 1})


@pytest.mark.parametrize(
    ("data", "name", "metadata"),
    [
        (b"<html><script>x</script>", "a.html", {}),
        (b"<html><head><title>The title</title></head><body></body></html>", "a.html", {"title": "The title"}),
        (b"---\ntitle: A guide\n---\n", "a.md", {"title": "A guide"}),
        (b"[]", "a.json", {}),
        (b"\xff\xfe\n\x00", "a.txt", {}),
    ],
)
def test_a_text_without_words_is_an_empty_document_with_its_metadata(
    data: bytes, name: str, metadata: dict[str, str]
) -> None:
    found = read(data, name)
    assert (found.text.strip(), found.metadata, found.notes) == ("", metadata, {"empty": 1})


def test_an_office_document_without_words_is_refused_for_it_may_hold_pictures() -> None:
    with pytest.raises(ParseError, match="has no text") as raised:
        read(a_docx(""), "a.docx")
    assert "OCR" in raised.value.hint


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
        assert read_text.text.strip() or read_text.notes["empty"]


def test_a_chosen_encoding_decodes_what_is_not_utf8() -> None:
    words = "Настоящий договор вступает в силу"
    chosen = Choices(text_encoding="cp1251")
    assert read(words.encode("cp1251"), "a.txt", chosen) == ReadText(words, notes={"decoded_as": "cp1251"})
    assert read(words.encode(), "a.txt", chosen) == ReadText(words)
