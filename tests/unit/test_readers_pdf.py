from __future__ import annotations

import pytest

from ragstore.errors import ParseError
from ragstore.sources.readers import read
from tests.support.files import a_pdf


def test_each_page_is_found_by_its_offset() -> None:
    read_text = read(a_pdf(["First page.\nSecond line.", "Second page.", "Third."], title="A title"), "a.pdf")
    assert read_text.text == "First page.\nSecond line.\n\nSecond page.\n\nThird."
    assert [read_text.text[start:][:6] for start in read_text.part_starts] == ["First ", "Second", "Third."]
    assert read_text.metadata == {"title": "A title", "pages": 3}
    assert read_text.shape == "prose"


def test_an_empty_page_between_others_keeps_the_count() -> None:
    read_text = read(a_pdf(["One.", "", "Three."]), "a.pdf")
    assert [read_text.text[start:].strip()[:3] for start in read_text.part_starts] == ["One", "Thr", "Thr"]


def test_an_encrypted_pdf_says_so() -> None:
    with pytest.raises(ParseError, match="is encrypted") as raised:
        read(a_pdf(["Secret."], encrypted=True), "a.pdf")
    assert "password" in raised.value.hint


def test_a_pdf_of_images_names_ocr() -> None:
    with pytest.raises(ParseError, match="has no text, only images") as raised:
        read(a_pdf(["", ""]), "scan.pdf")
    assert "OCR" in raised.value.hint


def test_a_truncated_pdf_is_refused_wherever_it_was_cut() -> None:
    whole = a_pdf(["One.", "Two."])
    for n_bytes in range(20, len(whole) - 5, 40):
        with pytest.raises(ParseError, match="truncated"):
            read(whole[:n_bytes], "a.pdf")


def test_a_damaged_pdf_is_refused() -> None:
    with pytest.raises(ParseError, match="is a damaged PDF"):
        read(b"%PDF-1.4\nnothing that fits\n%%EOF\n", "a.pdf")
