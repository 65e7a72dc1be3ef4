"""Parts of a text that has marks of structure in its lines: definitions, sections, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ragstore.sources.raw import RawText, Shape

_MAX_MARK_CHARS = 500
_MAX_TITLE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Mark:
    """A line that begins a part.

    Args:
        level: parts of a greater level lie in it, of the same or a smaller one end it.
        title: its name.
        holds: whether it may hold further parts.
        first: index of the first line that belongs to it, which may be a comment above.
    """

    level: int
    title: str
    holds: bool = True
    first: int = 0


def read_outline(text: str, marks: Iterator[Mark], shape: Shape, *, min_lines: int = 0) -> RawText:
    """The text, in parts that together are all of it, each under the path of the titles that it lies in.

    Args:
        marks: in the order of their lines.
        min_lines: a part of fewer lines that are not blank, and with nothing in it, belongs to the part around it.
    """
    lines = text.splitlines(keepends=True)
    found = [mark for mark in marks if 0 <= mark.first < len(lines)]
    parts: list[str] = []
    headings: list[tuple[str, ...]] = []
    path: list[Mark] = []

    def add(first: int, last: int, titles: tuple[str, ...]) -> None:
        if first >= last:
            return
        if headings and headings[-1] == titles:
            parts[-1] += "".join(lines[first:last])
        else:
            parts.append("".join(lines[first:last]))
            headings.append(titles)

    add(0, found[0].first if found else len(lines), ())
    for i, mark in enumerate(found):
        last = found[i + 1].first if i + 1 < len(found) else len(lines)
        while path and path[-1].level >= mark.level:
            path.pop()
        path.append(mark)
        is_leaf = i + 1 == len(found) or found[i + 1].level <= mark.level
        is_small = is_leaf and sum(1 for line in lines[mark.first : last] if line.strip()) < min_lines
        add(mark.first, last, tuple(m.title for m in (path[:-1] if is_small else path) if m.title))
    return RawText(parts or [text], shape, headings=headings or [()], separator="")


def title_of(raw: str) -> str:
    """One line for a title."""
    return " ".join(raw.split())[:_MAX_TITLE_CHARS]


def marks_by(lines: list[str], mark: Callable[[str], Mark | None]) -> Iterator[Mark]:
    """A mark for each line that the function knows; longer lines than a person writes are not looked at."""
    for i, line in enumerate(lines):
        if len(line) <= _MAX_MARK_CHARS and (found := mark(line)):
            yield Mark(found.level, title_of(found.title), found.holds, i)
