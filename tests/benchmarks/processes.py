"""Rows 8 and 10: start, peak memory and speed of ragstore's own processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from ragstore.errors import StoreError
from ragstore.postgres.names import quoted_table
from ragstore.settings import masked_url
from tests.benchmarks.corpora import write_pieces
from tests.benchmarks.datasets import Filled, embedder
from tests.benchmarks.measurements import Goal, Line, at_least, in_turn, series, time_times
from tests.benchmarks.plain import llama_nodes
from tests.benchmarks.synthetic import VOCABULARY, Clusters, Corpus
from tests.benchmarks.workbench import Workbench

_PROGRAMS = (sys.executable, "-P", str(Path(__file__).parent / "programs.py"))
_MOST_GROWTH = 1.2
_TIMEOUT_S = 300
_DIM = 256
_MORE_ROUNDS = 2
"""Factor of the rounds of row 8: a start takes half a second, and its goal is a tenth of that."""


def start(bench: Workbench) -> list[Line]:
    """Row 8.

    Raises:
        ModelMissingError: nothing embeds the question.
    """
    embedder(bench.store)
    small, huge = bench.data.small, bench.data.large_of(bench.scale.huge)
    asked = [
        partial(of_query, bench, small),
        partial(of_query, bench, huge),
        partial(of_bare_script, bench, small),
    ]
    plainly = partial(of_plain_script, bench)
    for each in asked:
        each()  # programs and pages are read into memory
    few, many, bare = (series("s", values) for values in in_turn(bench.rounds * _MORE_ROUNDS, *asked))
    (taken,) = in_turn(bench.few_rounds, plainly)
    plain = series("s", taken)
    away = abs(many.median / few.median - 1)
    same = Goal(f"within 10 % of {small.n_nodes:,} nodes", away, 0.10, at_least=False)
    note = f"raw is a script of psycopg2 and WordLlama that asks the collection of {small.n_nodes:,} nodes by vector"
    question = "ragstore query embeds its question with the tokens' vectors alone and asks by vector and by words"
    return [
        Line(
            8, f"start to first answer, {small.n_nodes:,} nodes", few, plain, bare, (time_times(few, bare, 2, "raw"),)
        ),
        Line(8, f"start to first answer, {huge.n_nodes:,} nodes", many, plain, bare, (same,), (note, question)),
    ]


def of_query(bench: Workbench, filled: Filled) -> float:
    """``ragstore query``."""
    command = [sys.executable, "-m", "ragstore", "query", VOCABULARY.question, "-c", filled.collection.name, "--json"]
    taken, printed = _run(bench, command)
    if len(json.loads(printed)["hits"]) != 10:
        raise StoreError(f"a query of collection {filled.collection.name!r} had no 10 hits")
    return taken


def of_bare_script(bench: Workbench, filled: Filled) -> float:
    """psycopg2 and WordLlama."""
    return _run(bench, [*_PROGRAMS, "bare_query", quoted_table(filled.collection), VOCABULARY.question])[0]


def of_plain_script(bench: Workbench) -> float:
    """LlamaIndex and PGVectorStore."""
    return _run(bench, [*_PROGRAMS, "plain_query", bench.data.some_plain.name, VOCABULARY.question])[0]


def _run(bench: Workbench, command: list[str]) -> tuple[float, str]:
    begun = time.perf_counter()
    done = subprocess.run(
        command, env=bench.environment, cwd=bench.folder, capture_output=True, text=True, check=False, timeout=120
    )
    taken = time.perf_counter() - begun
    if done.returncode:
        said = masked_url(done.stderr[-500:])
        raise StoreError(f"a process that was to answer a question ended with {done.returncode}: {said}")
    return taken, done.stdout


def audit(bench: Workbench) -> list[Line]:
    """Row 10."""
    bench.left_out.append("row 10, memory of a backup: that is pg_dump's and mongodump's")
    return [_speed(bench), _ingest(bench), _verify(bench), _import(bench)]


def _speed(bench: Workbench) -> Line:
    large, rates = bench.data.large, []
    for _ in range(bench.rounds):
        report = bench.store.verify(large.collection.name)
        if not report.ok:
            raise StoreError(f"verify found drift: {report.drift.as_dict()}")
        rates.append(report.nodes / report.seconds)
    own = series("nodes/s", rates)
    goal = at_least("nodes/s", own.median, 100_000)
    return Line(10, f"verify of {large.n_nodes:,} nodes", own, goals=(goal,))


def _ingest(bench: Workbench) -> Line:
    peaks, sizes = [], bench.scale.memory_files
    for n in sizes:
        folder = bench.path(f"memory-{n}")
        write_pieces(folder, n)
        peaks.append(_peak(bench, "ingest", folder, "-c", f"memory-{n}", "--quiet"))
    return _line("ingest", f"{sizes[0]:,} and {sizes[1]:,} files", peaks)


def _verify(bench: Workbench) -> Line:
    small, large = bench.data.middle, bench.data.large
    peaks = [_peak(bench, "verify", "-c", filled.collection.name, "--quiet") for filled in (small, large)]
    return _line("verify", f"{small.n_nodes:,} and {large.n_nodes:,} nodes", peaks)


def _import(bench: Workbench) -> Line:
    peaks, sizes = [], bench.scale.memory_nodes
    for n in sizes:
        folder = bench.path(f"persisted-{n}")
        _persist(folder, n)
        peaks.append(_peak(bench, "import", folder, "-c", f"imported-{n}", "--quiet"))
    return _line("import", f"{sizes[0]:,} and {sizes[1]:,} nodes", peaks)


def _line(verb: str, sizes: str, peaks: list[float]) -> Line:
    few, many = peaks
    goal = Goal(f"≤ {_MOST_GROWTH:g} × at the smaller size", many / few, _MOST_GROWTH, at_least=False)
    note = f"{verb}: {few:.0f} and {many:.0f} MB at {sizes}; the largest of its processes"
    return Line(10, f"peak memory of {verb}", series("MB", [many]), goals=(goal,), notes=(note,))


def _persist(folder: str, n_nodes: int) -> None:
    """As plain LlamaIndex leaves it."""
    from llama_index.core import MockEmbedding, VectorStoreIndex

    nodes = llama_nodes(Corpus("persisted", Clusters(_DIM)).revisions(n_nodes))
    index = VectorStoreIndex(nodes=nodes, embed_model=MockEmbedding(embed_dim=_DIM))
    index.storage_context.persist(folder)


def _peak(bench: Workbench, *arguments: str) -> float:
    """MB that ``ragstore`` with these arguments took at most."""
    command = [*_PROGRAMS, "peak_memory", sys.executable, "-m", "ragstore", *arguments]
    process = subprocess.Popen(
        command,
        env=bench.environment,
        cwd=bench.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, said = process.communicate(timeout=_TIMEOUT_S)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    found = json.loads(printed or '{"status": 1}')
    if found["status"]:
        raise StoreError(f"ragstore {arguments[0]} ended with {found['status']}: {masked_url(said[-500:])}")
    return float(found["bytes"]) / 1e6
