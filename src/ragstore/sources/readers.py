"""Conversion of a file's bytes to clean text by the reader of its format, with facts found in the file."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import accumulate
from typing import Any, cast

from ragstore.errors import ParseError, UnsupportedTypeError, not_installed
from ragstore.sources.chosen_readers import load_chosen, read_chosen
from ragstore.sources.formats import CHOSEN, FORMATS, Format, format_of
from ragstore.sources.raw import DETECTED, Choices, RawText, Shape, clean_text

Reader = Callable[[bytes, Choices], RawText]

_MAX_FACT_CHARS = 500
_EMPTY: dict[str, int | str] = {"empty": 1}


@dataclass(frozen=True, slots=True)
class ReadText:
    """Clean text of one file.

    Args:
        part_starts: offset in ``text`` where each record begins, or each part that has a place or headings; empty for
            formats without.
        places: what the chunks that begin in that part say of it, e.g. ``{"page": 3}``; as many as ``part_starts``, or
            none.
        headings: titles of the sections that contain each part, outermost first; as many as ``part_starts``, or none.
    """

    text: str
    shape: Shape = "prose"
    part_starts: list[int] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, int | str] = field(default_factory=dict)
    places: list[dict[str, Any]] = field(default_factory=list)
    headings: list[tuple[str, ...]] = field(default_factory=list)


def read(data: bytes, name: str, choices: Choices = DETECTED, *, path: str = "") -> ReadText:
    """Read a file by the real format of its bytes, even if its name says another one.

    A file without text is an empty document, unless it may hold pictures of text: an emptied file must not go on
    answering with its former text.

    Args:
        path: where a reader of the deployment's choice can open the same bytes.

    Raises:
        UnsupportedTypeError: there is no reader for them.
        ParseError: they are damaged, encrypted, or pictures without text.
        LimitExceededError: they would unpack to too many bytes.

    Messages do not contain the file's name, so that they can follow it: ``is encrypted``.
    """
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        return ReadText("", notes=dict(_EMPTY))
    try:
        format_ = format_of(data, name, choices)
        chosen = format_ == CHOSEN
        raw = read_chosen(data, name, choices, path) if chosen else _reader(format_)(data, choices)
    except RecursionError as error:
        raise ParseError("is nested too deeply", hint="leave it out", reason="recursion") from error
    return as_read(raw, may_hold_pictures=_may_hold_pictures(data))


def as_read(raw: RawText, *, may_hold_pictures: bool = False) -> ReadText:
    """Clean text of what a reader made of a file; raises ParseError if that is none, but perhaps pictures."""
    notes = dict(raw.notes)
    parts = [_cleaned(part, notes) for part in raw.parts]
    text = raw.separator.join(parts)
    if not text.strip():
        if may_hold_pictures:
            raise ParseError("has no text", hint="leave it out, or run OCR on its pictures first", reason="no text")
        return ReadText("", raw.shape, metadata=_clean_facts(raw.metadata), notes=notes | _EMPTY)
    steps = [len(part) + len(raw.separator) for part in parts[:-1]]
    has_parts = raw.places or raw.headings or raw.shape == "records"
    part_starts = list(accumulate(steps, initial=0)) if has_parts else []
    headings = [tuple(clean_text(title)[0] for title in titles) for titles in raw.headings]
    return ReadText(text, raw.shape, part_starts, _clean_facts(raw.metadata), notes, raw.places, headings)


def _may_hold_pictures(data: bytes) -> bool:
    """Whether it is more than characters: an archive, as most formats of office programs are, a PDF or an RTF."""
    head = data[:1024]
    is_marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return (b"\0" in head and not is_marked) or b"%PDF-" in head or head.startswith(b"{\\rtf")


def load_readers(choices: Choices = DETECTED) -> None:
    """Import the libraries of all readers now, so that no file waits for an import later."""
    for format_ in (name for name, kind in FORMATS.items() if kind.reader):
        with suppress(UnsupportedTypeError):  # an extra is not installed
            _reader(format_)
    load_chosen(choices)


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


def _reader(format_: Format) -> Reader:
    """The reader of a format; imported only when needed, because most readers load a library that few runs use."""
    kind = FORMATS[format_]
    module, _, function = kind.reader.partition(".")
    try:
        return cast("Reader", getattr(import_module(f"ragstore.sources.{module}"), function))
    except ImportError as error:
        if not kind.extra:
            raise
        raise UnsupportedTypeError(
            f"is of a type ({format_}) whose reader is not installed", hint=not_installed(kind.extra)
        ) from error
