"""Printing: results, and only results, on standard output; remarks about them on standard error."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ragstore.telemetry.logging import visible, visible_json


class OutputClosedError(Exception):
    """The reader of our output stopped reading, as ``head`` does."""


def write(text: str = "", *, end: str = "\n") -> None:
    """Print a line of results.

    Raises:
        OutputClosedError: the reader stopped reading.
    """
    try:
        sys.stdout.write(text + end)
    except BrokenPipeError as error:
        raise OutputClosedError from error


def flush() -> None:
    """Flush standard output; raises as ``write`` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def say(text: str) -> None:
    """Print a line about the results on standard error; raises as ``write`` does."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def write_json(value: Mapping[str, Any]) -> None:
    write(_json(value, indent=2))


def write_json_list(key: str, items: Iterable[Mapping[str, Any]], facts: Mapping[str, Any] | None = None) -> None:
    """Print ``{**facts, key: [items]}``, one item a line, each as it comes: a million items do not fill the memory."""
    remaining = iter(items)
    first = next(remaining, None)  # an error that stops the listing must come before its first character
    before = f"{_json(facts)[1:-1]}, " if facts else ""
    write(f'{{{before}"{key}": [')
    if first is not None:
        write(_json(first), end="")
    for item in remaining:
        write(f",\n{_json(item)}", end="")
    write("" if first is None else "\n", end="]}\n")


def plain(text: object) -> str:
    """Text that is safe to show on a terminal: stored text may come from anywhere."""
    return visible(str(text))


def one_line(text: object) -> str:
    """Safe text on one line."""
    return plain(" ".join(str(text).split()))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of aligned columns; numbers are aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    values = list(zip(*cells, strict=True)) if cells else [()] * len(headings)
    widths = [max(len(word) for word in (heading, *column)) for heading, column in zip(headings, values, strict=True)]
    right = [any(word != "-" for word in column) and all(_is_number(word) for word in column) for column in values]
    return [
        "  ".join(
            word.rjust(width) if is_right else word.ljust(width)
            for word, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(headings), *cells]
    ]


def fitted(headings: Sequence[str], rows: Iterable[Sequence[object]], width: int | None) -> list[str]:
    """As ``table``; if a line is longer than ``width``, its last cell follows, unbroken, on a line of its own.

    Args:
        width: columns, None if lines need not be broken.
    """
    *narrow, last = headings
    taken = [list(row) for row in rows]
    lines = table(headings, taken)
    if width is None or all(len(line) <= width for line in lines):
        return lines
    beginnings = table(narrow, [row[:-1] for row in taken])
    cells = [last, *(_cell(row[-1]) for row in taken)]
    heading, *others = [below(line, cell, width) for line, cell in zip(beginnings, cells, strict=True)]
    return [*heading, *(line for pair in others for line in pair)]


def below(line: str, text: str, width: int) -> list[str]:
    """A line, and below it a text in lines of at most ``width`` columns that are broken only between words."""
    words = textwrap.wrap(text, width - 4, break_long_words=False, break_on_hyphens=False)
    return [line, *(f"    {each}" for each in words)]


def terminal_width() -> int:
    """Columns for text; at most 120, so that it is readable."""
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def breaking_width() -> int | None:
    """Columns after which the terminal breaks a line; None if lines go to a file or a program."""
    is_narrow = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return shutil.get_terminal_size((100, 24)).columns if is_narrow else None


def counted(n: int, noun: str) -> str:
    """``1 time``, ``2 times``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def without_name(reason: str, name: str) -> str:
    """The reason without the name, which the output shows before it."""
    return (reason.removeprefix(name).lstrip(": ") or reason) if reason.startswith(name) else reason


def first_of(heading: str, names: Sequence[str], limit: int) -> list[str]:
    """Lines with the first names, and how many more there are."""
    lines = [f"{heading}: {one_line(name)}" for name in names[:limit]]
    return [*lines, f"and {len(names) - limit:,} more"] if len(names) > limit else lines


def bytes_in_words(n_bytes: int | None) -> str:
    """``1.4 MB``."""
    if n_bytes is None:
        return "-"
    size, unit = float(n_bytes), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, bigger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return one_line(value)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-|[\d.,]+( (B|kB|MB|GB|TB))?", word) is not None


def _json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=indent, ensure_ascii=not unicode, default=str)
    # A path that is not valid text has lone surrogates, which only the escaped form can represent.
    return visible_json(text)
