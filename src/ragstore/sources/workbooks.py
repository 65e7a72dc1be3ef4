"""Reader of workbooks (xlsx, xlsb, xls): a record for each row, under the name of its sheet."""

from __future__ import annotations

import datetime as dt
import io
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import olefile
from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
    WorksheetNotFound,
)

from ragstore.errors import LimitExceededError, ParseError
from ragstore.sources.packages import Package, local, opened
from ragstore.sources.raw import Choices, RawText
from ragstore.sources.tables import records_of

MAX_CELLS = 16_000_000
"""Most cells of the rectangle that a sheet's content spans: each takes 24 bytes while it is read, empty or not."""

_HEAD_BYTES = 4096
_FILEPASS = 0x2F
_MAX_COPIES = 100_000
_CELL = re.compile(rb'<c [^>]{0,200}?\br="([A-Z]{1,3})(\d{1,7})"')
_ERROR = re.compile(rb'<c [^>]{0,200}?\bt="e"')
_MIDNIGHT = dt.time()

Merged = list[tuple[tuple[int, int], tuple[int, int]]]


@dataclass(slots=True)
class _Content:
    parts: list[str] = field(default_factory=list)
    places: list[dict[str, Any]] = field(default_factory=list)
    headings: list[tuple[str, ...]] = field(default_factory=list)
    notes: dict[str, int | str] = field(default_factory=dict)

    def add(self, sheet: str, row: int, text: str) -> None:
        self.parts.append(text)
        self.places.append({"sheet": sheet, "row": row})
        self.headings.append((sheet,))

    def note(self, name: str, n: int = 1) -> None:
        if n:
            self.notes[name] = int(self.notes.get(name, 0)) + n


def read_workbook(data: bytes, choices: Choices) -> RawText:
    """Rows of all sheets, with the results of formulas; hidden sheets are read and counted.

    Raises:
        LimitExceededError: it is a zip bomb, or a sheet's content spans more than ``MAX_CELLS``.
        ParseError: it is damaged, or has a password.
    """
    content = _Content()
    facts: dict[str, str] = {}
    comments: dict[str, list[tuple[int, str]]] = {}
    if data.startswith(b"PK"):
        with opened(data, "workbook") as package:
            _look_at_sheets(package, content)
            facts = package.facts()
            comments = _comments(package)
    try:
        with CalamineWorkbook.from_object(io.BytesIO(data)) as workbook:
            for sheet in workbook.sheets_metadata:
                if sheet.typ != SheetTypeEnum.WorkSheet:
                    content.note("charts_left_out", int(sheet.typ == SheetTypeEnum.ChartSheet))
                    continue
                content.note("hidden_sheets", int(sheet.visible != SheetVisibleEnum.Visible))
                _read_sheet(sheet.name, _sheet(workbook, sheet.name), content, choices)
                for row, text in comments.get(sheet.name, []):
                    content.add(sheet.name, row, text)
                    content.note("comments")
    except PasswordError as error:
        raise _locked() from error
    except (CalamineError, ValueError, OSError) as error:
        if _has_password(data):
            raise _locked() from error
        raise ParseError(
            "is a damaged workbook", hint="open it in an office program and save it anew", reason=str(error)[:200]
        ) from error
    return RawText(content.parts, "records", facts, content.notes, content.places, content.headings)


def _locked() -> ParseError:
    return ParseError(
        "is a workbook with a password", hint="save it without a password, or leave it out", reason="encrypted"
    )


def _has_password(data: bytes) -> bool:
    """Whether an xls workbook begins with the record that says so, FILEPASS."""
    if not olefile.isOleFile(io.BytesIO(data)):
        return False
    with suppress(OSError), olefile.OleFileIO(io.BytesIO(data)) as file:
        name = next((name for name in ("Workbook", "Book") if file.exists(name)), None)
        head = file.openstream(name).read(_HEAD_BYTES) if name else b""
        at = 0
        while at + 4 <= len(head):
            kind, n_bytes = struct.unpack_from("<HH", head, at)
            if kind == _FILEPASS:
                return True
            at += 4 + n_bytes
    return False


def _sheet(workbook: CalamineWorkbook, name: str) -> CalamineSheet | None:
    try:
        return workbook.get_sheet_by_name(name)
    except WorksheetNotFound:  # named in the workbook, and not in the file
        return None


def _read_sheet(name: str, sheet: CalamineSheet | None, content: _Content, choices: Choices) -> None:
    if sheet is None or sheet.start is None:
        return
    left = sheet.start[1]
    # Rows come from the first one of the sheet on; columns from the first that is not empty.
    rows = enumerate(([_shown(cell) for cell in row] for row in sheet.iter_rows()), 1)
    merged = [((a, b - left), (c, d - left)) for (a, b), (c, d) in sheet.merged_cell_ranges or []]
    records, n_guessed = records_of(_filled(rows, merged), choices)
    content.note("header_guessed", n_guessed)
    for number, record in records:
        content.add(name, number, record)


def _filled(rows: Iterator[tuple[int, list[str]]], merged: Merged) -> Iterator[tuple[int, list[str]]]:
    """Rows in which each cell of a merged range down a column has the range's text, as a person reads it."""
    tall = [span for span in merged if span[1][0] > span[0][0] and span[0][1] >= 0]
    starts = {(top, left): bottom for (top, left), (bottom, _) in tall[:_MAX_COPIES]}
    columns: dict[int, set[int]] = {}
    for top, left in starts:
        columns.setdefault(top, set()).add(left)
    open_: dict[int, tuple[int, str]] = {}
    for number, row in rows:
        at = number - 1
        has_content = any(row)
        for column in columns.get(at, ()):
            if column < len(row):
                open_[column] = (starts[at, column], row[column])
        for column, (bottom, text) in list(open_.items()):
            if at > bottom:
                del open_[column]
            elif has_content and column < len(row) and not row[column]:
                row[column] = text
        yield number, row


def _shown(cell: Any) -> str:
    """A value as a person reads it: whole numbers without a point, dates as in ISO 8601."""
    match cell:
        case str():
            return cell
        case bool():
            return "TRUE" if cell else "FALSE"
        case float():
            return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else f"{cell:.15g}"
        case dt.datetime():
            return cell.date().isoformat() if cell.time() == _MIDNIGHT else cell.isoformat(" ", "seconds")
        case dt.timedelta():
            hours, seconds = divmod(round(cell.total_seconds()), 3600)
            return f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
        case _:
            return str(cell)


def _look_at_sheets(package: Package, content: _Content) -> None:
    """Refuse sheets spread so widely that the library could not hold their rectangle; count what it leaves empty."""
    for name in package.names:
        if not name.startswith("xl/worksheets/") or not name.endswith(".xml"):
            continue
        sheet = package.read(name)
        content.note("error_cells", len(_ERROR.findall(sheet)))
        rows, columns = _extent(sheet)
        if rows * columns > MAX_CELLS:
            raise LimitExceededError(
                f"has a sheet whose cells span {rows:,} rows and {columns:,} columns, more than {MAX_CELLS:,} cells",
                hint="delete the cells far away from the others, or save the sheet as CSV",
            )


def _extent(sheet: bytes) -> tuple[int, int]:
    rows = columns = 0
    for column, row in _CELL.findall(sheet):
        rows = max(rows, int(row))
        number = 0
        for letter in column:
            number = number * 26 + letter - 64
        columns = max(columns, number)
    return rows, columns


def _comments(package: Package) -> dict[str, list[tuple[int, str]]]:
    """Comments of each sheet with their rows, 1-based."""
    found: dict[str, list[tuple[int, str]]] = {}
    book = next((name for name in sorted(package.names) if name.startswith("xl/workbook.xml")), "")
    if not book:
        return found
    relations = package.relations(book)
    for sheet in package.xml(book).iter():
        if local(sheet.tag) != "sheet":
            continue
        ids = [value for name, value in sheet.attrib.items() if local(name) == "id"]
        part = relations.get(ids[0], ("", ""))[1] if ids else ""
        texts = _sheet_comments(package, part) if part in package.names else []
        if texts:
            found[sheet.get("name", "")] = texts
    return found


def _sheet_comments(package: Package, part: str) -> list[tuple[int, str]]:
    # A thread of comments is also kept as one old comment, with a sentence for old programs in front.
    threads = package.related(part, "threadedComment")
    texts = []
    for name in threads or package.related(part, "comments"):
        for comment in package.xml(name).iter():
            if local(comment.tag) in ("comment", "threadedComment"):
                words = "".join(text.text or "" for text in comment.iter() if local(text.tag) in ("t", "text"))
                cell = comment.get("ref", "")
                row = int(re.sub(r"\D", "", cell) or 0)
                texts.append((row, f"Comment on {cell}: {words.strip()}"))
    return [(row, text) for row, text in texts if row]
