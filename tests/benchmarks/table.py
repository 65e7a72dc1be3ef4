"""The results as rows of cells, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.figures import Line, number

HEADINGS = ("row", "work", "goal", "ours", "plain", "raw", "ratio", "")
_NONE = ""


def cells(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """One tuple of cells for each goal of each line; further goals of a line repeat nothing."""
    rows: list[tuple[str, ...]] = []
    for line in lines:
        measured = (str(line.ours), str(line.plain or _NONE), str(line.raw or _NONE))
        if not line.goals:
            rows.append((str(line.row), line.work, _NONE, *measured, _NONE, _NONE))
        for i, goal in enumerate(line.goals):
            head = (str(line.row), line.work) if i == 0 else (_NONE, _NONE)
            values = measured if i == 0 else (_NONE, _NONE, _NONE)
            rows.append((*head, goal.text, *values, number(goal.value), "met" if goal.met else "MISSED"))
    return rows


def notes(lines: Sequence[Line]) -> list[str]:
    """What must be known to read the figures right, each once."""
    said = [f"row {line.row}: {note}" for line in lines for note in line.notes]
    return list(dict.fromkeys(said))
