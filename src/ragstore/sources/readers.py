"""Conversion of a file's bytes to clean text by the reader of its format, with facts found in the file."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, get_args

from ragstore.errors import ParseError
from ragstore.sources.formats import Format, format_of
from ragstore.sources.raw import DETECTED, Choices, RawText, Shape, clean_text

PART_SEPARATOR = "\n\n"
_MAX_FACT_CHARS = 500
_EMPTY: dict[str, int | str] = {"empty": 1}


@dataclass(frozen=True, slots=True)
class ReadText:
    """Clean text of one file.

    Args:
        part_starts: offset in ``text`` where each part begins that has a place; empty for formats without such.
        places: what the chunks that begin in that part say of it, e.g. ``{"page": 3}``; as many as ``part_starts``.
    """

    text: str
    shape: Shape = "prose"
    part_starts: list[int] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, int | str] = field(default_factory=dict)
    places: list[dict[str, Any]] = field(default_factory=list)


def read(data: bytes, name: str, choices: Choices = DETECTED) -> ReadText:
    """Read a file by the real format of its bytes, even if its name says another one.

    A file without text is an empty document, unless it may hold pictures of text: an emptied file must not go on
    answering with its former text.

    Raises:
        UnsupportedTypeError: there is no reader for them.
        ParseError: they are damaged, encrypted, or pictures without text.
        LimitExceededError: they would unpack to too many bytes.

    Messages do not contain the file's name, so that they can follow it: ``is encrypted``.
    """
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        return ReadText("", notes=dict(_EMPTY))
    try:
        raw = _reader(format_of(data, name))(data, choices)
    except RecursionError as error:
        raise ParseError("is nested too deeply", hint="leave it out", reason="recursion") from error
    return as_read(raw, may_hold_pictures=_may_hold_pictures(data))


def as_read(raw: RawText, *, may_hold_pictures: bool = False) -> ReadText:
    """Clean text of what a reader made of a file; raises ParseError if that is none, but perhaps pictures."""
    notes = dict(raw.notes)
    parts = [_cleaned(part, notes) for part in raw.parts]
    text = PART_SEPARATOR.join(parts)
    if not text.strip():
        if may_hold_pictures:
            raise ParseError("has no text", hint="leave it out, or run OCR on its pictures first", reason="no text")
        return ReadText("", raw.shape, metadata=_clean_facts(raw.metadata), notes=notes | _EMPTY)
    steps = [len(part) + len(PART_SEPARATOR) for part in parts[:-1]]
    part_starts = list(accumulate(steps, initial=0)) if raw.places else []
    return ReadText(text, raw.shape, part_starts, _clean_facts(raw.metadata), notes, raw.places)


def _may_hold_pictures(data: bytes) -> bool:
    """Whether it is more than characters: an archive, as most formats of office programs are, a PDF or an RTF."""
    head = data[:1024]
    is_marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return (b"\0" in head and not is_marked) or b"%PDF-" in head or head.startswith(b"{\\rtf")


def load_readers() -> None:
    """Import the libraries of all readers now, so that no file waits for an import later."""
    for format_ in get_args(Format):
        _reader(format_)


def _cleaned(part: str, notes: dict[str, int | str]) -> str:
    text, found = clean_text(part)
    for kind, n in found.items():
        notes[kind] = int(notes.get(kind, 0)) + n
    return text


def _clean_facts(metadata: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, str):
            value = clean_text(value[:_MAX_FACT_CHARS])[0].strip()  # noqa: PLW2901
        if value not in ("", None):
            facts[clean_text(key)[0]] = value
    return facts


def _reader(format_: Format) -> Callable[[bytes, Choices], RawText]:  # noqa: C901 - one case per reader
    """The reader of a format; imported only when needed, because most readers load a library that few runs use."""
    match format_:
        case "mail":
            from ragstore.sources.mails import read_mail as reader
        case "mhtml":
            from ragstore.sources.mails import read_mhtml as reader
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
