from __future__ import annotations

import bson
from hypothesis import given
from hypothesis import strategies as st

from ragstore.sources.raw import clean_text

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
    n_pairs = "".join(char for char in text if clean_text(char)[0]).count("\r\n")
    assert len(cleaned) == len(text) - n_removed - n_pairs
