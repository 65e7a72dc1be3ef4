from __future__ import annotations

import pytest

from ragstore.errors import ParseError
from ragstore.model.notes import losses
from ragstore.sources.line_hyphens import HYPHEN_MARK, join_lines
from ragstore.sources.readers import read
from tests.support.files import a_pdf, a_pdf_page


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


def text_of(pdf: bytes) -> str:
    return read(pdf, "a.pdf").text


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_the_lines_of_a_turned_page_stay_apart(degrees: int) -> None:
    turns = {0: "1 0 0 1 0 0", 90: "0 1 -1 0 595 0", 180: "-1 0 0 -1 595 792", 270: "0 -1 1 0 0 792"}
    rows = [f"Position {i:02} price {i} CHF" for i in range(1, 15)]
    lines = " ".join(f"BT /F1 12 Tf 50 {500 - 20 * i} Td ({row}) Tj ET" for i, row in enumerate(rows))
    text = text_of(a_pdf_page(f"q {turns[degrees]} cm {lines} Q", f"/Rotate {degrees}"))
    assert text.strip().split("\n") == rows


def test_a_word_that_was_divided_is_joined_and_a_compound_keeps_its_hyphen() -> None:
    page = "This shows hyphen-\nation, and a well-\nknown compound, a cost-\nbenefit view, US-\nASCII, Debian-\nspecific, docu-\nments."
    assert " ".join(text_of(a_pdf([page])).split()) == (
        "This shows hyphenation, and a well-known compound, a cost-benefit view, US-ASCII, Debian-specific, documents."
    )


@pytest.mark.parametrize(
    ("pages", "joined"),
    [
        (["The co-op is a co-op.", "A co-\nop."], "A co-op."),
        (["The markup language.", "A mark-\nup language."], "A markup language."),
        (["The anti-gravity pump.", "An anti-\ngravity pump."], "An anti-gravity pump."),
    ],
)
def test_the_words_of_the_document_decide_about_a_hyphen(pages: list[str], joined: str) -> None:
    assert text_of(a_pdf(pages)).endswith(joined)


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        (f"hyphen{HYPHEN_MARK}ation", "hyphenation"),
        (f"well{HYPHEN_MARK}\r\nknown", "well-known"),
        ("2019-\r\n2020", "2019-2020"),
        ("up-to-\r\ndate", "up-to-date"),
        ("Vor-\nund Nachteile", "Vor- und Nachteile"),
        ("example.org/user-\nmanual", "example.org/user-manual"),
        ("Donau\xad\ndampf Donau\xaddampf", "Donaudampf Donaudampf"),
        ("MERCHANTABIL-\nITY", "MERCHANTABILITY"),
        ("a list -\nof things", "a list -\nof things"),
        (f"the end{HYPHEN_MARK}", "the end-"),
    ],
)
def test_hyphens_of_each_kind(lines: str, joined: str) -> None:
    assert join_lines([lines]) == [joined]


@pytest.mark.parametrize("after", [b"\0" * 5_000, b"\n" * 3_000, b"<html>" + b"x" * 9_000 + b"</html>"])
def test_bytes_after_the_end_are_passed_over(after: bytes) -> None:
    assert text_of(a_pdf(["One.", "Two."]) + after) == "One.\n\nTwo."


def test_an_end_mark_may_be_missing_or_cut() -> None:
    whole = a_pdf(["One.", "Two."])
    without = whole.removesuffix(b"%%EOF\n")
    for end in (b"", b"%", b"%%EO"):
        assert text_of(without + end) == "One.\n\nTwo."
    all_objects = whole[: whole.index(b"startxref")]
    assert text_of(all_objects) == "One.\n\nTwo."


def test_bytes_before_the_header_are_passed_over() -> None:
    assert text_of(b"X-Junk: yes\r\n\r\n" + a_pdf(["One."])) == "One."


def test_a_page_that_cannot_be_loaded_is_counted() -> None:
    whole = a_pdf(["One.", "Two."])
    read_text = read(whole.replace(b"/Kids [6 0 R 8 0 R]", b"/Kids [6 0 R 99 0 R]"), "a.pdf")
    assert "One." in read_text.text
    assert read_text.notes == {"pages_unreadable": 1}


def test_blank_pages_are_no_loss() -> None:
    read_text = read(a_pdf(["Words.", "", "", "More."]), "a.pdf")
    assert read_text.notes == {"blank_pages": 2}
    assert losses(read_text.notes) == {}
    assert read_text.metadata["pages"] == 4


def test_more_blank_pages_than_others_are_pages_without_text() -> None:
    notes = read(a_pdf(["Words.", "", ""]), "a.pdf").notes
    assert notes == losses(notes) == {"pages_without_text": 2}


@pytest.mark.parametrize(
    ("size", "noted"),
    [("612 0 0 792 0 0", "pages_without_text"), ("30 0 0 30 50 50", "blank_pages")],
)
def test_a_page_that_only_has_a_picture_may_be_a_scan(size: str, noted: str) -> None:
    picture = f"q {size} cm BI /W 1 /H 1 /BPC 8 /CS /G ID x EI Q"
    page = a_pdf(["Words.", "@"]).replace(b"BT /F1 12 Tf 72 720 Td (@) Tj 0 -14 Td ET", picture.encode())
    assert read(page, "a.pdf").notes == {noted: 1}


_FORM = "/AcroForm << /Fields [6 0 R 7 0 R 8 0 R 9 0 R] /DA (/F1 12 Tf 0 g) >>"
_FIELD = "<< /Type /Annot /Subtype /Widget /Rect [72 {} 300 {}] {} >>"


def a_form() -> bytes:
    fields = (
        "/FT /Tx /T (applicant) /TU (Full name) /V (Johanna Applicant)",
        "/FT /Ch /T (form[0].city[0]) /V (Bern) /Opt [(Bern) (Genf)] /Ff 131072",
        "/FT /Btn /T (member) /V /Yes /AS /Yes /AP << /N << /Yes 5 0 R /Off 5 0 R >> >>",
        "/FT /Tx /T (pin) /Ff 8192 /V (hunter2)",
    )
    objects = [_FIELD.format(600 - 40 * i, 620 - 40 * i, field) for i, field in enumerate(fields)]
    return a_pdf_page("BT /F1 12 Tf 72 720 Td (Application) Tj ET", "/Annots [6 0 R 7 0 R 8 0 R 9 0 R]", objects, _FORM)


def test_what_was_typed_into_a_form_is_in_the_text_of_its_page() -> None:
    lines = text_of(a_form()).split("\n")
    assert lines == ["Application", "Full name: Johanna Applicant", "city: Bern", "member: yes"]


def test_a_value_that_the_page_shows_itself_is_not_doubled() -> None:
    drawn = "BT /F1 12 Tf 74 604 Td (Johanna Applicant) Tj ET"
    field = _FIELD.format(600, 620, "/FT /Tx /T (applicant) /V (Johanna Applicant)")
    pdf = a_pdf_page(drawn, "/Annots [6 0 R]", [field], "/AcroForm << /Fields [6 0 R] >>")
    assert text_of(pdf).strip() == "Johanna Applicant"


def test_annotations_that_a_person_sees_are_read() -> None:
    notes = (
        "/Subtype /FreeText /Contents (Typed on the page) /DA (/F1 12 Tf)",
        "/Subtype /Text /Contents (Please check)",
        "/Subtype /Popup /Contents (Please check)",
        "/Subtype /Highlight /Contents (Hidden remark) /F 2",
    )
    objects = [
        f"<< /Type /Annot /Rect [72 {500 - 30 * i} 300 {520 - 30 * i}] {note} >>" for i, note in enumerate(notes)
    ]
    pdf = a_pdf_page("BT /F1 12 Tf 72 720 Td (Plan) Tj ET", "/Annots [6 0 R 7 0 R 8 0 R 9 0 R]", objects)
    assert text_of(pdf).split("\n") == ["Plan", "Typed on the page", "Note: Please check"]


def test_spaces_that_are_only_gaps_are_seen() -> None:
    # As groff writes: kerned letters, and spaces as numbers between the parts of one string.
    content = "BT /F1 10 Tf 72 700 Td [(the in)40(v)20(ok)10(ed)-250(command)] TJ ET"
    assert text_of(a_pdf_page(content)).strip() == "the invoked command"


def test_a_raised_number_stays_in_its_line() -> None:
    content = "BT /F1 10 Tf 72 700 Td (is recommended) Tj /F1 6 Tf 4 Ts (6) Tj /F1 10 Tf 0 Ts ( to users) Tj ET"
    assert text_of(a_pdf_page(content)).strip() in ("is recommended^6 to users", "is recommended6 to users")


def test_text_outside_of_the_page_is_left_out() -> None:
    content = "BT /F1 12 Tf 72 700 Td (Seen words) Tj ET BT /F1 12 Tf 72 -300 Td (Printer marks) Tj ET"
    assert text_of(a_pdf_page(content)).strip() == "Seen words"
