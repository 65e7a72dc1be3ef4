"""Rows 6 and 7: time and recall of queries to the large collection."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ragstore.model.filters import Condition
from ragstore.model.run import Vectors
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Cursor
from tests.benchmarks.datasets import Filled, embedder, has_model
from tests.benchmarks.measurements import (
    Ask,
    Goal,
    Line,
    Series,
    at_least,
    at_most,
    in_turn,
    milliseconds_of_each,
    number,
    per_second,
    percentile,
    rate_times,
    series,
    time_times,
)
from tests.benchmarks.synthetic import CLUSTERS_PER_GROUP, N_CLUSTERS, SHARES
from tests.benchmarks.workbench import Workbench
from tests.support.sql_spy import can_spy

if TYPE_CHECKING:
    from llama_index.core.vector_stores import MetadataFilters


TOP_K = 10
_THREADS = 8
_PREPARES = re.compile(r"\bPREPARE\b")
_UNTIL_PREPARED = 3
"""Times a statement is sent: as it is, then to be prepared, and from then on by its name."""
_QUESTION_WORDS = 12
_TIED = 1e-6
_CLUSTER_COLUMN = len(SHARES)
_ASKED = 7
"""Questions with a correlated filter are about this cluster."""


def queries(bench: Workbench) -> list[Line]:
    """Row 6."""
    large, stack = bench.data.large, bench.data.plain
    questions = bench.data.questions(bench.scale.questions)

    def plainly(i: int) -> object:
        return stack.find(questions[i])

    ours = partial(ask, bench, large, questions)
    sent = messages_of(bench, large, questions)
    work = f"top-{TOP_K} of {large.n_nodes:,} × 256"
    with bare(bench, sent) as by_hand:
        asked: list[Ask] = [ours, plainly, *([by_hand] if by_hand else [])]
        for each in asked:
            for i in range(len(questions)):  # the first time, which reads and plans, is not counted
                each(i)
        rounds = [milliseconds_of_each(asked, len(questions)) for _ in range(bench.rounds)]
        lines = [
            _latency(6, f"{work}, p{percent}", percent, rounds, limit) for percent, limit in ((50, 1.3), (95, 2.0))
        ]
        lines.append(_throughput(bench, f"{work}, {_THREADS} threads", asked))
    return lines


def ask(
    bench: Workbench, filled: Filled, questions: Vectors, i: int, *, condition: Condition | None = None
) -> list[str]:
    """Ids of the hits for the i-th vector."""
    hits = bench.store.query(
        "made-up",
        collection=filled.collection.name,
        top_k=TOP_K,
        mode="vector",
        embedding=questions[i].tolist(),
        filters=condition,
    )
    return [hit.node_id for hit in hits]


def _latency(row: int, work: str, percent: float, rounds: Sequence[list[list[float]]], limit: float) -> Line:
    ours, plain, *raw = (
        series("ms", [percentile(taken, percent) for taken in of_one]) for of_one in zip(*rounds, strict=True)
    )
    goals = (time_times(ours, raw[0], limit, "raw"),) if raw else ()
    note = "raw is the message that ragstore sends, executed and fetched on a bare psycopg2 connection"
    return Line(row, work, ours, plain, raw[0] if raw else None, goals, (note,) if raw else ())


def _throughput(bench: Workbench, work: str, asked: Sequence[Ask]) -> Line:
    n = bench.scale.asked_at_once

    def rate(each: Ask) -> float:
        return per_second(_THREADS, [partial(each, i % bench.scale.questions) for i in range(n)])

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
    """Sends the same messages on bare connections, one for each thread."""
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


@dataclass(frozen=True, slots=True)
class _Case:
    """Questions with one filter.

    Args:
        allowed: which nodes the filter leaves over, shape ``(n_nodes,)``.
    """

    what: str
    questions: Vectors
    allowed: NDArray[np.bool_]
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """Recall, number of hits and milliseconds of each question."""

    recalls: list[float]
    hits: list[int]
    ms: list[float]
    complete: bool


def recall(bench: Workbench) -> list[Line]:
    """Row 7, with no filter key declared."""
    lines = _asked(bench, bench.data.large, "")
    if not has_model(bench.store):
        bench.left_out.append("row 7, real text: WordLlama, which embeds it, is not installed")
        return lines
    return [*lines, _real(bench)]


def recall_declared(bench: Workbench) -> list[Line]:
    """Row 7, with the filters' keys declared; the large collection has their indexes from then on."""
    large = bench.data.large
    bench.store.create_collection(large.collection.name, filter_keys=[*SHARES, "cluster", "group"])
    return _asked(bench, large, ", key declared")


def _asked(bench: Workbench, large: Filled, how: str) -> list[Line]:
    vectors, labels, node_ids = large.vectors, large.labels, np.array(large.node_ids)
    lines, unfiltered_p95 = [], 0.0
    for case in _cases(bench, labels):
        exact = _exact(case, vectors, node_ids)
        _ask_ours(bench, large, case, exact)  # the first time, which reads and plans, is not counted
        rounds = [_ask_ours(bench, large, case, exact) for _ in range(bench.few_rounds)]
        ours = sorted(rounds, key=_p95)[len(rounds) // 2]
        p95 = _p95(ours)
        unfiltered_p95 = unfiltered_p95 or p95
        if how and case.condition is None:
            continue
        plain = None if how else _ask_plain(bench, case, exact)
        lines.append(_line(f"{case.what}{how}", case, (ours, plain), p95 / unfiltered_p95))
    return lines


def _real(bench: Workbench) -> Line:
    """Recall for questions that are taken out of real text and embedded by WordLlama."""
    collection = bench.data.real
    rows = bench.sql(
        f"SELECT node_id, text, vector_send(embedding::vector) FROM {quoted_table(collection)} ORDER BY node_id"
    )
    node_ids = np.array([node_id for node_id, _, _ in rows])
    vectors = np.stack([np.frombuffer(sent, dtype=">f4", offset=4) for _, _, sent in rows]).astype(np.float32)
    rng = np.random.default_rng(6)
    texts = [_question_in(rows[i][1]) for i in rng.integers(len(rows), size=bench.scale.questions)]
    questions = embedder(bench.store).embed_documents(texts)
    # Chunks of the same words are as near as each other: any of them will do.
    similarities = questions @ vectors.T
    recalls = []
    for text, similarity in zip(texts, similarities, strict=True):
        hits = bench.store.query(text, collection=collection.name, top_k=TOP_K, mode="vector")
        tenth = np.sort(similarity)[-TOP_K:][0]
        near = set(node_ids[similarity >= tenth - _TIED])
        recalls.append(len(near & {hit.node_id for hit in hits}) / TOP_K)
    own = series("recall", [float(np.mean(recalls))])
    work = f"unfiltered, real text, {len(rows):,} chunks"
    return Line(7, work, own, goals=(at_least("recall", own.median, 0.98),))


def _question_in(text: str) -> str:
    """Some words out of the middle."""
    words = text.split()
    begin = max(0, len(words) // 2 - _QUESTION_WORDS // 2)
    return " ".join(words[begin : begin + _QUESTION_WORDS]) or "text"


def _line(what: str, case: _Case, found: tuple[_Found, _Found | None], slower: float) -> Line:
    ours, plain = found
    limit = 0.95 if case.condition else 0.98
    recall = series("recall", [float(np.mean(ours.recalls))])
    goals = [at_least("recall", recall.median, limit)]
    if case.condition:
        goals.append(Goal("all hits", float(ours.complete), 1))
        goals.append(at_most("p95 / unfiltered", slower, 4))
    note = f"{what}: ours {_in_words(ours)}" + (f"; plain {_in_words(plain)}" if plain else "")
    others = series("recall", [float(np.mean(plain.recalls))]) if plain else None
    return Line(7, what, recall, others, None, tuple(goals), (note,))


def _p95(found: _Found) -> float:
    return percentile(found.ms, 95)


def _in_words(found: _Found) -> str:
    return f"{number(float(np.mean(found.hits)))} hits, p95 {number(_p95(found))} ms"


def _cases(bench: Workbench, labels: NDArray[np.int64]) -> list[_Case]:
    n = bench.scale.questions
    anything = bench.data.questions(n)
    cases = [_Case("unfiltered", anything, np.ones(len(labels), dtype=bool))]
    for column, (key, n_values) in enumerate(SHARES.items()):
        value = n_values // 2
        condition = Condition(key, "==", f"{key}-{value}")
        cases.append(_Case(f"filter leaves {100 / n_values:g} %", anything, labels[:, column] == value, condition))
    asked = bench.data.questions(n, cluster=_ASKED)
    clusters = labels[:, _CLUSTER_COLUMN]
    other, own = (_ASKED + N_CLUSTERS // 2) % N_CLUSTERS, _ASKED
    for what, cluster in (("the question's own cluster", own), ("another cluster", other)):
        condition = Condition("cluster", "==", f"cluster-{cluster}")
        share = f"{100 / N_CLUSTERS:g} %"
        cases.append(_Case(f"filter leaves {what}, {share}", asked, clusters == cluster, condition))
    group = other // CLUSTERS_PER_GROUP
    condition = Condition("group", "==", f"group-{group}")
    share = f"{100 * CLUSTERS_PER_GROUP / N_CLUSTERS:g} %"
    allowed = clusters // CLUSTERS_PER_GROUP == group
    cases.append(_Case(f"filter leaves {CLUSTERS_PER_GROUP} other clusters, {share}", asked, allowed, condition))
    return cases


def _exact(case: _Case, vectors: Vectors, node_ids: NDArray[np.str_]) -> list[set[str]]:
    """The ten nearest allowed nodes of each question."""
    allowed_ids, allowed = node_ids[case.allowed], vectors[case.allowed]
    k = min(TOP_K, len(allowed_ids))
    if not k:
        return [set() for _ in case.questions]
    nearest = np.argpartition(case.questions @ allowed.T, -k, axis=1)[:, -k:]
    return [set(allowed_ids[found]) for found in nearest]


def _ask_ours(bench: Workbench, large: Filled, case: _Case, exact: Sequence[set[str]]) -> _Found:
    asking = partial(ask, bench, large, case.questions, condition=case.condition)
    return _found([_timed(asking, i) for i in range(len(case.questions))], exact)


def _ask_plain(bench: Workbench, case: _Case, exact: Sequence[set[str]]) -> _Found:
    stack, filters = bench.data.plain, _llama_filters(case.condition)

    def asking(i: int) -> list[str]:
        return stack.find(case.questions[i], TOP_K, filters)

    return _found([_timed(asking, i) for i in range(len(case.questions))], exact)


def _timed(asking: Callable[[int], list[str]], i: int) -> tuple[list[str], float]:
    begun = time.perf_counter()
    ids = asking(i)
    return ids, (time.perf_counter() - begun) * 1_000


def _found(answers: Sequence[tuple[list[str], float]], exact: Sequence[set[str]]) -> _Found:
    recalls = [len(wanted & set(ids)) / len(wanted) for (ids, _), wanted in zip(answers, exact, strict=True) if wanted]
    hits = [len(ids) for ids, _ in answers]
    complete = all(n == len(wanted) for n, wanted in zip(hits, exact, strict=True))
    return _Found(recalls, hits, [ms for _, ms in answers], complete)


def _llama_filters(condition: Condition | None) -> MetadataFilters | None:
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

    if condition is None:
        return None
    return MetadataFilters(filters=[MetadataFilter(key=condition.key, value=str(condition.value))])
