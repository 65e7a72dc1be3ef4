"""Sections of a Markdown text: its headings, and the span of text that belongs to each."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

_MARK = re.compile(
    r"^ {0,3}(?:"
    r"(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)"
    r"|(?P<hashes>#{1,6})(?:[ \t]+(?P<title>[^\n]*))?"
    r"|(?P<underline>=+|-{2,})[ \t]*"
    r")$",
    re.MULTILINE,
)
_CLOSING_HASHES = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_NO_PARAGRAPH = re.compile(r" {4}|[ \t]*(?:$|[-*+>|#=]|\d+[.)])")
_MAX_TITLE_CHARS = 200

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Section:
    """The span of text of a heading, up to the next heading.

    Args:
        headings: its title and the titles of the sections around it, outermost first.
        fences: spans of the document's code blocks, in order.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    fences: list[Span] = field(default_factory=list)

    def in_fence(self, offset: int) -> bool:
        """Whether this offset is inside a code block."""
        i = bisect_right(self.fences, (offset, -1)) - 1
        return i >= 0 and self.fences[i][0] < offset < self.fences[i][1]


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    body: int
    level: int
    title: str


def sections_of(text: str, *, markdown: bool) -> Iterator[Section]:
    """Sections that together are the whole text; one without headings if the text is not Markdown.

    A heading directly followed by a deeper heading has no section of its own: it is in the section of the deeper one.
    """
    if not markdown:
        yield Section(0, len(text))
        return
    headings, fences = _scan(text)
    if not headings or headings[0].start > 0:
        yield Section(0, headings[0].start if headings else len(text), (), fences)
    path: list[_Heading] = []
    start: int | None = None
    for i, heading in enumerate(headings):
        following = headings[i + 1] if i + 1 < len(headings) else None
        end = following.start if following else len(text)
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        start = heading.start if start is None else start
        if following and following.level > heading.level and not text[heading.body : end].strip():
            continue
        yield Section(start, end, tuple(h.title for h in path if h.title), fences)
        start = None


def _scan(text: str) -> tuple[list[_Heading], list[Span]]:
    headings: list[_Heading] = []
    fences: list[Span] = []
    fence, fence_start = "", 0
    for mark in _MARK.finditer(text):
        if found := mark["fence"]:
            if not fence:
                # An inline code span can look like the start of a fence, but then a backtick follows in the same line.
                if found[0] == "~" or "`" not in mark["info"]:
                    fence, fence_start = found, mark.start()
            elif found.startswith(fence) and not mark["info"].strip():
                fences.append((fence_start, mark.end()))
                fence = ""
        elif not fence and (heading := _heading(text, mark)):
            headings.append(heading)
    if fence:
        fences.append((fence_start, len(text)))
    return headings, fences


def _heading(text: str, mark: re.Match[str]) -> _Heading | None:
    if hashes := mark["hashes"]:
        return _Heading(mark.start(), mark.end(), len(hashes), _title(mark["title"] or ""))
    line_start = text.rfind("\n", 0, max(0, mark.start() - 1)) + 1
    line = text[line_start : max(line_start, mark.start() - 1)]
    is_own_paragraph = (
        line_start == 0 or text[line_start - 2 : line_start] == "\n\n" or text[: line_start - 1].isspace()
    )
    # Only an underline below a paragraph of one line makes a heading; others are rules, tables or parts of lists.
    if not is_own_paragraph or _NO_PARAGRAPH.match(line):
        return None
    return _Heading(line_start, mark.end(), 1 if mark["underline"][0] == "=" else 2, _title(line))


def _title(raw: str) -> str:
    title = _LINK.sub(r"\1", _CLOSING_HASHES.sub("", raw))
    return " ".join(title.replace("`", "").replace("**", "").split())[:_MAX_TITLE_CHARS]
