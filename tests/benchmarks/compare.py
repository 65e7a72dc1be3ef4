"""Comparison of ragstore with plain LlamaIndex stores and with the raw limit of both databases.

``python -m tests.benchmarks.compare --rows 1,6 --page results.md``
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from ragstore.cli.edge import InterruptedBySignal, leave_with, raise_interrupted, tell_error, tell_interrupted
from ragstore.cli.entry import STOP_SIGNALS
from ragstore.cli.invocation import Invocation
from ragstore.cli.output import flush, table, write, write_json
from ragstore.errors import RagstoreError
from tests.benchmarks import picture
from tests.benchmarks.figures import Results
from tests.benchmarks.report import write_page, write_results
from tests.benchmarks.rows import NUMBERS, run
from tests.benchmarks.sizes import FULL, QUICK
from tests.benchmarks.table import HEADINGS, cells, notes
from tests.benchmarks.workbench import opened_workbench

_MAX_ROUNDS = 100
_DESCRIPTION = """\
Measure ragstore, plain LlamaIndex stores and the raw limit of both databases in turn.

Works in databases of its own, ragstore_bench, on the servers of the settings, and drops them; embedded servers
where no URL is set. Figures depend on the machine: the ratios are what counts. A missed goal is no error.

--json: {"date", "machine", "rounds", "seconds", "lines": [{"row", "work", "ours", "plain", "raw", "goals",
"notes"}], "curves": [{"title", "unit", "points"}], "left_out"}."""


def main() -> int:
    """Run the comparison and return the exit status, which is that of a command of ragstore."""
    # As in ragstore's own processes, and so also in those of the plain stack.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    given = _parser().parse_args()
    invocation = Invocation(debug=given.debug, json=given.json, quiet=given.quiet)
    try:
        for signum in STOP_SIGNALS:
            signal.signal(signum, raise_interrupted)
        exit_status = 0
        try:
            compare(given, invocation)
        except RagstoreError as error:
            exit_status = tell_error(error, invocation)
        flush()
        leave_with(exit_status)
    except InterruptedBySignal as interrupted:
        exit_status = tell_interrupted(interrupted.signum)
    return exit_status


def compare(given: argparse.Namespace, invocation: Invocation) -> None:
    """Measure, print the results and write the files.

    Raises:
        RagstoreError
    """
    draws = given.picture is not None and picture.can_draw()
    with opened_workbench(
        invocation.settings(), QUICK if given.quick else FULL, given.rounds, invocation.note
    ) as bench:
        results = bench.beside.do(lambda: run(bench, given.rows, curves=given.picture is not None))
    if given.quick:
        results.left_out.append("everything of real size: with --quick the figures mean nothing")
    if given.picture is not None and not draws:
        results.left_out.append(picture.HOW_TO_GET_IT)
    if given.json:
        write_json(results.as_dict())
    else:
        for line in result_lines(results):
            write(line)
    if given.results is not None:
        write_results(results, given.results)
    if draws:
        picture.draw(results.curves, given.picture)
    if given.page is not None:
        write_page(results, given.page, picture=given.picture if draws else None)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", metavar="N,N…", type=_rows, default=set(NUMBERS), help="only these rows of the table (default: all)")
    add("--rounds", metavar="N", type=_rounds, default=5, help="how often each thing is measured (default: 5)")
    add("--quick", action="store_true", help="small sizes: shows that every row works, its figures mean nothing")
    add("--results", metavar="FILE", type=_writable, help="write here what --json prints")
    add("--picture", metavar="FILE", type=_writable, help="draw cost against corpus size here, .svg or .png")
    add("--page", metavar="FILE", type=_writable, help="write a page of results in Markdown here")
    add("--json", action="store_true", help="print one JSON document on standard output")
    add("--quiet", "-q", action="store_true", help="nothing but errors and warnings on standard error")
    add("--debug", action="store_true", help="show tracebacks and every log line")
    return parser


def _rows(text: str) -> set[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) in NUMBERS for word in words):
        last = NUMBERS[-1]
        raise argparse.ArgumentTypeError(f"{text!r} are not rows: give numbers from 1 to {last}, such as --rows 1,6")
    return {int(word) for word in words}


def _rounds(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _MAX_ROUNDS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MAX_ROUNDS}")
    return int(text)


def _writable(path: str) -> str:
    """Checked here, before minutes of work are done."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.access(folder, os.W_OK) or os.path.isdir(os.path.abspath(path)):
        raise argparse.ArgumentTypeError(f"cannot write {path}")
    return path


if __name__ == "__main__":
    sys.exit(main())
