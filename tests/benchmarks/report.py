"""Results as a table, a page of Markdown, a JSON file and a picture."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragstore.cli.output import table
from tests.benchmarks.measurements import Curve, Line, Results, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADINGS = ("row", "work", "goal", "ours", "plain", "raw", "ratio", "")
_NONE = ""
HOW_TO_GET_IT = "the picture is left out: matplotlib is not installed; get it with: make setup"
_COLOURS = {"ragstore": "#1f6feb", "plain": "#d1242f", "raw": "#6e7781"}

_INTRODUCTION = """\
ours is ragstore with all guarantees on; plain is LlamaIndex with PGVectorStore, MongoDocumentStore and MongoIndexStore;
raw is what one can do by hand without any guarantee. All three ran in turn, in one run, on the same servers: the ratio
is what counts, not the figure. Medians of {rounds} rounds, ± half of the distance between the smallest and the largest
value."""


def cells(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """One tuple of cells for each goal of each line; only the first goal of a line has the measured values."""
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
    """Notes of all lines, each once."""
    said = [f"row {line.row}: {note}" for line in lines for note in line.notes]
    return list(dict.fromkeys(said))


def result_lines(results: Results) -> list[str]:
    """The table and its notes, for a terminal."""
    lines = table(HEADINGS, cells(results.lines))
    lines += ["", *(f"note: {note}" for note in notes(results.lines))]
    lines += [f"left out: {what}" for what in results.left_out]
    kept = results.goals - results.missed
    return [
        *lines,
        "",
        f"{kept} of {results.goals} goals met, medians of {results.rounds} rounds, {results.seconds:.0f} s",
    ]


def page(results: Results, *, picture: str | None, directory: str = ".") -> str:
    """The page.

    Args:
        picture: path of the picture, None where there is none.
        directory: where the page will stand, to link the picture from.
    """
    kept = results.goals - results.missed
    parts = [
        "# Results of `make bench`",
        _INTRODUCTION.format(rounds=results.rounds),
        _list({"date": results.date, **results.machine, "duration": f"{results.seconds / 60:.1f} minutes"}),
        f"{kept} of {results.goals} goals met.",
        _table(results),
    ]
    if picture is not None:
        parts.append(f"![cost against corpus size]({os.path.relpath(picture, directory)})")
    for title, texts in (("Notes", notes(results.lines)), ("Left out", results.left_out)):
        if texts:
            parts.append(f"## {title}")
            parts.append("\n".join(f"- {text}" for text in texts))
    return "\n\n".join(parts) + "\n"


def _list(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _table(results: Results) -> str:
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *cells(results.lines)]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows)


def _escaped(cell: str) -> str:
    return f"**{cell}**" if cell == "MISSED" else cell.replace("|", "\\|")


def write_results(results: Results, path: str) -> None:
    """All values, for programs."""
    _write(path, json.dumps(results.as_dict(), indent=2, ensure_ascii=False) + "\n")


def write_page(results: Results, path: str, *, picture: str | None) -> None:
    """The page for people, the picture linked from where it stands."""
    _write(path, page(results, picture=picture, directory=os.path.dirname(os.path.abspath(path))))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(curves: Sequence[Curve], path: str) -> None:
    """Write a picture, one panel for each curve; the name's ending says which format."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "ragstore", "svg.fonttype": "none"}  # the same results, the same small file
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.4), squeeze=False)
    for axes, curve in zip(panels[0], curves, strict=True):
        _panel(axes, curve)
    figure.tight_layout()
    is_svg = os.path.splitext(path)[1].lower() == ".svg"
    figure.savefig(path, dpi=150, metadata={"Date": None} if is_svg else None)
    plt.close(figure)


def _panel(axes: Axes, curve: Curve) -> None:
    for who, points in curve.points.items():
        sizes, values = [n for n, _ in points], [value for _, value in points]
        axes.plot(sizes, values, marker="o", label=who, color=_COLOURS.get(who))
        axes.annotate(
            number(values[-1]), (sizes[-1], values[-1]), textcoords="offset points", xytext=(0, 6), fontsize=8
        )
    ticks = sorted({n for points in curve.points.values() for n, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=7)
    axes.minorticks_off()
    axes.set_ylim(0, 1.2 * max(value for points in curve.points.values() for _, value in points))
    axes.set_title(f"{curve.title}, {curve.unit}", fontsize=10)
    axes.set_xlabel("nodes in the collection", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
