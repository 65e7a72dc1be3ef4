"""Sections of a Markdown text: its headings, and the span of text that belongs to each."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

_MARK = re.compile(
    r"^ {0,3}(?:"
    r"(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)"
    r"|(?P<hashes>#{1,6})(?:[ \t]+(?P<title>[^\n]*))?"
    r"|(?P<underline>=+|-{2,})[ \t]*"
    r")$",
    re.MULTILINE,
)
_DELIMITER_ROW = re.compile(
    r"^(?P<edge> {0,3}(?:> {0,4})*+)(?=[^\n]*\|)\|?[ \t]*+:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+\|?[ \t]*$",
    re.MULTILINE,
)
_ROW = re.compile(r"(?P<edge> {0,3}(?:> {0,4})*+)(?!#{1,6}[ \t]|```|~~~)(?=[^\n|]*\|)[^\n]*(?:\n|\Z)")
_EMPTY_LINES = re.compile(r"(?:[ \t]*\n)*")
_CELL_END = re.compile(r"(?<!\\)\|")
_CLOSING_HASHES = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_NO_PARAGRAPH = re.compile(r" {4}|[ \t]*(?:$|[-*+>|#=]|\d+[.)])")
_MAX_TITLE_CHARS = 200

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Table:
    """The span of a table, with the empty lines below it.

    Args:
        body: offset after the rows that name the columns; ``start`` if there are none.
    """

    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Section:
    """The span of text of a heading, up to the next heading.

    Args:
        headings: its title and the titles of the sections around it, outermost first.
        fences: spans of the document's code blocks, in order.
        tables: the document's tables, in order.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()
    fences: list[Span] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def in_fence(self, offset: int) -> bool:
        """Whether this offset is inside a code block."""
        i = bisect_right(self.fences, (offset, -1)) - 1
        return i >= 0 and self.fences[i][0] < offset < self.fences[i][1]

    def own_tables(self) -> list[Table]:
        """The tables of this section."""
        first, last = (bisect_left(self.tables, at, key=lambda table: table.start) for at in (self.start, self.end))
        return [replace(table, end=min(table.end, self.end)) for table in self.tables[first:last]]

    def table_at(self, offset: int) -> Table | None:
        """The table around this offset."""
        i = bisect_right(self.tables, offset, key=lambda table: table.start) - 1
        return self.tables[i] if i >= 0 and offset < self.tables[i].end else None


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
    tables = _tables(text, fences)
    if not headings or headings[0].start > 0:
        yield Section(0, headings[0].start if headings else len(text), (), fences, tables)
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
        yield Section(start, end, tuple(h.title for h in path if h.title), fences, tables)
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


def _tables(text: str, fences: list[Span]) -> list[Table]:
    tables: list[Table] = []
    outside = Section(0, len(text), (), fences)
    for row in _DELIMITER_ROW.finditer(text):
        start = text.rfind("\n", 0, max(0, row.start() - 1)) + 1
        header = _ROW.match(text, start, row.start())
        names = cells_of(header.group()) if header else []
        # A table begins with its header, above the line of dashes, and both have as many cells.
        if outside.in_fence(row.start()) or len(names) != len(cells_of(row.group())):
            continue
        if _DELIMITER_ROW.match(text, start, row.start() - 1):
            continue
        if tables and start < tables[-1].end:
            continue
        body = end = min(len(text), row.end() + 1)
        while (following := _ROW.match(text, end)) and following["edge"].count(">") == row["edge"].count(">"):
            end = following.end()
            if not any(names):
                # Converters write an empty header where a table has none; then its first row may hold the names.
                names = cells_of(following.group())
                body = end if _are_names(names) else start
        below = _EMPTY_LINES.match(text, end)
        tables.append(Table(start, body, below.end() if below else end))
    return tables


def cells_of(row: str) -> list[str]:
    """The cells of a table's row, stripped."""
    row = row.strip().lstrip("> ").removeprefix("|")
    return [cell.strip() for cell in _CELL_END.split(row.removesuffix("|"))]


def _are_names(cells: list[str]) -> bool:
    """Whether they look like the names of columns: each is there and different, and none is a number."""
    return all(any(map(str.isalpha, cell)) for cell in cells) and len(set(cells)) == len(cells)


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
