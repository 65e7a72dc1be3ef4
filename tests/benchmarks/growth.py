"""The picture's curves: what storing, asking and starting cost as the corpus grows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks import cold_start
from tests.benchmarks.figures import Curve
from tests.benchmarks.plain import llama_nodes
from tests.benchmarks.publishing import publish
from tests.benchmarks.queries import ask
from tests.benchmarks.shared import Filled
from tests.benchmarks.timing import seconds
from tests.benchmarks.word_llama import has_model

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

_N_STORED = 1_000
_N_ASKED = 100

Points = dict[str, list[tuple[int, float]]]


def measure(bench: Workbench) -> list[Curve]:
    """Fill the large collection step by step, and measure at each size."""
    stored: Points = {"ragstore": [], "plain": []}
    asked: Points = {"ragstore": [], "plain": []}
    started: Points = {"ragstore": [], "plain": []}
    for size in bench.sizes.grown:
        large = bench.shared.large_of(size)
        bench.say(f"costs at {large.n_nodes:,} nodes")
        _point(asked, large.n_nodes, _median_ms(bench, partial(ask, bench, large)), _median_ms(bench, _plainly(bench)))
        if has_model(bench.store):
            own = [cold_start.of_query(bench, large) for _ in range(bench.few_rounds)]
            _point(started, large.n_nodes, statistics.median(own), cold_start.of_plain_script(bench))
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
    questions = bench.shared.questions(_N_ASKED)
    taken: list[float] = []
    for _ in range(2):  # what is read for the first time is not counted
        taken.clear()
        for i in range(len(questions)):
            begun = time.perf_counter()
            asking(questions, i)
            taken.append((time.perf_counter() - begun) * 1_000)
    return statistics.median(taken)


def _plainly(bench: Workbench) -> Callable[..., object]:
    stack = bench.shared.plain
    return lambda questions, i: stack.find(questions[i])


def _store(bench: Workbench, large: Filled) -> float:
    """Seconds; the nodes go again, so that every size is what it says."""
    taken = []
    for _ in range(bench.few_rounds):
        revisions = large.corpus.revisions(_N_STORED)
        taken.append(seconds(partial(publish, bench.store, large.collection, revisions)))
        bench.store.delete(*(r.document_id for r in revisions), collection=large.collection.name)
        large.corpus.forget_last()
    return statistics.median(taken)


def _store_plainly(bench: Workbench, large: Filled) -> float:
    """Seconds, of the vector store alone."""
    stack = bench.shared.plain
    nodes = llama_nodes(large.corpus.revisions(_N_STORED))
    large.corpus.forget_last()
    taken = seconds(lambda: stack.vectors.add(nodes))
    stack.forget([node.node_id for node in nodes])
    return taken
