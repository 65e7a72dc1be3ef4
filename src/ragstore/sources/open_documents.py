"""Reader of OpenDocument files (odt, ods, odp): texts and slides as Markdown, spreadsheets as records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.packages import Package, local, opened
from ragstore.sources.raw import Choices, RawText, real_title
from ragstore.sources.tables import records_of

MAX_CELLS = 2_000_000
"""Most cells with content of a spreadsheet: one that is repeated counts as often as it stands there."""

_MAX_COLUMNS = 16_384
_MAX_SPACES = 1_000
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_PRESENTATION = "{urn:oasis:names:tc:opendocument:xmlns:presentation:1.0}"
_DC = "{http://purl.org/dc/elements/1.1/}"
# Deleted text, sequences and forms of the document; and what a person sees at another place.
_UNSEEN = (f"{_TEXT}tracked-changes", f"{_TEXT}sequence-decls", f"{_OFFICE}forms", f"{_TEXT}note-citation")
_FURNITURE = ("date-time", "footer", "header", "page-number")


def read_open_document(data: bytes, choices: Choices) -> RawText:
    """Text, tables, notes and comments; images are left out.

    Raises:
        LimitExceededError: it is a zip bomb, or a spreadsheet repeats its cells too often.
        ParseError: it is damaged, or has a password.
    """
    with opened(data, "OpenDocument file") as package:
        _refuse_encrypted(package)
        facts = _facts(package)
        body = package.xml("content.xml").find(f"{_OFFICE}body")
        kind = body[0] if body is not None and len(body) else ET.Element("none")
        match local(kind.tag):
            case "spreadsheet":
                return _spreadsheet(kind, facts, choices)
            case "presentation" | "drawing":
                return _presentation(kind, facts)
            case _:
                return RawText(["\n\n".join(filter(None, _blocks(kind)))], "markdown", facts)


def _refuse_encrypted(package: Package) -> None:
    manifest = "META-INF/manifest.xml"
    if manifest in package.names and b"encryption-data" in package.read(manifest):
        raise ParseError(
            "is an OpenDocument file with a password",
            hint="save it without a password, or leave it out",
            reason="encrypted",
        )


def _facts(package: Package) -> dict[str, Any]:
    if "meta.xml" not in package.names:
        return {}
    root = package.xml("meta.xml")
    found = {fact: next((each.text or "" for each in root.iter(f"{_DC}{fact}")), "") for fact in ("title", "creator")}
    return {"title": real_title(found["title"]), "author": found["creator"]}


def _blocks(element: ET.Element, level: int = 0) -> Iterator[str]:
    """Paragraphs, headings, items and tables as blocks of Markdown."""
    for child in element:
        if child.tag in _UNSEEN:
            continue
        if child.tag == f"{_TEXT}p":
            yield _words(child).strip()
            yield from _boxes(child)
        elif child.tag in (f"{_TEXT}h", f"{_TEXT}list", f"{_TABLE}table"):
            yield _block(child, level)
        else:
            yield from _blocks(child, level)


def _block(element: ET.Element, level: int) -> str:
    match local(element.tag):
        case "h":
            depth = element.get(f"{_TEXT}outline-level", "1")
            words = " ".join(_words(element).split())
            return f"{'#' * min(6, max(1, int(depth) if depth.isdecimal() else 1))} {words}" if words else ""
        case "list":
            return "\n".join(_items(element, level))
        case _:
            return _table(element)


def _boxes(paragraph: ET.Element) -> Iterator[str]:
    """Texts in the frames that are anchored in a paragraph."""
    for box in paragraph.iter(f"{_DRAW}text-box"):
        yield from _blocks(box)


def _items(list_: ET.Element, level: int) -> Iterator[str]:
    for item in list_:
        first = True
        for block in item:
            if block.tag == f"{_TEXT}list":
                yield from _items(block, level + 1)
            elif (words := _words(block)).strip():
                yield f"{'  ' * level}{'- ' if first else '  '}{words.strip()}"
                first = False


def _words(element: ET.Element) -> str:
    return "".join(_pieces(element))


def _pieces(element: ET.Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        match child.tag:
            case t if t == f"{_TEXT}s":
                n = child.get(f"{_TEXT}c", "1")
                yield " " * min(_MAX_SPACES, int(n) if n.isdecimal() else 1)
            case t if t == f"{_TEXT}tab":
                yield "\t"
            case t if t == f"{_TEXT}line-break":
                yield "\n"
            case t if t == f"{_TEXT}note":
                yield f" [{' '.join(_words(child).split())}]"
            case t if t == f"{_OFFICE}annotation":
                words = " ".join("".join(_words(p) for p in child.iter(f"{_TEXT}p")).split())
                yield f" [Comment: {words}]"
            case t if t in _UNSEEN or t in (f"{_DRAW}frame", f"{_DRAW}custom-shape"):
                pass
            case _:
                yield from _pieces(child)
        yield child.tail or ""


def _repeated(element: ET.Element, what: str) -> int:
    n = element.get(f"{_TABLE}number-{what}-repeated", "1")
    return max(1, int(n)) if n.isdecimal() else 1


def _rows(table: ET.Element) -> Iterator[tuple[int, ET.Element]]:
    """Rows of a table, also those in groups, with how often each stands there."""
    for child in table:
        if child.tag == f"{_TABLE}table-row":
            yield _repeated(child, "rows"), child
        elif local(child.tag) in ("table-header-rows", "table-rows", "table-row-group"):
            yield from _rows(child)


def _cells(row: ET.Element) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if local(cell.tag) not in ("table-cell", "covered-table-cell"):
            continue
        text = _shown(cell)
        n = min(_repeated(cell, "columns"), _MAX_COLUMNS - len(cells))
        cells += [text] * n
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _shown(cell: ET.Element) -> str:
    date = cell.get(f"{_OFFICE}date-value", "")
    if date:
        return date.removesuffix("T00:00:00").replace("T", " ")
    return "\n".join(words for block in cell if (words := _cell_text(block).strip()))


def _cell_text(block: ET.Element) -> str:
    if block.tag == f"{_OFFICE}annotation":
        return f"[Comment: {' '.join(''.join(_words(p) for p in block.iter(f'{_TEXT}p')).split())}]"
    return _words(block) if block.tag in (f"{_TEXT}p", f"{_TEXT}h") else "\n".join(_blocks(block))


def _table(table: ET.Element) -> str:
    rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in _cells(row)] for _, row in _rows(table)]
    width = max((len(row) for row in rows), default=0)
    if not width:
        return ""
    lines = [f"| {' | '.join([*row, *[''] * (width - len(row))])} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _spreadsheet(body: ET.Element, facts: dict[str, Any], choices: Choices) -> RawText:
    parts: list[str] = []
    places: list[dict[str, Any]] = []
    headings: list[tuple[str, ...]] = []
    budget = [MAX_CELLS]
    n_guessed = 0
    for sheet in body.iter(f"{_TABLE}table"):
        name = sheet.get(f"{_TABLE}name", "")
        records, n = records_of(_numbered_rows(sheet, budget), choices)
        n_guessed += n
        for row, record in records:
            parts.append(record)
            places.append({"sheet": name, "row": row})
            headings.append((name,))
    notes: dict[str, int | str] = {"header_guessed": n_guessed} if n_guessed else {}
    return RawText(parts, "records", facts, notes, places, headings)


def _numbered_rows(sheet: ET.Element, budget: list[int]) -> Iterator[tuple[int, list[str]]]:
    number = 1
    for n, row in _rows(sheet):
        cells = _cells(row)
        budget[0] -= n * len(cells)
        if budget[0] < 0:
            raise LimitExceededError(
                f"has more than {MAX_CELLS:,} cells with content", hint="split it, or save its sheets as CSV"
            )
        if cells:
            for i in range(n):
                yield number + i, list(cells)
        number += n


def _presentation(body: ET.Element, facts: dict[str, Any]) -> RawText:
    parts, places = [], []
    pages = list(body.iter(f"{_DRAW}page"))
    for number, page in enumerate(pages, 1):
        title, blocks = "", []
        for shape in page:
            kind = shape.get(f"{_PRESENTATION}class", "")
            if kind in _FURNITURE:
                continue
            if shape.tag == f"{_PRESENTATION}notes":
                blocks += [f"Notes: {words}" for words in ["\n".join(filter(None, _notes(shape)))] if words]
            elif kind == "title" and not title:
                title = " ".join(" ".join(_blocks(shape)).split())
            else:
                blocks += filter(None, _blocks(shape))
        if title or blocks:
            parts.append("\n\n".join([f"# {title or f'Slide {number}'}", *blocks]))
            places.append({"slide": number})
    return RawText(parts, "markdown", {**facts, "slides": len(pages)}, {}, places)


def _notes(notes: ET.Element) -> Iterator[str]:
    for shape in notes:
        if shape.get(f"{_PRESENTATION}class", "") not in _FURNITURE:
            yield from _blocks(shape)
