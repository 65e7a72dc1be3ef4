"""Result of a format's reader, and cleanup of its text, so that PostgreSQL and BSON can both hold it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["prose", "markdown", "records"]

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
_EMPTY_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_UNSTORABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")


@dataclass(frozen=True, slots=True)
class Choices:
    """What a deployment has decided about reading; JSON values only, because child processes are told them.

    Args:
        text_encoding: encoding of texts that neither declare one nor are UTF-8; empty: the readers detect it.
        table_header: whether the first row of a CSV or TSV names its columns: ``auto`` detects it, ``first`` and
            ``none`` say so.
    """

    text_encoding: str = ""
    table_header: str = "auto"


DETECTED = Choices()
"""Nothing is decided: the readers find out."""


@dataclass(frozen=True, slots=True)
class RawText:
    """Result of a format's reader, not yet cleaned.

    Args:
        parts: the pages, slides or sheets of a format that has such, the records of ``records``, else one part.
        places: for each part what a chunk's metadata says of it, e.g. ``{"page": 3}``, by keys of ``PLACE_KEYS``; empty
            where the format has no such parts.
        shape: ``markdown`` has headings; ``records`` are independent, each is a part and may have empty lines inside.
        metadata: facts found in the file (``title``, ``pages``), JSON values only.
        notes: what a person would want to know about this reading, as in ``ParsedDocument``.
    """

    parts: list[str]
    shape: Shape = "prose"
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, int | str] = field(default_factory=dict)
    places: list[dict[str, Any]] = field(default_factory=list)


def block(value: str) -> str:
    """A value of several lines without the empty lines around it; its indentation stays."""
    if "\n" not in value and "\r" not in value:
        return value.strip()
    return _EMPTY_LINES.sub("", _LINE_ENDS.sub("\n", value).rstrip())


def labelled(name: str, value: str) -> str:
    """``name: value``; an indented value of several lines begins on a line of its own."""
    value = block(value)
    return f"{name}:\n{value}" if value[:1] in {" ", "\t"} else f"{name}: {value}"


def clean_text(text: str) -> tuple[str, dict[str, int]]:
    r"""Text with ``\n`` line ends and without unstorable and useless characters, and how many were changed.

    Line ends of every kind become ``\n``; NUL, other control characters and byte order marks are removed; lone
    surrogates become U+FFFD. Everything else stays as it is. Counts are under ``nul_bytes``, ``control_chars``,
    ``bom`` and ``lone_surrogates``.
    """
    counts: dict[str, int] = {}

    def replacement(match: re.Match[str]) -> str:
        char = match.group()
        kind, new = _rule(char)
        counts[kind] = counts.get(kind, 0) + 1
        return new

    # Characters are removed first, so that a NUL inside "\r\n" does not turn it into two line ends.
    text = _UNSTORABLE.sub(replacement, text)
    return _LINE_ENDS.sub("\n", text), counts


def _rule(char: str) -> tuple[str, str]:
    if char == "\0":
        return "nul_bytes", ""
    if char == "\ufeff":
        return "bom", ""
    if "\ud800" <= char <= "\udfff":
        return "lone_surrogates", "\ufffd"
    return "control_chars", ""
