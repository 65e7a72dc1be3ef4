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
    ],
)
def test_text_is_read_in_its_encoding(data: bytes, text: str) -> None:
    assert read(data, "a.txt") == ReadText(text)


WORDS = {
    "ja": "これは日本語の文書です。契約は四月一日に始まります。",
    "zh": "本合同自签订之日起生效，有效期为三年。",
    "zh-Hant": "本合約自簽訂之日起生效，有效期為三年。",
    "ko": "이 계약은 사월 일일부터 효력이 발생합니다.",
    "ru": "Настоящий договор вступает в силу с первого апреля.",
    "pl": "Zażółć gęślą jaźń, umowa wchodzi w życie.",
    "el": "Η παρούσα σύμβαση τίθεται σε ισχύ από την πρώτη Απριλίου.",
    "he": "הסכם זה ייכנס לתוקף ביום הראשון באפריל.",
    "ar": "يبدأ سريان هذا العقد من أول أبريل.",
    "tr": "Değerli müşterilerimiz, bu sözleşme bir nisan tarihinde yürürlüğe girer.",
    "de": "Die Gebühren trägt der Käufer, schöne Grüße über größere Flüsse.",
}


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        ("ja", "shift_jis"), ("ja", "cp932"), ("ja", "euc_jp"), ("ja", "iso2022_jp"), ("zh", "gb18030"), ("zh", "gbk"),
        ("zh-Hant", "big5"), ("ko", "euc_kr"), ("ko", "cp949"), ("ru", "cp1251"), ("ru", "koi8-r"), ("ru", "cp866"),
        ("pl", "cp1250"), ("pl", "iso8859-2"), ("el", "cp1253"), ("he", "cp1255"), ("ar", "cp1256"), ("tr", "cp1254"),
        ("de", "mac-roman"), ("de", "cp850"), ("de", "cp1252"),
        ("ja", "utf-16-le"), ("ja", "utf-16-be"), ("zh", "utf-16-le"), ("ru", "utf-16-be"), ("el", "utf-16-le"),
        ("ko", "utf-16-be"), ("de", "utf-16-le"), ("ru", "utf-32-le"), ("ja", "utf-32-be"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_an_undeclared_encoding_is_detected_and_noted(language: str, encoding: str, name: str) -> None:
    words = WORDS[language]
    data = "\n\n".join([words] * 4).encode(encoding)
    read_text = read(data, name)
    assert read_text.text.split() == "\n\n".join([words] * 4).split()
    assert isinstance(read_text.notes["decoded_as"], str)


def test_an_encoding_that_is_not_certain_is_refused_with_the_setting_that_decides() -> None:
    with pytest.raises(ParseError, match="is in an encoding that is not certain") as raised:
        read("Pašić, Żak".encode("iso8859-2"), "a.txt")
    assert "RAGSTORE_TEXT_ENCODING=" in raised.value.hint


def test_a_few_letters_of_windows_1252_are_enough() -> None:
    for words in ("Grüße – “naïve”", "Größe", "café"):
        assert read(words.encode("cp1252"), "a.txt") == ReadText(words, notes={"decoded_as": "cp1252"})


@pytest.mark.parametrize(
    "words",
    [
        "Bitte öffnen Sie das Gerät nicht.",
        "La sécurité des données est à votre charge.",
        "¿Cuándo llegará el próximo envío de España?",
        "A instalação não é difícil.",
        "Näin se tehdään työpäivän jälkeen.",
        "Vänligen stäng av strömmen först.",
        "Het patiëntendossier van de cliënt",
        "Perché la città è più lontana",
    ],
)
def test_a_short_text_of_the_west_is_certain(words: str) -> None:
    assert read(words.encode("cp1252"), "a.txt") == ReadText(words, notes={"decoded_as": "cp1252"})


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        ("Příliš žluťoučký kůň", "cp1250"),
        ("Nie można otworzyć pliku", "cp1250"),
        ("Árvíztűrő tükörfúrógép", "iso8859-2"),
        ("Dosya açılamadı, çıkış yapılıyor", "cp1254"),
        ("Nepavyko atidaryti įrenginio, ąžuolas", "cp1257"),
        ("Не удалось открыть файл", "cp1251"),
        ("Größe über alles", "cp850"),
    ],
)
def test_a_short_text_of_elsewhere_is_never_taken_for_one_of_the_west(words: str, encoding: str) -> None:
    try:
        text = read(words.encode(encoding), "a.txt").text
    except ParseError as error:
        assert error.facts["reason"] == "encoding"
    else:
        assert text == words


def test_stray_bytes_do_not_change_the_encoding_of_the_rest() -> None:
    good = "Zeile mit Größe und Übergang\n" * 5
    read_text = read(good.encode() + "caf\xe9 – “x”\n".encode("cp1252"), "a.txt")
    assert read_text == ReadText(good + "café – “x”\n", notes={"stray_bytes_as_cp1252": 4})


def test_a_character_that_is_cut_at_the_end_is_counted_as_lost() -> None:
    assert read("Grüße aus Köln, schön".encode() + "ü".encode()[:1], "a.txt") == ReadText(
        "Grüße aus Köln, schön\ufffd", notes={"invalid_utf8": 1}
    )


def test_a_log_with_a_run_of_nuls_is_kept() -> None:
    for n in (4096, 100_000):
        assert read(b"line one\n" + b"\0" * n + b"line two\n", "a.txt") == ReadText(
            "line one\nline two\n", notes={"nul_bytes": n}
        )


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


def test_front_matter_becomes_metadata_with_its_types() -> None:
    header = """---
title: "A guide"
draft: false
tags:
  - alpha
  - beta
flow: [a, 1, 2.5]
nested: {x: 1, deep: {z: no}}
date: 2024-01-02
time: 12:30
zip: 01234
folded: >
  one
  two
"quoted key": v
empty:
page: 7
# note
---
"""
    read_text = read(f"{header}\n# One\nBody\n".encode(), "a.md")
    assert read_text == ReadText(
        "\n# One\nBody\n",
        "markdown",
        metadata={
            "title": "A guide",
            "draft": False,
            "tags": ["alpha", "beta"],
            "flow": ["a", 1, 2.5],
            "nested.x": 1,
            "nested.deep.z": "no",
            "date": "2024-01-02",
            "front_matter.time": "12:30",
            "zip": "01234",
            "folded": "one two",
            "quoted key": "v",
            "front_matter.page": 7,
        },
    )


@pytest.mark.parametrize(
    ("header", "metadata"),
    [
        (
            '+++\ntitle = "T"\ndate = 2024-01-02\ntags = ["a"]\n[params]\nn = 1\n+++\n',
            {"title": "T", "date": "2024-01-02", "tags": ["a"], "params.n": 1},
        ),
        ('{\n"title": "T"\n}\n', {"title": "T"}),
        ("---\r\ntitle: T\r\n...\r\n", {"title": "T"}),
        ("---\n---\n", {}),
    ],
)
def test_front_matter_has_several_forms(header: str, metadata: dict[str, object]) -> None:
    assert read(f"{header}Body".encode(), "a.md") == ReadText("Body", "markdown", metadata=metadata)


@pytest.mark.parametrize(
    "header",
    [
        "---\na: [1\n---\n",
        "---\na: &a [1]\n"
        + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(f'*{chr(97 + i)}' for _ in range(9))}]\n" for i in range(8)
        )
        + "---\n",
        "---\na: !!python/object/apply:os.getcwd []\n---\n",
        "+++\na = \n+++\n",
    ],
)
def test_front_matter_that_cannot_be_read_stays_in_the_text(header: str) -> None:
    assert read(f"{header}Body".encode(), "a.md") == ReadText(
        f"{header}Body", "markdown", notes={"front_matter_unread": 1}
    )


@pytest.mark.parametrize("header", ["---\nno end\n\n", "---\nwords between rules\n---\n", "{% raw %}\n"])
def test_what_only_looks_like_front_matter_stays_in_the_text(header: str) -> None:
    assert read(f"{header}Body".encode(), "a.md") == ReadText(f"{header}Body", "markdown")


def test_of_images_in_markdown_only_the_words_are_kept() -> None:
    picture = "data:image/png;base64," + "iVBORw0KGgo" * 800
    text = f"# A\n\n![chart]({picture}) <img alt='two' src=\"{picture}\">\n![ref][r] ![r]\n\n[r]: {picture}\n[link]({picture} 'x')\n![kept](a.png)\n"
    assert read(text.encode(), "a.md") == ReadText(
        "# A\n\nchart two\nref r\n\nlink\n![kept](a.png)\n", "markdown", notes={"images_left_out": 4}
    )


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


@pytest.mark.parametrize(
    "text", ["A text with a NUL\0 in it.\n", "Zeile eins.\0\0\0\nZeile zwei\x01.\n", "one\x02two three"]
)
def test_ascii_with_a_few_control_characters_is_no_utf16(text: str) -> None:
    shown = "".join(char for char in text if char >= " " or char == "\n")
    read_text = read(text.encode(), "a.txt")
    assert read_text.text == shown and "decoded_as" not in read_text.notes


@pytest.mark.parametrize(
    "text", ["Eine kurze Zeile.", "日本語の文書です。契約は四月一日に始まります。", "Договор вступает в силу", "a b"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_mark_is_still_found(text: str, encoding: str) -> None:
    assert read(text.encode(encoding), "a.txt").text == text
