"""Result of a format's reader, and cleanup of its text, so that PostgreSQL and BSON can both hold it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["prose", "markdown", "records", "lines"]

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
_UNSTORABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")


@dataclass(frozen=True, slots=True)
class Choices:
    """What a deployment has decided about reading; JSON values only, because child processes are told them.

    Args:
        text_encoding: encoding of texts that neither declare one nor are UTF-8; empty: the readers detect it.
        text_suffixes: suffixes, ``.dat``, and whole names, ``brewfile``, lower-case, of files that are read as text.
        readers: suffix → ``package.Class`` of the reader that a deployment has chosen for it.
    """

    text_encoding: str = ""
    text_suffixes: Sequence[str] = ()
    readers: Mapping[str, str] = field(default_factory=dict)


DETECTED = Choices()
"""Nothing is decided: the readers find out."""


@dataclass(frozen=True, slots=True)
class RawText:
    """Result of a format's reader, not yet cleaned.

    Args:
        parts: the pages, slides or sheets of a format that has such, else one part.
        places: for each part what a chunk's metadata says of it, e.g. ``{"page": 3}``, by keys of ``PLACE_KEYS``; empty
            where the format has no such parts.
        shape: ``markdown`` has headings; ``records`` are independent and separated by one empty line; ``lines`` are
            never cut and keep their indentation.
        headings: for each part the titles of the sections that contain it, outermost first; empty where the format has
            none, and for ``markdown``, whose text has them.
        separator: what stands between two parts.
        metadata: facts found in the file (``title``, ``pages``), JSON values only.
        notes: what a person would want to know about this reading, as in ``ParsedDocument``.
    """

    parts: list[str]
    shape: Shape = "prose"
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, int | str] = field(default_factory=dict)
    places: list[dict[str, Any]] = field(default_factory=list)
    headings: list[tuple[str, ...]] = field(default_factory=list)
    separator: str = "\n\n"


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
