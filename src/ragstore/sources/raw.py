"""Result of a format's reader, and cleanup of its text, so that PostgreSQL and BSON can both hold it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PART_SEPARATOR = "\n\n"
Shape = Literal["prose", "markdown", "records", "lines"]

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85]")
# CSI and OSC sequences (colours, links), other escapes, and a letter that is struck over by the next.
_TERMINAL_CODE = re.compile(
    "\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b\n]*(?:\x07|\x1b\\\\)|[PX^_][^\x1b\n]*\x1b\\\\|[ -/]*[0-~])"
    "|[^\n\r\x08]\x08"
)
_EMPTY_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_UNSTORABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")

# Joiners stay between letters of scripts that have them; a zero-width space divides words where no space does.
_UNJOINED = r"\s\x21-\u05ff\u2000-\u200b\u200e-\u206f\u3000-\ud7ff"
_NO_SPACES = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_INVISIBLE = re.compile(
    r"[\u00ad\u200e\u200f\u061c\u202a-\u202e\u2060-\u2069\ufff9-\ufffb]"
    rf"|(?<![{_NO_SPACES}])\u200b|\u200b(?![{_NO_SPACES}])"
    rf"|(?<![^{_UNJOINED}])[\u200c\u200d]+|[\u200c\u200d]+(?![^{_UNJOINED}\u200c\u200d])"
    r"|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
)
_PERHAPS_INVISIBLE = re.compile(
    r"[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_MIN_BASE64_CHARS = 200
_LONG_RUN = re.compile(
    r"(?:data:[\w.+-]+/[\w.+-]+;base64,)?(?:"
    r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{200,}+={0,2}"
    r"|(?:^[ \t>]*[A-Za-z0-9+/]{48,100}={0,2}[ \t]*\n){3,}+(?:[ \t>]*[A-Za-z0-9+/]{1,100}={0,2}[ \t]*(?:\n|\Z))?)",
    re.MULTILINE,
)
_MADE_BY = re.compile(r"\Amicrosoft (?:word|powerpoint|excel)\s*-\s", re.IGNORECASE)
_MADE_FROM = re.compile(r"\.(?:docx?|xlsx?|pptx?|od[tsp]|rtf|indd|qxd|tex|dvi|ps|fm|pmd|cdr|wpd|p65)\Z", re.IGNORECASE)
_MAX_NO_TITLE_CHARS = 100
_NO_TITLE = re.compile(
    r"\W*(?:"
    r"(?:untitled|anonymous|unknown|no title|none|null|unbenannt|sans titre|sin t[íi]tulo|senza titolo|"
    r"無題|无标题|без названия)\W*(?:[ -]?(?:document|documents|dokument|page|\d+))*(?:\.\w{1,4})?"
    r"|microsoft (?:word|excel|powerpoint)|powerpoint presentation|word document"
    r"|(?:layout|slide|document|doc|dokument|presentation|präsentation|book|mappe|title|titel|index|"
    r"sheet|tabelle|feuille?|hoja|foglio|planilha|folha|blad|ark|arkusz|list|лист|シート|工作表) ?\d*"
    r")?\W*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Choices:
    """What a deployment has decided about reading; JSON values only, because child processes are told them.

    Args:
        text_encoding: encoding of texts that neither declare one nor are UTF-8; empty: the readers detect it.
        table_header: whether the first row of a CSV, TSV or sheet names its columns: ``auto`` detects it, ``first`` and
            ``none`` say so.
        text_suffixes: suffixes, ``.dat``, and whole names, ``brewfile``, lower-case, of files that are read as text.
        readers: suffix → ``package.Class`` of the reader that a deployment has chosen for it.
    """

    text_encoding: str = ""
    table_header: str = "auto"
    text_suffixes: Sequence[str] = ()
    readers: Mapping[str, str] = field(default_factory=dict)


DETECTED = Choices()
"""Nothing is decided: the readers find out."""


@dataclass(frozen=True, slots=True)
class RawText:
    """Result of a format's reader, not yet cleaned.

    Args:
        parts: the pages, slides or sheets of a format that has such, the records of ``records``, else one part.
        places: for each part what a chunk's metadata says of it, e.g. ``{"page": 3}``, by keys of ``PLACE_KEYS``; empty
            where the format has no such parts.
        shape: ``markdown`` has headings; ``records`` are independent, each is a part and may have empty lines
            inside; ``lines`` are never cut and keep their indentation.
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
    separator: str = PART_SEPARATOR


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
    r"""Text with ``\n`` line ends and without what is unstorable or not for people, and how much was removed.

    Line ends of every kind become ``\n``; NUL, other control characters and byte order marks are removed, lone
    surrogates become U+FFFD. Colours and links of terminals go as a whole, letters that a printer strikes twice are
    there once, and long runs of base64 are left out. Soft hyphens, zero-width spaces and marks of direction go;
    joiners stay where a script or an emoji needs them. Everything else stays as it is, no-break spaces too.
    Counts are under ``nul_bytes``, ``control_chars``, ``bom``, ``lone_surrogates``, ``terminal_codes``,
    ``invisible_chars`` and ``base64_left_out``.
    """
    counts: dict[str, int] = {}

    def replacement(match: re.Match[str]) -> str:
        char = match.group()
        kind, new = _rule(char)
        counts[kind] = counts.get(kind, 0) + 1
        return new

    if "\x1b" in text or "\x08" in text:
        text, n_codes = _TERMINAL_CODE.subn("", text)
        if n_codes:
            counts["terminal_codes"] = n_codes
    # Characters are removed first, so that a NUL inside "\r\n" does not turn it into two line ends.
    text = _UNSTORABLE.sub(replacement, text)
    text = _LINE_ENDS.sub("\n", text)
    if not text.isascii() and _PERHAPS_INVISIBLE.search(text):
        text = _invisible_removed(text, counts)
    if _LONG_RUN.search(text):
        text = _base64_left_out(text, counts)
    return text, counts


def real_title(title: str) -> str:
    """The title that a person gave to a document or a part of it, or an empty text where a program filled it in.

    The name of a file is one if it has several words: ``Microsoft Word - Offer for Bern.doc`` is ``Offer for Bern``.
    """
    title = _MADE_BY.sub("", " ".join(title.split()))
    named, n_suffixes = _MADE_FROM.subn("", title)
    if n_suffixes and " " not in named:
        return ""
    return "" if len(named) <= _MAX_NO_TITLE_CHARS and _NO_TITLE.fullmatch(named) else named


def _rule(char: str) -> tuple[str, str]:
    if char == "\0":
        return "nul_bytes", ""
    if char == "\ufeff":
        return "bom", ""
    if "\ud800" <= char <= "\udfff":
        return "lone_surrogates", "\ufffd"
    return "control_chars", ""


def _invisible_removed(text: str, counts: dict[str, int]) -> str:
    n_removed = 1
    while n_removed:
        text, n_removed = _INVISIBLE.subn("", text)
        if n_removed:
            counts["invisible_chars"] = counts.get("invisible_chars", 0) + n_removed
    return text


def _base64_left_out(text: str, counts: dict[str, int]) -> str:
    def replacement(match: re.Match[str]) -> str:
        found = match.group()
        if not _is_base64(found):
            return found
        counts["base64_left_out"] = counts.get("base64_left_out", 0) + 1
        return "\n" if found.endswith("\n") else ""

    return _LONG_RUN.sub(replacement, text)


def _is_base64(run: str) -> bool:
    """Whether it has capitals, small letters and digits as often as random bytes give, and no words between slashes."""
    run = run.partition(",")[2] if run[:5].lower() == "data:" else run
    chars = [char for char in run if char.isalnum()]
    if len(chars) < _MIN_BASE64_CHARS // 2:
        return False
    n = len(chars)
    n_upper, n_digits = sum(map(str.isupper, chars)), sum(map(str.isdigit, chars))
    # Zeros of the encoded bytes are a row of A.
    return n_upper >= 0.2 * n and (n - n_upper - n_digits) >= 0.05 * n and n_digits >= 0.03 * n
