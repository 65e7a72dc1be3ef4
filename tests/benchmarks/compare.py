"""Comparison of ragstore with plain LlamaIndex stores and with the raw limit of both databases, by rows of goals.

``python -m tests.benchmarks.compare --rows 1,6 --page results.md``
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import psutil

import ragstore
from ragstore.cli import STOP_SIGNALS
from ragstore.cli.exit_status import InterruptedBySignal, leave_with, raise_interrupted, tell_error, tell_interrupted
from ragstore.cli.invocation import Invocation
from ragstore.cli.output import flush, write, write_json
from ragstore.errors import ModelMissingError, RagstoreError
from tests.benchmarks import ingest, processes, report, search, storage
from tests.benchmarks.datasets import Filled, has_model, publish
from tests.benchmarks.measurements import Curve, Line, Results, seconds
from tests.benchmarks.plain import llama_nodes
from tests.benchmarks.scale import FULL, QUICK
from tests.benchmarks.workbench import Workbench, opened_workbench

_N_STORED = 1_000
_N_ASKED = 100
_MAX_ROUNDS = 100
_DESCRIPTION = """\
Measure ragstore, plain LlamaIndex stores and the raw limit of both databases in turn.

Works in databases of its own, ragstore_bench, on the servers of the settings, and drops them; embedded servers
where no URL is set. Figures depend on the machine: the ratios are what counts. A missed goal is no error.

--json: {"date", "machine", "rounds", "seconds", "lines": [{"row", "work", "ours", "plain", "raw", "goals",
"notes"}], "curves": [{"title", "unit", "points"}], "left_out"}."""

Points = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table of goals."""

    number: int
    work: str
    measure: Callable[[Workbench], list[Line]]


# In the order in which they run: rows that change the large collection come after those that query it.
ROWS = (
    Row(1, "storage path into an empty collection", storage.into_empty),
    Row(3, "whole pipeline on real files", ingest.pipeline),
    Row(4, "unchanged re-run", ingest.unchanged),
    Row(5, "small changes", ingest.edits),
    Row(9, "deletion of a long document", storage.deletion),
    Row(6, "queries", search.queries),
    Row(7, "recall, with filters", search.recall),
    Row(2, "storage path into a large collection", storage.into_large),
    Row(7, "recall, with filters on declared keys", search.recall_declared),
    Row(10, "verify, and peak memory", processes.audit),
    Row(8, "process start to first answer", processes.start),
)
NUMBERS = tuple(sorted({row.number for row in ROWS}))


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
    draws = given.picture is not None and report.can_draw()
    with opened_workbench(
        invocation.settings(), QUICK if given.quick else FULL, given.rounds, invocation.note
    ) as bench:
        results = bench.thread.run(lambda: run(bench, given.rows, curves=given.picture is not None))
    if given.quick:
        results.left_out.append("everything of real size: with --quick the figures mean nothing")
    if given.picture is not None and not draws:
        results.left_out.append(report.HOW_TO_GET_IT)
    if given.json:
        write_json(results.as_dict())
    else:
        for line in report.result_lines(results):
            write(line)
    if given.results is not None:
        report.write_results(results, given.results)
    if draws:
        report.draw(results.curves, given.picture)
    if given.page is not None:
        report.write_page(results, given.page, picture=given.picture if draws else None)


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


def run(bench: Workbench, wanted: Collection[int], *, curves: bool) -> Results:
    """Measure these rows.

    Args:
        curves: measure the picture's curves too.
    """
    begun = time.monotonic()
    lines: list[Line] = []
    if len(wanted) < len(NUMBERS):
        others = ", ".join(str(number) for number in NUMBERS if number not in wanted)
        bench.left_out.append(f"rows {others}: not asked for")
    facts = machine(bench)
    drawn = measured_curves(bench) if curves else []
    for row in ROWS:
        if row.number not in wanted:
            continue
        bench.say(f"row {row.number}: {row.work}")
        try:
            lines += row.measure(bench)
        except ModelMissingError as error:
            bench.left_out.append(f"row {row.number}: {error.message}")
    return Results(
        date=datetime.now(UTC).date().isoformat(),
        machine=facts,
        rounds=bench.rounds,
        seconds=time.monotonic() - begun,
        lines=sorted(lines, key=lambda line: line.row),
        curves=drawn,
        left_out=list(dict.fromkeys(bench.left_out)),
    )


def machine(bench: Workbench) -> dict[str, str]:
    """Versions of the software and size of the machine, without a name that would identify it."""
    ((postgres, pgvector),) = bench.sql(
        "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
    )
    return {
        "ragstore": ragstore.__version__,
        "Python": platform.python_version(),
        "PostgreSQL": str(postgres).split()[0],
        "pgvector": str(pgvector),
        "mongod": str(bench.client.server_info()["version"]),
        "CPUs": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def measured_curves(bench: Workbench) -> list[Curve]:
    """Costs of storing, of a query and of a start, measured while the large collection grows."""
    stored: Points = {"ragstore": [], "plain": []}
    asked: Points = {"ragstore": [], "plain": []}
    started: Points = {"ragstore": [], "plain": []}
    for size in bench.scale.grown:
        large = bench.data.large_of(size)
        bench.say(f"costs at {large.n_nodes:,} nodes")
        _point(
            asked,
            large.n_nodes,
            _median_ms(bench, partial(search.ask, bench, large)),
            _median_ms(bench, _plainly(bench)),
        )
        if has_model(bench.store):
            own = [processes.of_query(bench, large) for _ in range(bench.few_rounds)]
            _point(started, large.n_nodes, statistics.median(own), processes.of_plain_script(bench))
        _point(stored, large.n_nodes, _store(bench, large), _store_plainly(bench, large))
    curves = [
        Curve(f"storing {_N_STORED:,} nodes", "s", stored),
        Curve("query, top-10, p50", "ms", asked),
        Curve("process start to first answer", "s", started),
    ]
    return [curve for curve in curves if curve.points["ragstore"]]


def _point(points: Points, n_nodes: int, own: float, plain: float) -> None:
    points["ragstore"].append((n_nodes, own))
    points["plain"].append((n_nodes, plain))


def _median_ms(bench: Workbench, asking: Callable[..., object]) -> float:
    questions = bench.data.questions(_N_ASKED)
    taken: list[float] = []
    for _ in range(2):  # what is read for the first time is not counted
        taken.clear()
        for i in range(len(questions)):
            begun = time.perf_counter()
            asking(questions, i)
            taken.append((time.perf_counter() - begun) * 1_000)
    return statistics.median(taken)


def _plainly(bench: Workbench) -> Callable[..., object]:
    stack = bench.data.plain
    return lambda questions, i: stack.find(questions[i])


def _store(bench: Workbench, large: Filled) -> float:
    """Seconds; the nodes are deleted again, so that the collection keeps its size."""
    taken = []
    for _ in range(bench.few_rounds):
        revisions = large.corpus.revisions(_N_STORED)
        taken.append(seconds(partial(publish, bench.store, large.collection, revisions)))
        bench.store.delete(*(r.document_id for r in revisions), collection=large.collection.name)
        large.corpus.forget_last()
    return statistics.median(taken)


def _store_plainly(bench: Workbench, large: Filled) -> float:
    """Seconds that PGVectorStore alone takes; the nodes are deleted again."""
    stack = bench.data.plain
    nodes = llama_nodes(large.corpus.revisions(_N_STORED))
    large.corpus.forget_last()
    taken = seconds(lambda: stack.vectors.add(nodes))
    stack.forget([node.node_id for node in nodes])
    return taken


if __name__ == "__main__":
    sys.exit(main())
