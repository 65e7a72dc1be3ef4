from __future__ import annotations

import io
import zipfile

import pytest

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources import word_documents
from ragstore.sources.readers import read
from tests.support.files import a_docx, a_word_paragraph, a_word_table


def test_headings_paragraphs_and_tables_are_kept() -> None:
    body = (
        a_word_paragraph("Guide", "Heading1")
        + a_word_paragraph("First words.")
        + a_word_paragraph("Setup", "Heading2")
        + a_word_table([["Option", "Default"], ["port", "5432"]])
    )
    read_text = read(a_docx(body, title="A title"), "a.docx")
    assert read_text.shape == "markdown"
    assert read_text.metadata == {"title": "A title"}
    lines = [line for line in read_text.text.split("\n") if line]
    assert lines[:3] == ["# Guide", "First words.", "## Setup"]
    assert [line for line in lines if "port" in line] == ["| port | 5432 |"]


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = a_docx(a_word_paragraph("x"), extra={"word/big.xml": b"0" * (32 * 1024 * 1024)})
    assert len(bomb) < 200_000
    with pytest.raises(LimitExceededError, match="would unpack to 33,5"):
        read(bomb, "a.docx")


def test_a_bomb_that_lies_about_its_size_gives_no_more_than_it_said() -> None:
    honest = a_docx(a_word_paragraph("x" * 50_000_000))
    buffer = io.BytesIO(honest)
    with zipfile.ZipFile(buffer) as archive:
        real = archive.getinfo("word/document.xml").file_size
    lying = honest.replace(real.to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert lying != honest
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(lying, "a.docx")


def test_many_small_members_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    document = a_docx(a_word_paragraph("x"), extra={f"word/{i}.xml": b"0" * 10_000 for i in range(8)})
    monkeypatch.setattr(word_documents, "MAX_UNPACKED_BYTES", 80_000)
    with pytest.raises(LimitExceededError):
        read(document, "a.docx")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_document_is_damaged(keep: float) -> None:
    whole = a_docx(a_word_paragraph("Some words. " * 50))
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(whole[: int(len(whole) * keep)], "a.docx")


def test_broken_xml_inside_is_damaged() -> None:
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(a_docx("<w:p><w:r>"), "a.docx")


def test_entities_cannot_multiply() -> None:
    levels = "".join('<!ENTITY e%d "%s">' % (i + 1, 10 * f"&e{i};") for i in range(9))  # noqa: UP031 - nested quotes
    bomb = f'<!DOCTYPE b [<!ENTITY e0 "aaaaaaaaaa">{levels}]>'
    document = f'<?xml version="1.0"?>{bomb}<w:document xmlns:w="x"><w:body>&e9;</w:body></w:document>'
    with pytest.raises(ParseError, match="is a damaged Word document"):
        read(a_docx("", extra={"word/document.xml": document.encode()}), "a.docx")
