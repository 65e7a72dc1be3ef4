"""Row 6: a question to the large collection, against the same SQL on a bare connection and against PGVectorStore."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ragstore.model.run import Vectors
from ragstore.postgres.pool import Cursor
from tests.benchmarks.figures import Line, Series, rate_times, series, time_times
from tests.benchmarks.shared import Filled
from tests.benchmarks.timing import in_turn, per_second, percentile
from tests.support.sql_spy import can_spy

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

TOP_K = 10
_THREADS = 8
_PREPARES = re.compile(r"\bPREPARE\b")
_UNTIL_PREPARED = 3
"""A statement is sent as it is, prepared when it comes again, and from then on executed by its name."""

Ask = Callable[[int], object]
"""Asks the n-th question."""


def measure(bench: Workbench) -> list[Line]:
    """Row 6."""
    large, stack = bench.shared.large, bench.shared.plain
    questions = bench.shared.questions(bench.sizes.questions)

    def plainly(i: int) -> object:
        return stack.find(questions[i])

    ours = partial(ask, bench, large, questions)
    sent = messages_of(bench, large, questions)
    work = f"top-{TOP_K} of {large.n_nodes:,} × 256"
    with bare(bench, sent) as by_hand:
        asked: list[Ask] = [ours, plainly, *([by_hand] if by_hand else [])]
        for each in asked:
            for i in range(len(questions)):  # what is read and planned for the first time is not counted
                each(i)
        rounds = [_round(asked, len(questions)) for _ in range(bench.rounds)]
        lines = [
            _latency(6, f"{work}, p{percent}", percent, rounds, limit) for percent, limit in ((50, 1.3), (95, 2.0))
        ]
        lines.append(_throughput(bench, f"{work}, {_THREADS} threads", asked))
    return lines


def ask(bench: Workbench, filled: Filled, questions: Vectors, i: int) -> list[str]:
    """Ids of the hits for the i-th vector."""
    hits = bench.store.query(
        "made-up", collection=filled.collection.name, top_k=TOP_K, mode="vector", embedding=questions[i].tolist()
    )
    return [hit.node_id for hit in hits]


def _round(asked: Sequence[Ask], n_questions: int) -> list[list[float]]:
    """Milliseconds of each question to each, in every order: who comes later finds what it needs in caches."""
    taken: list[list[float]] = [[] for _ in asked]
    orders = itertools.cycle(itertools.permutations(range(len(asked))))
    for i in range(n_questions):
        for j in next(orders):
            begun = time.perf_counter()
            asked[j](i)
            taken[j].append((time.perf_counter() - begun) * 1_000)
    return taken


def _latency(row: int, work: str, percent: float, rounds: Sequence[list[list[float]]], limit: float) -> Line:
    ours, plain, *raw = (
        series("ms", [percentile(taken, percent) for taken in of_one]) for of_one in zip(*rounds, strict=True)
    )
    goals = (time_times(ours, raw[0], limit, "raw"),) if raw else ()
    note = "raw is the message that ragstore sends, executed and fetched on a bare psycopg2 connection"
    return Line(row, work, ours, plain, raw[0] if raw else None, goals, (note,) if raw else ())


def _throughput(bench: Workbench, work: str, asked: Sequence[Ask]) -> Line:
    n = bench.sizes.asked_at_once

    def rate(each: Ask) -> float:
        return per_second(_THREADS, [partial(each, i % bench.sizes.questions) for i in range(n)])

    own, plain, *raw = (
        series("queries/s", values) for values in in_turn(bench.few_rounds, *(partial(rate, each) for each in asked))
    )
    by_hand: Series | None = raw[0] if raw else None
    return Line(6, work, own, plain, by_hand, (rate_times(own, plain, 1.5, "plain"),))


@dataclass(frozen=True, slots=True)
class Messages:
    """What ragstore sends to PostgreSQL for some questions.

    Args:
        preparing: messages that prepare statements, to be sent on each connection first.
        asking: the message that brought the hits, for each question.
    """

    preparing: list[str]
    asking: list[str]


def messages_of(bench: Workbench, filled: Filled, questions: Vectors) -> Messages | None:
    """The messages for these questions once all statements are prepared; None where they cannot be recorded."""
    if not can_spy(bench.postgres_url):
        bench.left_out.append("row 6, raw: PostgreSQL is not reached by TCP at one address")
        return None
    preparing: list[str] = []
    with bench.spied() as (spy, store):
        for _ in range(_UNTIL_PREPARED):
            asking = []
            for i in range(len(questions)):
                spy.taken()
                ask(replace(bench, store=store), filled, questions, i)
                sent = spy.taken()
                preparing += [message for message in sent if _PREPARES.search(message)]
                asking.append(sent[-1])
    return Messages(preparing, asking)


@contextmanager
def bare(bench: Workbench, sent: Messages | None) -> Iterator[Ask | None]:
    """Asks by the same messages, on as many bare connections as there are threads."""
    if sent is None:
        yield None
        return
    with ExitStack() as closing:
        free: SimpleQueue[Cursor] = SimpleQueue()
        for _ in range(_THREADS):
            cursor = closing.enter_context(closing.enter_context(bench.connection()).cursor())
            for message in sent.preparing:
                cursor.execute(message)
            free.put(cursor)

        def by_hand(i: int) -> object:
            cursor = free.get()
            try:
                cursor.execute(sent.asking[i])
                return cursor.fetchall()
            finally:
                free.put(cursor)

        yield by_hand
