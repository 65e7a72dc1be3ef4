"""Reader of Jupyter notebooks: text, code and outputs of each cell, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ragstore.errors import ParseError
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

MAX_OUTPUT_CHARS = 20_000
"""Most characters of one output that are read; what is longer is data rather than text."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FENCE = re.compile(r"`{3,}")


def read_notebook(data: bytes, choices: Choices) -> RawText:
    """Cells in order, code in fences; images and other outputs that are no text are left out and counted.

    Raises:
        ParseError: it is no notebook.
    """
    text, notes = decode(data, choices)
    try:
        book = json.loads(text.removeprefix("\ufeff"))
    except ValueError as error:
        raise ParseError("is a damaged notebook", hint="save it anew in Jupyter", reason=str(error)) from error
    language = _language(book)
    parts, places = [], []
    for number, cell in enumerate(_cells(book), 1):
        source = _joined(cell.get("source", cell.get("input", "")))
        blocks = [source]
        if cell.get("cell_type") == "code":
            blocks = [_fenced(source, language)] if source.strip() else []
            blocks += [_fenced(output) for output in _outputs(cell, notes)]
        elif cell.get("cell_type") == "heading":  # of notebooks before version 4
            blocks = [f"{'#' * min(6, max(1, _number(cell.get('level'))))} {' '.join(source.split())}"]
        if part := "\n\n".join(block for block in blocks if block.strip()):
            parts.append(part)
            places.append({"cell": number})
    return RawText(parts, "markdown", {"title": _title(book), "language": language}, notes, places)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 1


def _language(book: Any) -> str:
    metadata = _mapping(_mapping(book).get("metadata"))
    named = _mapping(metadata.get("language_info")).get("name") or _mapping(metadata.get("kernelspec")).get("language")
    return named if isinstance(named, str) and re.fullmatch(r"[\w+#.-]{1,40}", named) else ""


def _title(book: Any) -> str:
    title = _mapping(_mapping(book).get("metadata")).get("title")
    return title if isinstance(title, str) else ""


def _cells(book: Any) -> list[Mapping[str, Any]]:
    sheets = [_mapping(book), *map(_mapping, _mapping(book).get("worksheets") or [])]
    found = [cells for sheet in sheets if isinstance(cells := sheet.get("cells"), list)]
    if not found:
        raise ParseError("is no notebook: it has no cells", hint="save it anew in Jupyter", reason="no cells")
    return [_mapping(cell) for cells in found for cell in cells]


def _joined(value: Any) -> str:
    """Text that a notebook has as one string or as lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _outputs(cell: Mapping[str, Any], notes: dict[str, int | str]) -> Iterator[str]:
    for output in map(_mapping, cell.get("outputs") or []):
        data = _mapping(output.get("data")) or output
        text = _joined(output.get("text")) or _joined(data.get("text/markdown")) or _joined(data.get("text/plain"))
        if output.get("output_type") in ("error", "pyerr"):
            text = f"{output.get('ename', '')}: {output.get('evalue', '')}"
        if any(str(kind).startswith("image/") or kind in ("png", "jpeg", "svg") for kind in data):
            _count(notes, "images_left_out")
            text = ""  # "<Figure size 640x480 with 1 Axes>" says nothing
        text = _COLOURS.sub("", text).strip("\n")
        if len(text) > MAX_OUTPUT_CHARS:
            _count(notes, "outputs_cut")
        if text.strip():
            yield text[:MAX_OUTPUT_CHARS]


def _count(notes: dict[str, int | str], name: str) -> None:
    notes[name] = int(notes.get(name, 0)) + 1


def _fenced(text: str, language: str = "") -> str:
    longest = max((len(fence) for fence in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
