"""Hits as text: rank, score, place and excerpt."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragstore.cli.output import one_line
from ragstore.model.hit import SCORES, ScoreKind

if TYPE_CHECKING:
    from ragstore.model.hit import Hit

TEXT_LINES = 4
_INDENT = "    "
_MORE = " …"


def hit_lines(hits: Sequence[Hit], width: int) -> list[str]:
    """Rank, score, source and the first lines of the text of each hit."""
    if not hits:
        return ["no hits"]
    lines: list[str] = []
    for rank, hit in enumerate(hits, start=1):
        lines += [*place_lines(f"{rank}. {hit.score:.4f}  ", hit, width), *_shown(hit, width), ""]
    return lines[:-1]


def _shown(hit: Hit, width: int) -> list[str]:
    """The lines of the whole context if it was requested, else the first lines of the text."""
    return excerpt(hit.text, width) if hit.context is None else excerpt(hit.context, width, len(hit.context))


def score_lines(kind: ScoreKind, width: int) -> list[str]:
    """Lines that say what the scores of these hits mean."""
    return textwrap.wrap(f"score: {SCORES[kind]}", width, subsequent_indent=_INDENT)


def place(hit: Hit) -> str:
    """``/manuals/pump.pdf, page 3, Care > Cleaning, characters 120-480``."""
    return ", ".join(_place(hit))


def place_lines(beginning: str, hit: Hit, width: int) -> list[str]:
    """The place of a hit after a beginning, in lines that end at commas: a path or a number is never broken."""
    lines = [beginning]
    for position, word in enumerate(_place(hit)):
        joined = f"{lines[-1]}, {word}" if position else f"{beginning}{word}"
        if len(joined) <= width:
            lines[-1] = joined
        elif position:
            lines[-1] += ","
            lines.append(f"{_INDENT}{word}")
        else:
            lines = [beginning.rstrip(), f"{_INDENT}{word}"]
    return lines


def _place(hit: Hit) -> list[str]:
    words = [one_line(hit.origin)]
    if hit.page is not None:
        words.append(f"page {hit.page}")
    if hit.headings:
        words.append(" > ".join(one_line(heading) for heading in hit.headings))
    if hit.start_char is not None and hit.end_char is not None:
        words.append(f"characters {hit.start_char}-{hit.end_char}")
    return words


def excerpt(text: str, width: int, max_lines: int = TEXT_LINES) -> list[str]:
    """The first lines of a text, wrapped and indented."""
    room = max(width - len(_INDENT), 20)
    beginning = "\n".join(one_line(line) for line in text.splitlines() if line.strip())[: room * (max_lines + 1)]
    wrapped = [piece for line in beginning.splitlines() for piece in textwrap.wrap(line, room - len(_MORE))]
    shown = wrapped[:max_lines]
    if len(wrapped) > max_lines:
        shown[-1] += _MORE
    return [_INDENT + line for line in shown]
