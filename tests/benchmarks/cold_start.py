"""Row 8: seconds from the start of a process to its first answer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ragstore.errors import StoreError
from ragstore.postgres.names import quoted_table
from ragstore.settings import masked_url
from tests.benchmarks.figures import Goal, Line, series, time_times
from tests.benchmarks.made_up import VOCABULARY
from tests.benchmarks.timing import in_turn
from tests.benchmarks.word_llama import embedder

if TYPE_CHECKING:
    from tests.benchmarks.shared import Filled
    from tests.benchmarks.workbench import Workbench

_HERE = Path(__file__).parent
_MORE_ROUNDS = 2
"""Half a second each, and the goal is within a tenth: measured so many times as often."""


def measure(bench: Workbench) -> list[Line]:
    """Row 8.

    Raises:
        ModelMissingError: nothing embeds the question.
    """
    embedder(bench.store)
    small, huge = bench.shared.small, bench.shared.large_of(bench.sizes.huge)
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
    table = quoted_table(filled.collection)
    script = str(_HERE / "bare_query.py")
    return _run(bench, [sys.executable, "-P", script, table, VOCABULARY.question])[0]


def of_plain_script(bench: Workbench) -> float:
    """LlamaIndex and PGVectorStore."""
    script = str(_HERE / "plain_query.py")
    return _run(bench, [sys.executable, "-P", script, bench.shared.some_plain.name, VOCABULARY.question])[0]


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
