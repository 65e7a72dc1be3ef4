"""Reader of CSV and TSV: each row as ``header: value`` lines that can be understood without the other rows."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice, pairwise
from statistics import median

from ragstore.errors import ParseError
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText, labelled

_DELIMITERS = ",\t;|"
_NO_DELIMITER = "\x1f"
_SAMPLE_CHARS = 65_536
_SAMPLE_ROWS = 200
_HEAD_ROWS = 50
_MAX_LINES_ABOVE = 10
_MAX_NAME_CHARS = 100
_MIN_REGULAR = 0.5
_MIN_REGULAR_PROSE = 0.8
_MOST = 0.8
_MAX_WORDS = 1.8
_MIN_FORM_ROWS = 3
_MIN_ROWS_BELOW = 2

_SEPARATOR_LINE = re.compile(r"sep=(?P<delimiter>.)[^\S\n]*(?:\r\n?|\n|\Z)", re.IGNORECASE)
_KINDS = (
    ("number", re.compile(r"[-+(]?\s?[^\w\s.,+-]{0,3}\s?\d[\d.,'\u2019\s]*(?:[eE][-+]?\d+)?\s?[^\w\s]{0,3}\)?")),
    ("date", re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}(?:[T ]\d{1,2}:\d{2}.*)?")),
    ("time", re.compile(r"\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp][Mm])?")),
    ("address", re.compile(r"\S+@\S+\.\S+|[a-z]+://\S+")),
    ("code", re.compile(r"(?=\S*\d)[\w./:#-]+")),
)
_WHOLE = re.compile(r"\d{1,9}")
_YEAR = re.compile(r"(?:18|19|20|21)\d\d")

Row = tuple[int, list[str]]
"""The number of a row in the file, 1-based, as a spreadsheet shows it, and its cells, stripped."""


def read_table(data: bytes, choices: Choices) -> RawText:
    """One record for each row; delimiter, header and where a table begins are detected.

    Lines above a table, as reports have them, are a record of their own. Tables that follow each other after an empty
    line have each their header.

    Raises:
        ParseError: it cannot be divided into rows.
    """
    text, notes = decode(data, choices)
    # NUL ends a row for the csv module in some versions and is an error in others.
    text = text.replace("\0", "").replace(_NO_DELIMITER, "").removeprefix("\ufeff")
    declared = _SEPARATOR_LINE.match(text)
    body = text[declared.end() :] if declared else text
    try:
        delimiter = declared["delimiter"] if declared else _delimiter(body)
        rows = _rows(body, delimiter, 2 if declared else 1)
        reading = _Reading(choices.table_header, is_prose=delimiter == _NO_DELIMITER)
        for is_filled, block in groupby(rows, lambda row: bool(_width(row[1]))):
            if is_filled:
                reading.add(block)
        reading.end()
    except csv.Error as error:
        raise ParseError("is a damaged table", hint="save it anew as CSV", reason=str(error)) from error
    if reading.n_guessed:
        notes["header_guessed"] = reading.n_guessed
    return RawText(reading.records, "records", notes=notes, places=[{"row": number} for number in reading.numbers])


def records_of(rows: Iterable[Row], choices: Choices) -> tuple[list[tuple[int, str]], int]:
    """A record for each row of a sheet, with the row's number, and how many headers were guessed.

    Header and where a table begins are detected as in a CSV.

    Args:
        rows: those without content may be missing; a gap in the numbers divides tables as they do.
    """
    filled = [row for row in rows if _width(row[1])]
    reading = _Reading(choices.table_header, is_prose=all(_width(cells) == 1 for _, cells in filled))
    # Rows of one block have the same difference between their number and their position.
    for _, block in groupby(enumerate(filled), lambda item: item[1][0] - item[0]):
        reading.add(row for _, row in block)
    reading.end()
    return list(zip(reading.numbers, reading.records, strict=True)), reading.n_guessed


def _rows(text: str, delimiter: str, first: int = 1) -> Iterator[Row]:
    # A field may be as long as the file; the module's own limit is 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    return enumerate(reader, first)


def _width(cells: Sequence[str]) -> int:
    """Number of cells up to the last one that is not empty."""
    return next((i for i in range(len(cells), 0, -1) if cells[i - 1] and not cells[i - 1].isspace()), 0)


def _delimiter(text: str) -> str:
    """The delimiter by which most rows have as many columns as a neighbour; none if the text is one column."""
    sample = text[:_SAMPLE_CHARS]
    scores = {delimiter: _score(sample, delimiter, is_cut=len(text) > len(sample)) for delimiter in _DELIMITERS}
    best = max(scores, key=lambda delimiter: scores[delimiter])
    return best if scores[best] > (0.0, 0.0, 0) else _NO_DELIMITER


def _score(sample: str, delimiter: str, *, is_cut: bool) -> tuple[float, float, int]:
    """How regular rows are, the share of cells that are numbers or dates, and the most frequent width."""
    rows = [cells for _, cells in islice(_rows(sample, delimiter), _SAMPLE_ROWS) if _width(cells)]
    if is_cut and 1 < len(rows) < _SAMPLE_ROWS:
        rows.pop()  # the end of the sample has cut it
    widths = [len(cells) for cells in rows]
    divided = [width for width in widths if width > 1]
    if not divided:
        return 0.0, 0.0, 0
    if len(widths) == 1:
        regular = 1.0
    else:
        pairs = [a == b > 1 for a, b in pairwise(widths)]
        regular = sum(map(max, [False, *pairs], [*pairs, False])) / len(widths)
    # Prose has marks, too, but a space after each, and lines without.
    is_spaced = delimiter != "\t" and _is_spaced(sample, delimiter)
    needed = _MIN_REGULAR_PROSE if is_spaced else _MIN_REGULAR
    if regular < needed or (is_spaced and widths[0] == 1):
        ragged = len(divided) / len(widths)
        if is_spaced or ragged < _MOST or len(widths) > 3:
            return 0.0, 0.0, 0
        regular = ragged / 2
    cells = [cell.strip() for row in rows for cell in row if cell.strip()]
    typed = sum(_kind(cell) in {"number", "date"} for cell in cells) / len(cells)
    n_words = sum(len(cell.split()) for cell in cells) / len(cells)
    if is_spaced and not typed and '"' not in sample and n_words > _MAX_WORDS:
        return 0.0, 0.0, 0
    return round(regular, 1), typed, Counter(divided).most_common(1)[0][0]


def _is_spaced(sample: str, delimiter: str) -> bool:
    n, n_spaced = sample.count(delimiter), len(re.findall(rf"{re.escape(delimiter)}[ \n\r]", sample))
    return n_spaced > n * _MOST


@dataclass
class _Reading:
    """Records of a file's tables, made block by block; a block is rows without an empty one between them.

    Args:
        header: ``Choices.table_header``.
        is_prose: the file has one column.
    """

    header: str
    is_prose: bool
    names: list[str] | None = None
    records: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    n_guessed: int = 0
    _n_columns: float = 0
    _waiting: list[Row] = field(default_factory=list)

    def add(self, block: Iterator[Row]) -> None:
        """Add a block; a short first one waits for the next, because it may be the lines above a wider table."""
        head = [(number, _stripped(cells)) for number, cells in islice(block, _HEAD_ROWS)]
        rows = chain(head, ((number, _stripped(cells)) for number, cells in block))
        if self.is_prose:
            self._add_column(head, rows)
        elif self.header == "none" or (self.header == "first" and self.names):
            self._add_rows(rows)
        elif self.header == "first":
            self._name(next(rows)[1])
            self._add_rows(rows)
        elif not self._n_columns and not self._waiting and len(head) < _HEAD_ROWS:
            self._waiting = head
        else:
            self._settle(_columns(head))
            self._add_table(head, rows)

    def end(self) -> None:
        """Take in what waits; a lonely header is still text."""
        self._settle(0)
        if not self.records and self.names:
            self._put(", ".join(self.names), 1)

    def _settle(self, n_columns: float) -> None:
        head, self._waiting = self._waiting, []
        if not head:
            return
        votes = _votes(head[0][1], [cells for _, cells in head[1:]])
        if _columns(head) * 2 <= n_columns or (_columns(head) < n_columns and votes <= 0):
            self._add_remarks(head)
        else:
            self._add_table(head, iter(head))

    def _add_column(self, head: list[Row], rows: Iterator[Row]) -> None:
        """A file with one column: its first row is a name if it is one short word above longer text."""
        if self.header != "none" and self.names is None and (self.header == "first" or _names_a_column(head)):
            self._name(next(rows)[1])
        for number, cells in rows:
            text = "\n".join(cell for cell in cells if cell)
            self._put(labelled(self.names[0], text) if self.names else text, number)

    def _add_table(self, head: list[Row], rows: Iterator[Row]) -> None:
        typical = _columns(head)
        if max(_width(cells) for _, cells in head) == 1:
            # One cell in each line: a remark between tables.
            self._add_remarks(rows)
            return
        at = _table_start(head, typical)
        self._add_remarks(islice(rows, at))
        below = [cells for _, cells in head[at + 1 :] if not _is_comment(cells)]
        votes = _votes(head[at][1], below)
        continues = self._n_columns and (len(head) - at == 1 or (typical == self._n_columns and votes < 1))
        if continues:
            self._add_rows(rows)
            return
        self._n_columns = typical
        self.names = None
        if typical == 2 and votes == 0 and _is_form([cells for _, cells in head[at:]]):
            self.n_guessed += 1
            for number, cells in rows:
                self._put(labelled(cells[0].rstrip(" :"), " ".join(filter(None, cells[1:]))), number)
            return
        if votes >= 0 and all(len(cell) <= _MAX_NAME_CHARS for cell in head[at][1]):
            self.n_guessed += votes == 0 and bool(below)
            names = next(rows)[1]
            self._name([names[0].lstrip("# "), *names[1:]])
        self._add_rows(rows)

    def _name(self, cells: list[str]) -> None:
        """Take these cells as names of the columns; empty ones are numbered, as are repeated ones."""
        names: list[str] = []
        for i, cell in enumerate(cells[: _width(cells)], 1):
            name = wanted = " ".join(cell.split()) or f"column {i}"
            n = 1
            while name in names:
                n += 1
                name = f"{wanted} ({n})"
            names.append(name)
        self.names = names

    def _add_rows(self, rows: Iterator[Row]) -> None:
        names = self.names or []
        for number, cells in rows:
            if names and _is_comment(cells) and _width(cells) == 1 < len(names):
                self._put(cells[0].lstrip("# "), number)
                continue
            if len(cells) > len(names):
                names = [*names, *(f"column {i}" for i in range(len(names) + 1, len(cells) + 1))]
            self._put("\n".join(labelled(name, cell) for name, cell in zip(names, cells, strict=False) if cell), number)

    def _add_remarks(self, rows: Iterable[Row]) -> None:
        """Lines that belong to no table, as one record."""
        lines = [(number, " ".join(cell for cell in cells if cell).lstrip("# ")) for number, cells in rows]
        if lines:
            self._put("\n".join(line for _, line in lines if line), lines[0][0])

    def _put(self, record: str, number: int) -> None:
        if record.strip():
            self.records.append(record)
            self.numbers.append(number)


def _stripped(cells: list[str]) -> list[str]:
    # The indentation of several lines, as of code, says something; other white space around a value does not.
    return [cell if "\n" in cell else cell.strip() for cell in cells]


def _columns(head: list[Row]) -> float:
    return median(_width(cells) for _, cells in head)


def _is_comment(cells: list[str]) -> bool:
    return cells[0].startswith("#") if cells else False


def _table_start(head: list[Row], typical: float) -> int:
    """Index of the row where the table of a block begins, after comments and lines with fewer cells."""
    widths = [_width(cells) for _, cells in head]
    at = next((i for i, width in enumerate(widths) if width >= typical and not _is_comment(head[i][1])), 0)
    below = [cells for _, cells in head[at + 1 :]]
    # A row of names may be shorter than the rows below it, or begin with a comment's mark.
    if at and widths[at - 1] > 1 and _votes(head[at][1], below) <= 0 < _votes(head[at - 1][1], [head[at][1], *below]):
        return at - 1
    for i in range(at, min(at + _MAX_LINES_ABOVE, len(head) - 1)):
        # A row as wide as the table can be its first row, too; one of two cells rather a label with its value.
        is_feeble = i > at and (typical <= 2 or len(head) - 1 - i < _MIN_ROWS_BELOW)
        if is_feeble or any(_kind(cell) == "number" for cell in head[i][1]):
            break
        if _votes(head[i][1], [cells for _, cells in head[i + 1 :]]) > 0:
            return i
    return at


def _is_form(rows: list[list[str]]) -> bool:
    """Whether rows of two cells are labels with their values: values of all kinds, or colons say so."""
    labels, values = [row[0] for row in rows], [row[1] for row in rows if len(row) > 1 and row[1]]
    if len(rows) < _MIN_FORM_ROWS or len(set(labels)) < len(labels) or any(_kind(label) != "word" for label in labels):
        return False
    kinds = Counter(map(_kind, values)).most_common(1)
    is_mixed = bool(kinds) and kinds[0][1] < len(values) * _MOST
    return is_mixed or all(label.endswith(":") for label in labels)


def _names_a_column(head: list[Row]) -> bool:
    first, *others = [cells[0] for _, cells in head if cells]
    if not others:
        return False
    is_word = len(first.split()) == 1 and sum(len(other.split()) > 1 for other in others) > len(others) / 2
    is_short = len(first.split()) <= 2 and median(map(len, others)) > 2 * len(first)
    return is_word or is_short or _votes([first], [[other] for other in others]) > 0


def _votes(names: list[str], rows: list[list[str]]) -> int:
    """How many columns say that this row names them, less how many say that it is one of the rows.

    A word above numbers is a name; a number above numbers, or a word that stands in its column again, is a value.
    Years or other numbers in a series, and those with a mark that the others lack, such as ``50%``, may be names too.
    """
    series = _series(names)
    are_years = all(_YEAR.fullmatch(names[i]) for i in series)
    if series and sum(_is_such_a_row(row, series, years=are_years) for row in rows) > len(rows) / 2:
        series = []
    votes = int(len(series) > 1)
    for i, name in enumerate(names):
        values = [row[i] for row in rows if i < len(row) and row[i]]
        if not name or not values:
            votes -= bool(name) and not rows and _kind(name) == "number"
            continue
        kind, n = Counter(map(_kind, values)).most_common(1)[0]
        is_one_kind = n >= len(values) * _MOST
        if kind == "word":
            votes -= name in values
        elif is_one_kind and _kind(name) != kind:
            votes += 1
        elif is_one_kind and i not in series and _marks(name) <= set().union(*map(_marks, values)):
            votes -= 1
    return votes


def _is_such_a_row(row: list[str], series: list[int], *, years: bool) -> bool:
    """Whether a row has years, or a series, where the row of names has them."""
    return all(_YEAR.fullmatch(row[i]) for i in series if i < len(row)) if years else len(_series(row)) > 1


def _series(cells: list[str]) -> list[int]:
    """Where a row has whole numbers that grow by the same step: a year, years, or three and more of any others."""
    at = [i for i, cell in enumerate(cells) if _WHOLE.fullmatch(cell)]
    steps = {int(cells[b]) - int(cells[a]) for a, b in pairwise(at)}
    are_years = all(_YEAR.fullmatch(cells[i]) for i in at)
    is_series = len(steps) == 1 and 0 not in steps and 2 < len(at) < len(cells)
    return at if are_years or is_series else []


def _kind(value: str) -> str:
    # A long value is none of them, and patterns would take long to see it.
    if len(value) > _MAX_NAME_CHARS:
        return "word"
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(value)), "word")


def _marks(value: str) -> set[str]:
    return {char for char in value if not char.isalnum() and char not in " .,-"}
