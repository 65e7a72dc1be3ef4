"""``ragstore bench``: the goals, measured on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.invocation import invocation_of
from ragstore.cli.options import JsonOption, QuietOption
from ragstore.cli.output import table, write, write_json

if TYPE_CHECKING:
    from ragstore.bench.figures import Results

_FILE = "FILE"
_N_ROWS = 10


def bench(  # noqa: PLR0913, PLR0917 - one argument for each option of the command line
    ctx: typer.Context,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="N,N…", help="Only these rows of the table; all where none is named."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100, help="How often each thing is measured.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes: shows that every row works, its figures mean nothing.")
    ] = False,
    results_file: Annotated[
        str | None, typer.Option("--results", metavar=_FILE, help="Write here what --json prints.")
    ] = None,
    picture_file: Annotated[
        str | None, typer.Option("--picture", metavar=_FILE, help="Draw cost against corpus size here, .svg or .png.")
    ] = None,
    page_file: Annotated[
        str | None, typer.Option("--page", metavar=_FILE, help="Write a page of results in Markdown here.")
    ] = None,
    as_json: JsonOption = False,
    _quiet: QuietOption = False,
) -> None:
    """Measure ragstore, plain LlamaIndex stores and the raw limit of both databases in turn.

    Works in databases of its own, ragstore_bench, on the servers of the settings, and drops them; embedded servers
    where no URL is set. Figures depend on the machine: the ratios are what counts. A missed goal is no error.

    --json: {"date", "machine", "rounds", "seconds", "lines": [{"row", "work", "ours", "plain", "raw", "goals",
    "notes"}], "curves": [{"title", "unit", "points"}], "left_out"}.
    """
    invocation = invocation_of(ctx)
    wanted = _numbers(rows)
    for path in (results_file, picture_file, page_file):
        _refuse_unwritable(path)
    from ragstore.bench import picture
    from ragstore.bench.report import write_page, write_results
    from ragstore.bench.rows import run
    from ragstore.bench.sizes import FULL, QUICK
    from ragstore.bench.workbench import opened_workbench

    draws = picture_file is not None and picture.can_draw()
    settings = invocation.settings()
    with opened_workbench(settings, QUICK if quick else FULL, rounds, invocation.note) as opened:
        results = opened.beside.do(lambda: run(opened, wanted, curves=picture_file is not None))
        if quick:
            results.left_out.append("everything of real size: with --quick the figures mean nothing")
        if picture_file is not None and not draws:
            results.left_out.append(picture.HOW_TO_GET_IT)
    if as_json:
        write_json(results.as_dict())
    else:
        for line in result_lines(results):
            write(line)
    if results_file is not None:
        write_results(results, results_file)
    if picture_file is not None and draws:
        picture.draw(results.curves, picture_file)
    if page_file is not None:
        write_page(results, page_file, picture=picture_file if draws else None)


def result_lines(results: Results) -> list[str]:
    """The table, and what must be known to read it, for people."""
    from ragstore.bench.table import HEADINGS, cells, notes

    lines = table(HEADINGS, cells(results.lines))
    lines += ["", *(f"note: {note}" for note in notes(results.lines))]
    lines += [f"left out: {what}" for what in results.left_out]
    kept = results.goals - results.missed
    return [
        *lines,
        "",
        f"{kept} of {results.goals} goals met, medians of {results.rounds} rounds, {results.seconds:.0f} s",
    ]


def _numbers(rows: str | None) -> set[int]:
    every = set(range(1, _N_ROWS + 1))
    if rows is None:
        return every
    words = [word.strip() for word in rows.split(",")]
    if not all(word.isdecimal() and int(word) in every for word in words):
        raise typer.BadParameter(f"{rows!r} are not rows: say numbers from 1 to {_N_ROWS}, such as --rows 1,6")
    return {int(word) for word in words}


def _refuse_unwritable(path: str | None) -> None:
    """Before minutes of work, not after them."""
    folder = os.path.dirname(os.path.abspath(path)) if path else "."
    if not os.access(folder, os.W_OK) or (path and os.path.isdir(path)):
        raise typer.BadParameter(f"cannot write {path}")
