"""A bomb of each format in a real child: refused by name, in bounded time and memory, and the child works on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragstore.errors import ContentError
from ragstore.ingest.parse_process import ParserPool
from ragstore.model.collection import Chunking
from ragstore.sources import Bounds
from ragstore.sources.raw import Choices
from tests.integration.test_parsing_child import an_item
from tests.support.files import SLIDE_NAMES, a_pptx, a_zip, an_xlsx, sheet_rows, slide_text

ZEROS = bytes(120_000_000)
ROWS = sheet_rows([["Name", "Town"], ["Ann", "Bern"]])


def a_far_cell() -> bytes:
    return an_xlsx(
        {
            "S": '<sheetData><row r="1048576"><c r="XFD1048576"><v>2</v></c></row><row r="1"><c r="A1"><v>1</v></c></row></sheetData>'
        }
    )


def many_cells() -> bytes:
    row = "".join(f'<c r="{chr(65 + i)}{{0}}"/>' for i in range(26))
    rows = "".join(f'<row r="{n}">{row.format(n)}</row>' for n in range(1, 8_000))
    return an_xlsx({"S": f"<sheetData>{rows}</sheetData>"})


def deep_groups() -> bytes:
    return a_pptx(["<p:grpSp>" * 20_000 + slide_text("deep") + "</p:grpSp>" * 20_000])


def entities(inside: str) -> str:
    levels = "".join('<!ENTITY e%d "%s">' % (i + 1, 10 * f"&e{i};") for i in range(9))  # noqa: UP031 - nested quotes
    return f'<!DOCTYPE b [<!ENTITY e0 "aaaaaaaaaa">{levels}]>{inside}'


def a_wide_table() -> str:
    names = 'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    cell = '<table:table-cell table:number-columns-repeated="16384"><text:p>x</text:p></table:table-cell>'
    row = f'<table:table-row table:number-rows-repeated="1048576">{cell}</table:table-row>'
    return f"<a {names}><office:body><office:spreadsheet><table:table>{row}</table:table></office:spreadsheet></office:body></a>"


def a_square() -> bytes:
    return (f'<!DOCTYPE b [<!ENTITY e "{"a" * 200_000}">]><p>' + "&e;" * 100_000 + "</p>").encode()


BOMBS: dict[str, Callable[[], bytes]] = {
    "zip.xlsx": lambda: an_xlsx({"S": ROWS}, extra={"xl/sharedStrings.xml": ZEROS}),
    "far.xlsx": a_far_cell,
    "empty.xlsx": many_cells,
    "zip.pptx": lambda: a_pptx([slide_text("x")], extra={"ppt/media/a": ZEROS}),
    "deep.pptx": deep_groups,
    "entities.pptx": lambda: a_pptx([""], extra={"ppt/slides/slide1.xml": entities(f"<p:sld {SLIDE_NAMES}>&e9;</p:sld>")}),
    "zip.odt": lambda: a_zip({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": ZEROS}),
    "wide.ods": lambda: a_zip({"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": a_wide_table()}),
    "zip.epub": lambda: a_zip({"mimetype": "application/epub+zip", "a.xhtml": ZEROS}),
    "entities.xml": lambda: entities("<p>&e9;</p>").encode(),
    "square.xml": a_square,
    "deep.xml": lambda: b"<p>" * 100_000,
    "deep.ipynb": lambda: b"[" * 100_000,
    "cells.ipynb": lambda: json.dumps({"cells": [{"cell_type": "code", "source": "x", "outputs": []}] * 20_000}).encode(),
    "deep.rtf": lambda: b"{\\rtf1 " + b"{\\b " * 50_000,
    "definitions.py": lambda: "".join(f"def f{i}():\n    a\n    b\n    return c\n\n" for i in range(20_000)).encode(),
    "cues.srt": lambda: b"1\n00:00:01,000 --> 00:00:02,000\n" * 50_000,
    "keys.yaml": lambda: b"a: &a [x]\n" + b"b: *a\n" * 50_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    with ParserPool(chunking=Chunking(256, 32), bounds=Bounds.of(["/tmp"]), timeout_s=240, memory_mb=700) as opened:
        yield opened


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_or_read_within_bounds_and_the_next_file_is_read(
    pool: ParserPool, tmp_path: Path, name: str
) -> None:
    item = an_item(tmp_path / name, BOMBS[name]())
    try:
        document = pool.parse(item)
    except ContentError as error:
        assert error.message.startswith(item.document_id)
        assert "crashed" not in error.message
        assert error.hint
    else:
        assert len(document.chunks) <= 100_000
    fine = pool.parse(an_item(tmp_path / "fine.xlsx", an_xlsx({"Sheet1": ROWS})))
    assert fine.chunks[0].text == "Name: Ann\nTown: Bern"


PACKAGE = """
import os, socket
from pathlib import Path


class Plain:
    def load_data(self, file: Path):
        class Document:
            text = f"{file.name}: {file.read_bytes().decode()}"
            metadata = {"walls": 4}
        return [Document()]


class Nosy:
    def load_data(self, file: Path):
        return [open("/etc/passwd")]


class Greedy:
    def load_data(self, file: Path):
        return [bytearray(2_000_000_000)]
"""


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ParserPool]:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "drawings.py").write_text(PACKAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "package"))
    readers = {".dwg": "drawings.Plain", ".nosy": "drawings.Nosy", ".big": "drawings.Greedy", ".gone": "no.Class"}
    bounds = Bounds.of([tmp_path])
    with ParserPool(
        chunking=Chunking(256, 32), bounds=bounds, timeout_s=60, memory_mb=500, choices=Choices(readers=readers)
    ) as opened:
        yield opened


def test_a_chosen_reader_opens_its_file_in_the_child(chosen: ParserPool, tmp_path: Path) -> None:
    for words in ("four walls", "five walls"):
        document = chosen.parse(an_item(tmp_path / "plan.dwg", words))
        assert [chunk.text for chunk in document.chunks] == [f"plan.dwg: {words}"]
        assert document.metadata == {"walls": 4}
        assert document.content_hash == chosen.hash_only(an_item(tmp_path / "plan.dwg", words))
    assert chosen.parse(an_item(tmp_path / "a.txt", "plain")).chunks[0].text == "plain"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has Landlock")
def test_a_chosen_reader_opens_no_other_file(chosen: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="PermissionError"):
        chosen.parse(an_item(tmp_path / "a.nosy", "x"))


def test_a_chosen_reader_has_the_limits_of_all(chosen: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="more than 500 MB"):
        chosen.parse(an_item(tmp_path / "a.big", "x"))
    with pytest.raises(ContentError, match="cannot be imported"):
        chosen.parse(an_item(tmp_path / "a.gone", "x"))
