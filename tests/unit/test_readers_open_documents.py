from __future__ import annotations

import pytest

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.readers import read
from tests.support.files import a_zip

NAMES = " ".join(
    f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
    for short, long in (
        ("office", "office"),
        ("text", "text"),
        ("table", "table"),
        ("draw", "drawing"),
        ("presentation", "presentation"),
    )
)


def an_odf(kind: str, body: str, extra: dict[str, bytes | str] | None = None) -> bytes:
    return a_zip(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": f"<office:document-content {NAMES}><office:body><office:{kind}>{body}</office:{kind}>"
            "</office:body></office:document-content>",
            "meta.xml": '<m xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A title</dc:title></m>',
            **(extra or {}),
        }
    )


def cell(text: str, attributes: str = "") -> str:
    words = f"<text:p>{text}</text:p>" if text else ""
    return f"<table:table-cell {attributes}>{words}</table:table-cell>"


def row(*cells: str, attributes: str = "") -> str:
    return f"<table:table-row {attributes}>{''.join(cells)}</table:table-row>"


def test_a_text_has_headings_lists_tables_notes_and_comments_and_no_deleted_words() -> None:
    body = (
        "<text:tracked-changes><text:p>deleted words</text:p></text:tracked-changes>"
        '<text:h text:outline-level="2">Pumps</text:h>'
        '<text:p>Oil<text:s text:c="2"/>every<text:note><text:note-citation>1</text:note-citation><text:note-body>'
        "<text:p>or not</text:p></text:note-body></text:note> week"
        "<office:annotation><text:p>ask Ann</text:p></office:annotation></text:p>"
        "<text:list><text:list-item><text:p>one</text:p><text:list><text:list-item><text:p>deep</text:p></text:list-item>"
        "</text:list></text:list-item></text:list>"
        f"<table:table>{row(cell('Part'), cell('Price'))}{row(cell('Pump'), cell('9|10'))}</table:table>"
        "<text:p><draw:frame><draw:text-box><text:p>in a box</text:p></draw:text-box></draw:frame></text:p>"
    )
    text = read(an_odf("text", body), "a.odt")
    assert text.text == (
        "## Pumps\n\nOil  every [or not] week [Comment: ask Ann]\n\n- one\n  - deep\n\n"
        "| Part | Price |\n| --- | --- |\n| Pump | 9\\|10 |\n\nin a box"
    )
    assert text.metadata == {"title": "A title"}


def test_a_spreadsheet_has_records_with_sheet_and_row() -> None:
    rows = (
        row(attributes='table:number-rows-repeated="3"')
        + row(cell("Name"), cell("Share"), cell("Since"))
        + row(cell("Ann"), cell("25 %"), cell("02.01.24", 'office:date-value="2024-01-02"'))
        + row(cell("Bob", 'table:number-columns-repeated="2"'), cell("", 'table:number-columns-repeated="16000"'))
        + row(cell(""), attributes='table:number-rows-repeated="1048000"')
    )
    text = read(an_odf("spreadsheet", f'<table:table table:name="S">{rows}</table:table>'), "a.ods")
    assert text.text == "Name: Ann\nShare: 25 %\nSince: 2024-01-02\n\nName: Bob\nShare: Bob"
    assert text.places == [{"sheet": "S", "row": 5}, {"sheet": "S", "row": 6}]
    assert text.headings == [("S",), ("S",)]


def test_slides_have_titles_and_notes() -> None:
    page = (
        '<draw:page><draw:frame presentation:class="title"><draw:text-box><text:p>Goals</text:p></draw:text-box></draw:frame>'
        "<draw:g><draw:custom-shape><text:p>Grow</text:p></draw:custom-shape></draw:g>"
        '<presentation:notes><draw:frame presentation:class="notes"><draw:text-box><text:p>Smile</text:p></draw:text-box>'
        "</draw:frame></presentation:notes></draw:page>"
    )
    text = read(
        an_odf("presentation", page + "<draw:page><draw:frame><text:p>x</text:p></draw:frame></draw:page>"), "a.odp"
    )
    assert text.text == "# Goals\n\nGrow\n\nNotes: Smile\n\n# Slide 2\n\nx"
    assert text.places == [{"slide": 1}, {"slide": 2}]


def test_repeated_cells_are_bounded() -> None:
    wide = row(cell("boom", 'table:number-columns-repeated="16384"'), attributes='table:number-rows-repeated="1048576"')
    with pytest.raises(LimitExceededError, match="more than 2,000,000 cells"):
        read(an_odf("spreadsheet", f'<table:table table:name="S">{wide}</table:table>'), "a.ods")


def test_bombs_passwords_and_damage_are_refused_by_name() -> None:
    with pytest.raises(LimitExceededError, match="would unpack to"):
        read(an_odf("text", "", {"Pictures/a": b"0" * 40_000_000}), "a.odt")
    with pytest.raises(ParseError, match="with a password"):
        read(an_odf("text", "", {"META-INF/manifest.xml": "<m:encryption-data/>"}), "a.odt")
    with pytest.raises(ParseError, match="is a damaged OpenDocument file"):
        read(an_odf("text", "")[:300], "a.odt")
    entities = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><a>&b;</a>'
    with pytest.raises(ParseError, match="is a damaged OpenDocument file"):
        read(an_odf("text", "", {"content.xml": entities}), "a.odt")


def test_a_file_without_the_mark_of_its_type_is_known_by_its_members() -> None:
    whole = an_odf("text", "<text:p>Words</text:p>", {"mimetype": "application/zip"})
    assert read(whole, "a.txt").text == "Words"
