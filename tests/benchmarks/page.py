"""The results as a page of Markdown that can be committed."""

from __future__ import annotations

import os

from tests.benchmarks.figures import Results
from tests.benchmarks.table import HEADINGS, cells, notes

_INTRODUCTION = """\
ours is ragstore with all guarantees on; plain is LlamaIndex with PGVectorStore, MongoDocumentStore and MongoIndexStore;
raw is what one can do by hand without any guarantee. All three ran in turn, in one run, on the same servers: the ratio
is what counts, not the figure. Medians of {rounds} rounds, ± half of the distance between the smallest and the largest
value."""


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
