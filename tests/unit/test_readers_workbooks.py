from __future__ import annotations

import pytest

from ragstore.errors import LimitExceededError, ParseError
from ragstore.ingest.splitting import count_tokens, split
from ragstore.model.collection import Chunking
from ragstore.sources.raw import Choices
from ragstore.sources.readers import read
from tests.support.files import a_zip, an_xlsx, relations, sheet_rows

PRICES = sheet_rows(
    [["Item", "Price", "Since"], ["Pump", 12.5, '<c r="{at}" s="1"><v>45293</v></c>'], ["Valve", 3, ""]]
)


def test_each_row_is_a_record_that_names_its_columns_and_knows_its_place() -> None:
    text = read(an_xlsx({"Prices": PRICES}), "a.xlsx")
    assert text.text == "Item: Pump\nPrice: 12.5\nSince: 2024-01-02\n\nItem: Valve\nPrice: 3"
    assert text.places == [{"sheet": "Prices", "row": 2}, {"sheet": "Prices", "row": 3}]
    (chunk,) = split(text, Chunking(256, 32))
    assert chunk.headings == ("Prices",)
    assert chunk.place == {"sheet": "Prices", "row": 2}


def test_a_chunk_never_holds_rows_of_two_sheets() -> None:
    text = read(an_xlsx({"North": sheet_rows([["a", "b"], ["1", "x"]]), "South": sheet_rows([["a"], ["2"]])}), "a.xlsx")
    assert [(chunk.headings, chunk.place["row"]) for chunk in split(text, Chunking(256, 32))] == [
        (("North",), 2),
        (("South",), 2),
    ]


def test_rows_are_numbered_as_the_sheet_numbers_them() -> None:
    text = read(an_xlsx({"S": sheet_rows([["Name", "Town"], ["Ann", "Bern"]], first_row=7)}), "a.xlsx")
    assert text.places == [{"sheet": "S", "row": 8}]


def test_formulas_show_their_results_and_errors_and_truths_are_shown() -> None:
    cells = [
        '<c r="{at}"><f>1+1</f><v>2</v></c>',
        '<c r="{at}" t="b"><v>1</v></c>',
        '<c r="{at}" t="str"><f>"a"&amp;"b"</f><v>ab</v></c>',
    ]
    text = read(an_xlsx({"S": sheet_rows([["Sum", "Paid", "Word"], cells])}), "a.xlsx").text
    assert text == "Sum: 2\nPaid: TRUE\nWord: ab"


def test_cells_with_an_error_are_counted() -> None:
    cells = ["Ann", '<c r="{at}" t="e"><f>1/0</f><v>#DIV/0!</v></c>']
    text = read(an_xlsx({"S": sheet_rows([["Name", "Share"], cells])}), "a.xlsx")
    assert (text.text, text.notes) == ("Name: Ann", {"error_cells": 1, "header_guessed": 1})


def test_a_merged_cell_down_a_column_counts_for_each_of_its_rows() -> None:
    rows = sheet_rows([["Region", "Town"], ["North", "Kiel"], ["", "Husum"], ["", "Plön"], ["", "Ulm"]])
    text = read(an_xlsx({"S": rows + '<mergeCells count="1"><mergeCell ref="A2:A4"/></mergeCells>'}), "a.xlsx").text
    assert text.split("\n\n") == [
        "Region: North\nTown: Kiel",
        "Region: North\nTown: Husum",
        "Region: North\nTown: Plön",
        "Town: Ulm",
    ]


def test_hidden_sheets_are_read_and_counted() -> None:
    text = read(an_xlsx({"Seen": PRICES, "Old": sheet_rows([["Secret", "x"], ["1", "y"]])}, hidden=["Old"]), "a.xlsx")
    assert "Secret: 1" in text.text
    assert text.notes == {"hidden_sheets": 1}


def test_comments_come_with_the_row_of_their_cell() -> None:
    comment = (
        '<comments xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><commentList>'
        '<comment ref="B2"><text><r><t>ask </t></r><r><t>Ann</t></r></text></comment></commentList></comments>'
    )
    extra: dict[str, bytes | str] = {
        "xl/worksheets/_rels/sheet1.xml.rels": relations({"rId1": ("comments", "../comments1.xml")}),
        "xl/comments1.xml": comment,
    }
    text = read(an_xlsx({"Prices": PRICES}, extra=extra), "a.xlsx")
    assert text.text.endswith("\n\nComment on B2: ask Ann")
    assert text.places[-1] == {"sheet": "Prices", "row": 2}
    assert text.notes == {"comments": 1}


@pytest.mark.parametrize("name", ["a.xlsm", "a.xltx", "a.txt", "a.docx"])
def test_a_workbook_is_one_under_every_name(name: str) -> None:
    assert read(an_xlsx({"S": PRICES}), name).shape == "records"


def test_two_cells_far_apart_are_refused_before_memory_is_taken() -> None:
    far = '<sheetData><row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row></sheetData>'
    with pytest.raises(LimitExceededError, match="span 1,048,576 rows and 16,384 columns"):
        read(an_xlsx({"S": far}), "a.xlsx")


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(LimitExceededError, match="would unpack to"):
        read(an_xlsx({"S": PRICES}, extra={"xl/sharedStrings.xml": b" " * 40_000_000}), "a.xlsx")


def test_entities_cannot_multiply() -> None:
    bomb = '<!DOCTYPE b [<!ENTITY e "aaaaaaaaaa"><!ENTITY f "&e;&e;&e;">]><comments>&f;</comments>'
    extra: dict[str, bytes | str] = {
        "xl/worksheets/_rels/sheet1.xml.rels": relations({"rId1": ("comments", "../comments1.xml")}),
        "xl/comments1.xml": bomb,
    }
    with pytest.raises(ParseError, match="is a damaged workbook"):
        read(an_xlsx({"S": PRICES}, extra=extra), "a.xlsx")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_workbook_is_damaged(keep: float) -> None:
    whole = an_xlsx({"S": PRICES})
    with pytest.raises(ParseError, match="is a damaged workbook"):
        read(whole[: int(len(whole) * keep)], "a.xlsx")


def test_a_workbook_without_its_sheets_is_damaged_or_empty() -> None:
    with pytest.raises(ParseError):
        read(a_zip({"xl/workbook.xml": "<workbook/>"}), "a.xlsx")


WORDS = sheet_rows([["Part", "Owner"], ["Pump", "Ann"], ["Valve", "Bob"]])


def test_a_header_that_is_only_words_above_words_is_noted_and_can_be_decided() -> None:
    book = an_xlsx({"S": WORDS})
    assert read(book, "a.xlsx").notes == {"header_guessed": 1}
    decided = read(book, "a.xlsx", Choices(table_header="none"))
    assert decided.notes == {}
    assert decided.text.startswith("column 1: Part\ncolumn 2: Owner")


def test_several_tables_in_one_sheet_have_each_their_header() -> None:
    prices: list[list[str | float]] = [["Item", "Price"], ["Pump", 9], ["Valve", 3]]
    towns: list[list[str | float]] = [["Town", "Zip", "Land"], ["Bern", 3000, "CH"]]
    book = an_xlsx({"S": sheet_rows([["Report of May"], [""], *prices, [""], *towns])})
    assert read(book, "a.xlsx").text.split("\n\n") == [
        "Report of May",
        "Item: Pump\nPrice: 9",
        "Item: Valve\nPrice: 3",
        "Town: Bern\nZip: 3000\nLand: CH",
    ]


def test_a_sheet_of_one_column_is_text_under_its_name() -> None:
    book = an_xlsx({"S": sheet_rows([["Question"], ["What does it cost?"], ["When does it come?"]])})
    assert read(book, "a.xlsx").text == "Question: What does it cost?\n\nQuestion: When does it come?"


def test_each_chunk_of_a_sheet_says_its_name_unless_a_program_gave_it() -> None:
    items: list[list[str | float]] = [[f"Item{i}", i] for i in range(200)]
    rows = sheet_rows([["Item", "Price"], *items])
    read_text = read(an_xlsx({"Harbour 2024": rows, "Sheet2": rows}), "a.xlsx")
    chunks = split(read_text, Chunking(64, 8))
    named = [chunk for chunk in chunks if chunk.place["sheet"] == "Harbour 2024"]
    assert len(named) > 10
    assert all(chunk.text.startswith("Harbour 2024\nItem: ") for chunk in named)
    assert all(not chunk.n_repeated for chunk in chunks if chunk not in named)
    assert all(read_text.text[chunk.start_char : chunk.end_char] == chunk.text[chunk.n_repeated :] for chunk in chunks)
    assert all(count_tokens(chunk.text) <= 64 for chunk in chunks)
