"""Raw bytes of one file → its clean text, with what the reader knows about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, get_args

from ragstore.errors import ParseError
from ragstore.sources.cleanup import clean_text
from ragstore.sources.formats import Format, format_of

Shape = Literal["prose", "markdown", "records"]

PART_SEPARATOR = "\n\n"
_MAX_FACT_CHARS = 500


@dataclass(frozen=True, slots=True)
class RawText:
    """What a format's reader gives back, not yet cleaned.

    Args:
        parts: the pages of a paged format, else one part.
        shape: ``markdown`` has headings; ``records`` are separated by one empty line and stand for themselves.
        metadata: facts found in the file (``title``, ``pages``), JSON values only.
        cleaned: what the reader had to replace, as in ``ParsedDocument``.
    """

    parts: list[str]
    shape: Shape = "prose"
    paged: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    cleaned: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReadText:
    """Clean text of one file.

    Args:
        page_starts: offset in ``text`` where each page begins, empty for formats without pages.
    """

    text: str
    shape: Shape = "prose"
    page_starts: list[int] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    cleaned: dict[str, int] = field(default_factory=dict)


def read(data: bytes, name: str) -> ReadText:
    """Read a file's bytes as what they are, whatever its name says.

    Raises:
        UnsupportedTypeError: no reader for them.
        ParseError: damaged, encrypted, or without text.
        LimitExceededError: would unpack to too much.

    Messages lack the file's name, so that they can follow it: ``is empty``.
    """
    if not data:
        raise ParseError("is empty", hint="write something into it, or leave it out", reason="empty")
    try:
        raw = _reader(format_of(data, name))(data)
    except RecursionError as error:
        raise ParseError("is nested too deeply", hint="leave it out", reason="recursion") from error
    cleaned = dict(raw.cleaned)
    parts = [_cleaned(part, cleaned) for part in raw.parts]
    text = PART_SEPARATOR.join(parts)
    if not text.strip():
        raise ParseError("has no text", hint="leave it out", reason="no text")
    steps = [len(part) + len(PART_SEPARATOR) for part in parts[:-1]]
    page_starts = list(accumulate(steps, initial=0)) if raw.paged else []
    return ReadText(text, raw.shape, page_starts, _clean_facts(raw.metadata), cleaned)


def load_readers() -> None:
    """Import every reader's library now, so that later no file pays for it."""
    for format_ in get_args(Format):
        _reader(format_)


def _cleaned(part: str, counts: dict[str, int]) -> str:
    text, found = clean_text(part)
    for kind, n in found.items():
        counts[kind] = counts.get(kind, 0) + n
    return text


def _clean_facts(metadata: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, str):
            value = clean_text(value[:_MAX_FACT_CHARS])[0].strip()  # noqa: PLW2901
        if value not in ("", None):
            facts[clean_text(key)[0]] = value
    return facts


def _reader(format_: Format) -> Callable[[bytes], RawText]:
    """Imported here, one by one: most of them load a library that few runs need."""
    match format_:
        case "text":
            from ragstore.sources.plain_text import read_text as reader
        case "markdown":
            from ragstore.sources.plain_text import read_markdown as reader
        case "html":
            from ragstore.sources.html_pages import read_html as reader
        case "pdf":
            from ragstore.sources.pdf_pages import read_pdf as reader
        case "docx":
            from ragstore.sources.word_documents import read_docx as reader
        case "csv" | "tsv":
            from ragstore.sources.tables import read_table as reader
        case "json":
            from ragstore.sources.json_values import read_json as reader
        case "jsonl":
            from ragstore.sources.json_values import read_json_lines as reader
    return reader
