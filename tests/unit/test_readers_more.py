"""Books, notebooks, RTF, subtitles and XML."""

from __future__ import annotations

import json

import pytest

from ragstore.errors import LimitExceededError, ParseError
from ragstore.ingest.splitting import split
from ragstore.model.collection import Chunking
from ragstore.sources.notebooks import MAX_OUTPUT_CHARS
from ragstore.sources.readers import read
from tests.support.files import a_zip

CONTAINER = '<container><rootfiles><rootfile full-path="O/b.opf"/></rootfiles></container>'
PACKAGE = (
    '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>Water</dc:title><dc:creator>Ann</dc:creator>'
    '</metadata><manifest><item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    '<item id="b" href="two.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="a" href="c%20one.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="i" href="i.png" media-type="image/png"/></manifest>'
    '<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/><itemref idref="gone"/></spine></package>'
)
NAV = '<html xmlns="http://www.w3.org/1999/xhtml"><nav><a href="c%20one.xhtml#x">First</a><a href="two.xhtml">Second</a></nav></html>'


def a_book(**more: bytes | str) -> bytes:
    return a_zip(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "O/b.opf": PACKAGE,
            "O/nav.xhtml": NAV,
            "O/two.xhtml": "<html><body><h1>Own heading</h1><p>Two words.</p></body></html>",
            "O/c one.xhtml": "<html><body><p>One word.</p></body></html>",
            **more,
        }
    )


def test_chapters_come_in_reading_order_under_their_headings_or_names() -> None:
    text = read(a_book(), "a.epub")
    assert text.text == "# First\n\nOne word.\n\n# Own heading\n\nTwo words."
    assert text.places == [{"part": 2}, {"part": 3}]
    assert text.metadata == {"title": "Water", "author": "Ann"}


def test_books_that_are_bombs_encrypted_or_damaged_are_refused() -> None:
    with pytest.raises(LimitExceededError, match="would unpack to"):
        read(a_book(big=b"0" * 40_000_000), "a.epub")
    locked = '<e><EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/></e>'
    with pytest.raises(ParseError, match="has encrypted"):
        read(a_book(**{"META-INF/encryption.xml": locked}), "a.epub")
    with pytest.raises(ParseError, match="damaged EPUB book"):
        read(a_book()[:400], "a.epub")
    with pytest.raises(ParseError, match="damaged EPUB book"):
        read(a_book(**{"O/b.opf": '<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>'}), "a.epub")


def a_notebook(*cells: dict[str, object]) -> bytes:
    return json.dumps({"metadata": {"language_info": {"name": "python"}}, "cells": cells}).encode()


def code(source: str | list[str], *outputs: dict[str, object]) -> dict[str, object]:
    return {"cell_type": "code", "source": source, "outputs": outputs}


def test_cells_are_text_code_and_text_outputs() -> None:
    data = a_notebook(
        {"cell_type": "markdown", "source": ["# Title\n", "Words."]},
        code(
            ["x = 1\n", "# no heading\n", 'print("```")'], {"output_type": "stream", "text": ["\x1b[31mred\x1b[0m\n"]}
        ),
        code("", {"output_type": "display_data", "data": {"image/png": "iVBORw0", "text/plain": "<Figure>"}}),
        code(
            "1/0",
            {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": ["x"]},
        ),
    )
    text = read(data, "a.ipynb")
    assert text.text == (
        '# Title\nWords.\n\n````python\nx = 1\n# no heading\nprint("```")\n````\n\n```\nred\n```\n\n'
        "```python\n1/0\n```\n\n```\nZeroDivisionError: division by zero\n```"
    )
    assert text.places == [{"cell": 1}, {"cell": 2}, {"cell": 4}]
    assert text.notes == {"images_left_out": 1}
    assert {chunk.headings for chunk in split(text, Chunking(64, 8))} == {("Title",)}


def test_a_long_output_is_cut_and_counted() -> None:
    text = read(a_notebook(code("x", {"output_type": "stream", "text": "1 " * MAX_OUTPUT_CHARS})), "a.ipynb")
    assert len(text.text) < MAX_OUTPUT_CHARS + 100
    assert text.notes == {"outputs_cut": 1}


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"cells": 1}', b"[" * 100_000])
def test_what_is_no_notebook_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError):
        read(data, "a.ipynb")


def test_rtf_gives_its_text() -> None:
    rtf = rb"{\rtf1\ansi\ansicpg1252{\info{\title A plan}}{\fonttbl{\f0 Arial;}}Caf\'e9 \u8364? 30\par Second\par}"
    text = read(rtf, "a.txt")
    assert text.text == "Café € 30\nSecond"
    assert text.metadata == {"title": "A plan"}


def test_subtitles_are_words_with_times_as_places() -> None:
    srt = "1\r\n00:00:01,500 --> 00:00:04,000\r\n<i>Hello</i> there.\r\n\r\n2\r\n01:02:03,000 --> 01:02:05,000\r\n- Go &amp; see\r\n"
    text = read(srt.encode(), "a.srt")
    assert text.text == "Hello there.\n- Go & see"
    assert text.places == [{"time": "00:00:01"}, {"time": "01:02:03"}]
    vtt = (
        "WEBVTT - x\n\nNOTE not said\n\nSTYLE\n::cue {}\n\nintro\n00:01.000 --> 00:02.000 align:start\n<v Ann>Hi<00:01.500> all\n\n"
        "00:02.000 --> 00:03.000\nAnn: Hi all\nnew line\n"
    )
    assert read(vtt.encode(), "a.vtt").text == "Ann: Hi all\nnew line"
    assert read(b"No times here.", "a.srt").text == "No times here."


def test_xml_documents_become_markdown() -> None:
    docbook = (
        '<?xml version="1.0"?><!DOCTYPE book PUBLIC "-//OASIS//DTD" "d.dtd" [<!ENTITY app "Gnu"><!ENTITY f SYSTEM "/etc/passwd">]>'
        "<book><title>Manual</title><chapter><title>Start</title><para>Use <command>&app;</command>&nbsp;now.</para>"
        "<programlisting>if x:\n    y</programlisting><itemizedlist><listitem><para>one</para></listitem></itemizedlist>&f;</chapter></book>"
    )
    text = read(docbook.encode(), "a.xml")
    assert text.shape == "markdown"
    assert text.text == "# Manual\n\n## Start\n\nUse Gnu now.\n\n```\nif x:\n    y\n```\n\n- one"
    assert text.metadata == {"title": "Manual"}
    assert text.notes == {"other_files_left_out": 1}
    tei = "<TEI><text><body><div><head>Canto I</head><lg><l>Midway upon</l><l>the journey</l></lg></div></body></text></TEI>"
    assert "Canto I\n\nMidway upon\n\nthe journey" in read(tei.encode(), "a.tei").text


def test_xml_data_becomes_records() -> None:
    data = '<shop place="Bern"><pumps><pump id="7"><name>Big</name><price cur="CHF">9</price></pump><pump id="8"/></pumps></shop>'
    text = read(data.encode(), "a.xml")
    assert text.shape == "records"
    assert text.text == "place: Bern\n\npump.id: 7\npump.name: Big\npump.price.cur: CHF\npump.price: 9\n\npump.id: 8"


def test_pieces_and_encodings_of_xml() -> None:
    assert read(b"<para>One</para>\n<para>Two &ouml; &other;</para>", "a.xml").text == "One\n\nTwo ö &other;"
    assert read('<?xml version="1.0" encoding="iso-8859-1"?><p>Öl</p>'.encode("latin-1"), "a.xml").text == "Öl"


def test_entities_that_multiply_and_what_is_no_xml_are_refused() -> None:
    levels = "".join('<!ENTITY e%d "%s">' % (i + 1, 10 * f"&e{i};") for i in range(9))  # noqa: UP031 - nested quotes
    with pytest.raises((ParseError, LimitExceededError), match=r"multiply|invalid XML"):
        read(f'<!DOCTYPE b [<!ENTITY e0 "aaaaaaaaaa">{levels}]><p>&e9;</p>'.encode(), "a.xml")
    with pytest.raises(ParseError, match="is invalid XML"):
        read(b"<a><b></a>", "a.xml")
    with pytest.raises(ParseError, match="nested too deeply"):
        read(b"<p>" * 50_000 + b"</p>" * 50_000, "a.xml")
