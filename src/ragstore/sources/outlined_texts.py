"""Reader of texts whose headings are marked in other ways than Markdown's: reStructuredText, LaTeX, Org, AsciiDoc."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragstore.sources.outlines import Mark, marks_by, read_outline, title_of
from ragstore.sources.plain_text import decode
from ragstore.sources.raw import Choices, RawText

_LATEX = re.compile(
    r"\s*\\(?P<kind>part|chapter|section|subsection|subsubsection|paragraph)\*?(?:\[[^\]]*\])?\{(?P<title>.+?)\}?\s*(?:%.*)?$"
)
_LATEX_LEVELS = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph")
_MARKED = re.compile(r"(?P<mark>={1,6}|\*{1,8})[ \t]+(?P<title>\S.*)$")  # AsciiDoc, Org
_POD = re.compile(r"=head(?P<level>[1-6])\s+(?P<title>\S.*)$")
_TEXTILE = re.compile(r"h(?P<level>[1-6])\.\s+(?P<title>\S.*)$")
_UNDERLINE = re.compile(r"([=\-`:'\"~^_*+#<>.])\1{2,}\s*$")


def read_outlined(data: bytes, choices: Choices) -> RawText:
    """The text as it is, under the path of its headings."""
    text, notes = decode(data, choices)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.splitlines(keepends=True)
    marks = list(marks_by(lines, _mark)) or list(_underlined(lines))
    raw = read_outline(text, iter(marks), "prose")
    return RawText(raw.parts, raw.shape, notes=notes, headings=raw.headings, separator="")


def _mark(line: str) -> Mark | None:
    if found := _LATEX.match(line):
        return Mark(_LATEX_LEVELS.index(found["kind"]), found["title"])
    if found := _POD.match(line) or _TEXTILE.match(line):
        return Mark(int(found["level"]), found["title"])
    if found := _MARKED.match(line):
        return Mark(len(found["mark"]), found["title"].rstrip("= "))
    return None


def _underlined(lines: list[str]) -> Iterator[Mark]:
    """Headings of reStructuredText: a line with a line of one mark below it, and perhaps above it.

    Levels are in the order in which the marks are first seen.
    """
    levels: list[tuple[str, bool]] = []
    for i in range(1, len(lines)):
        title, underline = lines[i - 1].rstrip(), _UNDERLINE.match(lines[i])
        if not underline or not title.strip() or _UNDERLINE.match(title):
            continue
        over = _UNDERLINE.match(lines[i - 2]) if i > 1 else None
        is_over = bool(over and over[1] == underline[1])
        # A table has such lines too, and its own text lies directly above them.
        is_heading = is_over or (title[0] not in " \t" and (i == 1 or not lines[i - 2].strip()))
        if not is_heading or len(underline.group().rstrip()) < len(title.strip()) // 2:
            continue
        kind = (underline[1], is_over)
        if kind not in levels:
            levels.append(kind)
        yield Mark(levels.index(kind), title_of(title), first=i - 2 if is_over else i - 1)
