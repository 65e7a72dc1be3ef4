"""Reader of CSV and TSV: each row as ``header: value`` lines that can be understood without the other rows."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from ragstore.errors import ParseError
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

_DELIMITERS = ",\t;|"
_SAMPLE_CHARS = 32_768
_SAMPLE_ROWS = 50
_EMPTY_LINES = re.compile(r"[ \t]*\n\s*")
_NUMBER = re.compile(r"[+-]?[\d.,\s]*\d[\d.,\s]*%?")
_MAX_HEADER_CHARS = 100


def read_table(data: bytes, choices: Choices) -> RawText:
    """One record for each row; the delimiter and the presence of a header are detected.

    Raises:
        ParseError: it cannot be divided into rows.
    """
    text, notes = decode(data, choices)
    # NUL ends a row for the csv module in some versions and is an error in others.
    text = text.replace("\0", "").removeprefix("\ufeff")
    try:
        rows = _rows(text, _delimiter(text[:_SAMPLE_CHARS]))
        records = [record for _, record in records_of(enumerate(rows))]
    except csv.Error as error:
        raise ParseError("is a damaged table", hint="save it anew as CSV", reason=str(error)) from error
    return RawText(["\n\n".join(records)], "records", notes=notes)


def records_of(rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, str]]:
    """A record for each row of a table whose first row may be its header; rows without content are left out.

    Args:
        rows: each row with its number, which comes back with its record. A header alone is a record, too.
    """
    rows = ((number, row) for number, row in rows if any(cell.strip() for cell in row))
    first_number, first = next(iter(rows), (0, []))
    header = _header(first)
    if header is None:
        yield first_number, _record(_numbered(first), first)
    names, is_alone = header or _numbered(first), True
    for number, row in rows:
        is_alone = False
        yield number, _record(names, row)
    if header and is_alone:
        yield first_number, ", ".join(header)


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    # A field may be as long as the file; the module's own limit is 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return (row for row in reader if any(cell.strip() for cell in row))


def _delimiter(sample: str) -> str:
    """The delimiter that divides most rows into the same number of columns, at least two."""

    def score(delimiter: str) -> tuple[float, int]:
        widths = Counter(len(row) for _, row in zip(range(_SAMPLE_ROWS), _rows(sample, delimiter), strict=False))
        width, n = widths.most_common(1)[0] if widths else (1, 0)
        return (n / widths.total(), width) if width > 1 else (0.0, 0)

    return max(_DELIMITERS, key=score)


def _header(row: list[str]) -> list[str] | None:
    """Names of the columns if the row looks like a header (different, short words, no numbers), else None."""
    names = [" ".join(cell.split()) for cell in row]
    words = [name for name in names if name]
    plausible = all(len(name) <= _MAX_HEADER_CHARS and not _NUMBER.fullmatch(name) for name in words)
    if not words or not plausible or len(set(words)) < len(words):
        return None
    return [name or f"column {i}" for i, name in enumerate(names, 1)]


def _numbered(row: list[str]) -> list[str]:
    return [f"column {i}" for i in range(1, len(row) + 1)]


def _record(header: list[str], row: list[str]) -> str:
    names = header if len(row) <= len(header) else [*header, *_numbered(row)[len(header) :]]
    cells = ((name, _EMPTY_LINES.sub("\n", cell.strip())) for name, cell in zip(names, row, strict=False))
    return "\n".join(f"{name}: {cell}" for name, cell in cells if cell)
