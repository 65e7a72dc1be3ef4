from __future__ import annotations

import base64
import random

import bson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ragstore.sources.raw import clean_text, real_title
from ragstore.sources.readers import read
from tests.support.files import a_docx, a_pdf, a_pptx, a_word_paragraph, slide_text

any_text = st.text(st.one_of(st.characters(), st.sampled_from("\0\r\n\t\x0b\x0c\x85\x1b\ufeff\ud800\udfff\x9f")))


def test_control_characters_go_and_are_counted_by_kind() -> None:
    assert clean_text("\ufeffa\0b\x07c\x9fd\ud800e\ttab\n") == (
        "abcd\ufffde\ttab\n",
        {"bom": 1, "nul_bytes": 1, "control_chars": 2, "lone_surrogates": 1},
    )


def test_every_kind_of_line_end_becomes_one_newline() -> None:
    assert clean_text("a\r\nb\rc\x0bd\x0ce\x85f\r\0\ng") == ("a\nb\nc\nd\ne\nf\ng", {"nul_bytes": 1})


def test_what_is_storable_stays_as_it_is() -> None:
    text = "Ünïcode e\u0301 \U0001f600 \u2028 ﬁ\n\tindent"
    assert clean_text(text) == (text, {})


@given(any_text)
def test_cleaned_text_can_be_stored_in_both_databases(text: str) -> None:
    cleaned, _ = clean_text(text)
    assert "\0" not in cleaned
    assert "\r" not in cleaned
    assert bson.decode(bson.encode({"text": cleaned})) == {"text": cleaned}


@given(any_text)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    cleaned, _ = clean_text(text)
    assert clean_text(cleaned) == (cleaned, {})


@given(any_text)
def test_removed_characters_are_all_counted(text: str) -> None:
    cleaned, counts = clean_text(text)
    n_removed = sum(n for kind, n in counts.items() if kind != "lone_surrogates")
    assume(not {"terminal_codes", "invisible_chars", "base64_left_out"} & counts.keys())  # each may be several
    n_pairs = "".join(char for char in text if clean_text(char)[0]).count("\r\n")
    assert len(cleaned) == len(text) - n_removed - n_pairs


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[1;31mred\x1b[0m and \x1b[38;5;12mblue\x1b[m", "red and blue"),
        ("\x1b]8;;https://example.org\x1b\\a link\x1b]8;;\x07 \x1b]0;title\x07x", "a link x"),
        ("N\x08NA\x08A _\x08x", "NA x"),
    ],
)
def test_codes_of_terminals_and_printers_go_as_a_whole(text: str, cleaned: str) -> None:
    assert clean_text(text)[0] == cleaned
    assert clean_text(text)[1].keys() == {"terminal_codes"}


def test_what_is_not_seen_does_not_divide_words() -> None:
    assert clean_text("Donau\xaddampf zero\u200bwidth \u202eab\u2066c\u200d join\u2060er \U000e0041\U000e0042x") == (
        "Donaudampf zerowidth abc joiner x",
        {"invisible_chars": 8},
    )


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم", "क्\u200dष", "\U0001f469\u200d\U0001f4bb", "ភាសា\u200bខ្មែរ", "1\xa0000"]
)
def test_joiners_stay_where_a_script_or_an_emoji_needs_them(text: str) -> None:
    assert clean_text(text) == (text, {})


def test_long_base64_is_left_out() -> None:
    raw = random.Random(1).randbytes(3000)
    lines, one_line = base64.encodebytes(raw).decode(), base64.b64encode(raw).decode()
    assert clean_text(f"-----BEGIN-----\n{lines}-----END-----\n") == (
        "-----BEGIN-----\n\n-----END-----\n",
        {"base64_left_out": 1},
    )
    assert clean_text(f"before {one_line} after") == ("before  after", {"base64_left_out": 1})
    assert clean_text(f"url(data:font/woff;base64,{one_line})") == ("url()", {"base64_left_out": 1})


@pytest.mark.parametrize(
    "text", ["ACGT" * 200, "word-" * 100, "/usr/lib/python" * 40, "0123456789abcdef" * 40, "x" * 500, "MKVLAAGIV" * 50]
)
def test_long_words_that_are_no_base64_stay(text: str) -> None:
    assert clean_text(text) == (text, {})


@pytest.mark.parametrize(
    "title",
    [
        "untitled",
        "Untitled 1",
        "(anonymous)",
        "Microsoft Word - report.doc",
        "report.docx",
        "Document1",
        "Microsoft Word - Document1",
        "PowerPoint Presentation",
        "none",
        "Sheet 2",
        "Tabelle1",
        "",
        " - ",
        "无标题",
    ],
)
def test_what_a_program_writes_where_there_is_no_title_is_none(title: str) -> None:
    assert real_title(title) == ""


@pytest.mark.parametrize(
    "title",
    ["Index of names", "Document retention", "Unknown pleasures", "The title deed", "Titel und Texte", "Untitled days"],
)
def test_titles_with_such_words_are_titles(title: str) -> None:
    assert real_title(f"  {title}\n") == title


def test_the_name_of_a_file_is_a_title_if_it_has_words() -> None:
    assert real_title("Microsoft Word - Offer for Bern.doc") == "Offer for Bern"
    assert real_title("Annual report.indd") == "Annual report"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pdf", a_pdf(["Words."], title="Microsoft Word - Document1")),
        ("a.docx", a_docx(a_word_paragraph("Words."), title="Word Document")),
        ("a.pptx", a_pptx([slide_text("Words.")], title="PowerPoint Presentation")),
    ],
)
def test_no_format_has_a_title_that_a_program_wrote(name: str, data: bytes) -> None:
    assert "title" not in read(data, name).metadata
