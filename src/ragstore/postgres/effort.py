"""Measurement of how far a search must look into a collection's segments to find what an exact one finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ragstore.errors import CollectionNotFoundError, MissingTableError
from ragstore.model.collection import LOW_RECALL, Collection, Effort, Found, FoundInSegment, Segment, default_effort
from ragstore.postgres.cells import Halves
from ragstore.postgres.collections import find_collection
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Connection, PostgresPool
from ragstore.postgres.search import Query, Row, vector_search
from ragstore.postgres.segment_tables import table_of, visit_live_vectors
from ragstore.postgres.vectors import decoded_vector

TARGET, TARGET_OF_KIND = 0.985, LOW_RECALL
"""Share of the 10 nearest nodes that a search must find, on average over the sampled questions, and over each kind."""

N_ASKED = 32
"""Questions of a collection that are kept."""

_K = 10
STEPS = (500, 1_000, 2_000, 4_000, 6_000, 8_000, 12_000, 16_000, 24_000, 32_000, 48_000, 64_000)
"""Efforts that are tried."""

_SIZES, _SIZES_GROWING = (30, 200, 32), (8, 16, 8)
"""Questions of each kind, nodes that must find themselves, asked questions: at rest, and while a collection grows."""

FIRST_GROWING, GROWN = 100_000, 2.0
"""Nodes of a growing collection at its first measurement, and the growth factor until the next one."""
_NOISE = 0.05
_CHANGED_SHARE = 0.2
_TRIES = 3
_MEASURED_AGAIN_AFTER_S = 86_400.0
_SAME = 5e-4
"""Largest difference between cosines of the same vectors in float32 and in float16, which rounds to 11 bits."""

_SET = "UPDATE ragstore.collection SET effort = %(effort)s WHERE collection_id = %(collection_id)s"
_ASKED = "SELECT vector_send(embedding::vector) FROM ragstore.asked WHERE collection_id = %s ORDER BY slot"

_N_ASKED = "SELECT count(*) FROM ragstore.asked WHERE collection_id = %s"

_KEEP_ASKED = """
INSERT INTO ragstore.asked (collection_id, slot, embedding)
SELECT %(collection_id)s, slot - 1, embedding::vector
FROM unnest(%(embeddings)s::text[]) WITH ORDINALITY AS asked (embedding, slot)
ON CONFLICT (collection_id, slot) DO UPDATE SET embedding = excluded.embedding
"""

_IN_NO_CELL = "n = 0 AND cell < (SELECT min(id) FROM {table} WHERE n > 0 AND cell > 0)"

ANYWHERE, ASKED = 3, 4
_IDS = "SELECT node_id, id FROM {table} WHERE node_id = ANY (%s)"

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sample:
    """Sampled questions and the results of an exact search.

    Args:
        questions: shape ``(n_questions, dim)``, of length 1.
        kinds: a number for each question, the same for those that were made in the same way. ``ANYWHERE``: in any
            direction, which is as hard as questions of two words; ``ASKED``: the last that were asked.
        tenth: cosine of the last of the nearest of each, shape ``(n_questions,)``.
        nearest_in: how many of the nearest of each are in each segment, shape ``(n_questions, n_segments)``.
        own: vectors of nodes, which must find themselves; shape ``(n, dim)``.
        own_in: position of the segment of each, shape ``(n,)``.
    """

    questions: Floats
    kinds: Numbers
    tenth: Floats
    nearest_in: Numbers
    own: Floats
    own_in: Numbers


def is_due(pool: PostgresPool, collection: Collection, *, at_rest: bool) -> bool:
    """Whether a collection with trees must be measured, because it has changed much or questions were asked.

    With the last questions it is measured as soon as there are some, and then once a day. While it grows, it is
    measured each time it has doubled.
    """
    n_nodes = _n_nodes(collection)
    if not any(segment.n_cells for segment in collection.segments):
        return False
    effort = collection.effort
    if not at_rest:
        return n_nodes > (FIRST_GROWING if effort is None else GROWN * effort.n_nodes)
    if (
        effort is None
        or (effort.found is None and not effort.is_exact)
        or abs(n_nodes - effort.n_nodes) > _CHANGED_SHARE * effort.n_nodes
    ):
        return True
    is_old = time.time() - effort.measured_at > _MEASURED_AGAIN_AFTER_S
    if not is_old and effort.found is not None and effort.found.asked_recall is not None:
        return False
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(_N_ASKED, [collection.collection_id])
        (n_asked,) = cursor.fetchone() or (0,)
    return int(n_asked) >= N_ASKED // 2


def measure(pool: PostgresPool, collection: Collection, *, at_rest: bool = True) -> Effort:
    """Find the least effort with which the sampled questions find enough, and keep it in the collection's row.

    Questions are the last ones that were asked, and vectors between nodes, near isolated nodes, far from all nodes, and
    in any direction. If no effort is enough, searches compare every node from then on.

    Args:
        at_rest: no nodes are being added; otherwise the sample is smaller, and searches look no farther than without
            a measurement.

    Raises:
        CollectionNotFoundError: it was dropped.
        MissingTableError: segments were merged and their tables dropped in between; then it is due again.

    Crash safety:
        One statement at the end.
    """
    with pool.autocommit() as connection:
        if at_rest:
            effort = _measured_at_rest(connection, collection)
        else:
            effort = _less(connection, collection, sampled(connection, collection, *_SIZES_GROWING))
        effort = replace(effort, measured_at=time.time(), n_nodes=_n_nodes(collection))
        with connection.cursor() as cursor:
            packed = orjson.dumps(asdict(effort)).decode()
            cursor.execute(_SET, {"effort": packed, "collection_id": collection.collection_id})
    return effort


def _measured_at_rest(connection: Connection, collection: Collection) -> Effort:
    sample = sampled(connection, collection)
    effort = _least(connection, collection, sample)
    found = measured(connection, replace(collection, effort=effort), sample)
    while not effort.is_exact and found.self_recall < 1:
        effort = _more(effort)
        found = measured(connection, replace(collection, effort=effort), sample)
    return replace(effort, found=found)


def keep_asked(pool: PostgresPool, collection_id: int, vectors: Sequence[Sequence[float]]) -> None:
    """Keep the vectors of the last questions, ``N_ASKED`` at most."""
    embeddings = [orjson.dumps(vector).decode() for vector in vectors[-N_ASKED:]]
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(_KEEP_ASKED, {"collection_id": collection_id, "embeddings": embeddings})


def measured(connection: Connection, collection: Collection, sample: Sample) -> Found:
    """Shares of the exact results that searches find with the collection's effort."""
    n_segments = len(collection.segments)
    shares, found_in, wanted_in = [], np.zeros(n_segments), np.zeros(n_segments)
    for question, tenth, nearest_in in zip(sample.questions, sample.tenth, sample.nearest_in, strict=True):
        rows = _found(connection, collection, question, _K)
        near = [row.node_id for row in rows if row.score >= tenth - _SAME]
        shares.append(len(near) / max(1, len(rows)))
        each = _n_in(connection, collection, near)
        # Otherwise a fresh node that is as near has taken the place of one in a segment.
        if each.sum() == len(near):
            wanted_in += nearest_in
            found_in += np.minimum(each, nearest_in)
    own = np.array([_finds_itself(connection, collection, vector) for vector in sample.own], dtype=bool)
    asked = np.array(shares)[sample.kinds == ASKED]
    of_segments = [
        FoundInSegment(segment.n_nodes, _share(found_in[at], wanted_in[at]), _mean(own[sample.own_in == at]))
        for at, segment in enumerate(collection.segments)
    ]
    recall, self_recall = (1.0 if mean is None else mean for mean in (_mean(shares), _mean(own)))
    return Found(recall, self_recall, _mean(asked), tuple(of_segments))


def look(pool: PostgresPool, name: str) -> Found | None:
    """Measure what searches of a collection find, without storing it; None if no segment has a tree.

    If segments are merged and their tables dropped in between, it starts again.
    """
    for attempt in range(1, _TRIES + 1):
        now = find_collection(pool, name)
        if now is None or not any(segment.n_cells for segment in now.segments):
            return None
        try:
            with pool.autocommit() as connection:
                return measured(connection, now, sampled(connection, now))
        except CollectionNotFoundError:
            return None
        except MissingTableError:
            if attempt == _TRIES:
                raise
    return None


def sampled(
    connection: Connection,
    collection: Collection,
    n_of_each: int = _SIZES[0],
    n_self: int = _SIZES[1],
    n_asked: int = _SIZES[2],
    *,
    seed: int = 0,
) -> Sample:
    """Sample of questions to a collection, with results of a comparison with every node of its segments."""
    rng = np.random.default_rng(seed)
    some, some_in, alone, alone_in = _some(connection, collection, n_self, rng)
    noise = rng.standard_normal((n_of_each, collection.space.dim)).astype(np.float32)
    picked = [alone[rng.integers(len(alone), size=n_of_each)] for _ in range(3)]
    parts = [
        some[rng.integers(len(some), size=n_of_each)] + some[rng.integers(len(some), size=n_of_each)],
        picked[0] + _NOISE * noise,
        picked[0] + picked[1] - picked[2],
        rng.standard_normal(noise.shape).astype(np.float32),
        _asked(connection, collection)[:n_asked],
    ]
    questions = np.concatenate(parts)
    kinds = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    lengths = np.linalg.norm(questions, axis=1)
    questions, kinds = questions[lengths > 0] / lengths[lengths > 0, np.newaxis], kinds[lengths > 0]
    own = np.concatenate([some[:n_self], alone[:n_self]])
    own_in = np.concatenate([some_in[:n_self], alone_in[:n_self]])
    tenth, nearest_in = _nearest(connection, collection, questions)
    return Sample(questions, kinds, tenth, nearest_in, own, own_in)


def _least(connection: Connection, collection: Collection, sample: Sample) -> Effort:
    """First how many members, with all entries compared; then how many entries."""
    is_enough = partial(_is_enough, connection, collection, sample)
    kinds = _kinds(sample, lambda kinds: is_enough(kinds, STEPS[-1], STEPS[-1]))
    if kinds is None:
        return Effort(0, 0)
    members = _first(STEPS, lambda step: is_enough(kinds, STEPS[-1], step))
    entries = _first(STEPS, lambda step: is_enough(kinds, step, members))
    return Effort(entries, members)


def _less(connection: Connection, collection: Collection, sample: Sample) -> Effort:
    """What is compared before anything was measured, halved while that is enough: entries first, which are more."""
    most, is_enough = default_effort(_n_nodes(collection)), partial(_is_enough, connection, collection, sample)
    kinds = _kinds(sample, lambda kinds: is_enough(kinds, most.entries, most.members))
    if kinds is None:
        return most
    entries = _first([most.entries >> n for n in (4, 3, 2, 1, 0)], lambda step: is_enough(kinds, step, most.members))
    members = _first([most.members >> n for n in (2, 1, 0)], lambda step: is_enough(kinds, entries, step))
    return Effort(entries, members)


def _kinds(sample: Sample, is_enough: Callable[[Numbers], bool]) -> Numbers | None:
    """The kinds of questions that are to be served; None where the most that is compared is not enough for them."""
    kinds = np.unique(sample.kinds)
    if is_enough(kinds):
        return kinds
    # Nodes that are all as far from a direction say nothing of what anybody asks.
    kinds = kinds[kinds != ANYWHERE]
    return kinds if is_enough(kinds) else None


def _is_enough(
    connection: Connection, collection: Collection, sample: Sample, kinds: Numbers, entries: int, members: int
) -> bool:
    # Of so many nodes, so that it is taken as it is.
    effort = Effort(entries, members, n_nodes=_n_nodes(collection))
    shares = _shares(connection, replace(collection, effort=effort), sample)
    of_kinds = [np.mean(shares[sample.kinds == kind]) for kind in kinds]
    return bool(np.mean(shares[np.isin(sample.kinds, kinds)]) >= TARGET and min(of_kinds) >= TARGET_OF_KIND)


def _first(steps: Sequence[int], is_enough: Callable[[int], bool]) -> int:
    """The least step that is enough; the last one is, and each step finds at least as much as the one before."""
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(steps[middle]) else (middle + 1, high)
    return steps[low]


def _more(effort: Effort) -> Effort:
    if max(effort.entries, effort.members) >= STEPS[-1]:
        return Effort(0, 0)
    return replace(effort, entries=2 * effort.entries, members=2 * effort.members)


def _shares(connection: Connection, collection: Collection, sample: Sample) -> NDArray[np.float64]:
    """Share of the nearest nodes that is found, for each question."""
    found = (_scores(connection, collection, question, _K) for question in sample.questions)
    return np.array([np.mean(scores >= tenth - _SAME) for scores, tenth in zip(found, sample.tenth, strict=True)])


def _scores(connection: Connection, collection: Collection, vector: Floats, k: int) -> Floats:
    return np.array([row.score for row in _found(connection, collection, vector, k)], dtype=np.float32)


def _found(connection: Connection, collection: Collection, vector: Floats, k: int) -> list[Row]:
    return vector_search(connection, collection, vector, Query(k=k)).rows


def _finds_itself(connection: Connection, collection: Collection, vector: Floats) -> bool:
    scores = _scores(connection, collection, vector, 1)
    return len(scores) > 0 and bool(scores[0] >= 1 - _SAME)


def _n_in(connection: Connection, collection: Collection, node_ids: Sequence[str]) -> NDArray[np.int64]:
    """Number of these nodes in each segment, shape ``(n_segments,)``."""
    with connection.cursor() as cursor:
        cursor.execute(_IDS.format(table=quoted_table(collection)), [list(node_ids)])
        ids = [row_id for _, row_id in cursor.fetchall()]
    at = np.searchsorted([segment.upto for segment in collection.segments], ids)
    return np.bincount(at, minlength=len(collection.segments) + 1)[:-1]


def _share(n: float, of: float) -> float | None:
    return round(float(n / of), 4) if of else None


def _mean(of: Sequence[float] | NDArray[Any]) -> float | None:
    return round(float(np.mean(of)), 4) if len(of) else None


def _some(
    connection: Connection, collection: Collection, n_wanted: int, rng: np.random.Generator
) -> tuple[Floats, Numbers, Floats, Numbers]:
    """Vectors of nodes drawn at random, and of nodes that are in no cell, or of any where there are none.

    Each with the positions of their segments.
    """
    some, alone = [], []
    for segment in collection.segments:
        n = 1 + round(2 * n_wanted * segment.n_nodes / max(1, _n_nodes(collection)))
        some.append(_drawn(connection, collection, segment, n, "n = 0"))
        alone.append(_drawn(connection, collection, segment, n, _IN_NO_CELL))
    drawn = _shuffled(some, rng)
    drawn_alone = _shuffled(alone, rng)
    return (*drawn, *(drawn_alone if len(drawn_alone[0]) else drawn))


def _shuffled(of_segments: Sequence[Floats], rng: np.random.Generator) -> tuple[Floats, Numbers]:
    vectors = np.concatenate(of_segments)
    segments = np.repeat(np.arange(len(of_segments)), [len(each) for each in of_segments])
    order = rng.permutation(len(vectors))
    return vectors[order], segments[order]


def _drawn(connection: Connection, collection: Collection, segment: Segment, n: int, condition: str) -> Floats:
    table = table_of(collection, segment)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT vector_send(embedding::vector) FROM {table} WHERE {condition.format(table=table)} "
            f"AND l2_norm(embedding) > 0.5 ORDER BY random() LIMIT {n:d}"
        )
        return _vectors([row[0] for row in cursor.fetchall()], collection.space.dim)


def _asked(connection: Connection, collection: Collection) -> Floats:
    """The last questions."""
    with connection.cursor() as cursor:
        cursor.execute(_ASKED, [collection.collection_id])
        return _vectors([row[0] for row in cursor.fetchall()], collection.space.dim)


def _vectors(sent: Sequence[bytes], dim: int) -> Floats:
    rows = [decoded_vector(one) for one in sent]
    return np.array(rows, dtype=np.float32).reshape(len(rows), dim)


def _nearest(connection: Connection, collection: Collection, questions: Floats) -> tuple[Floats, Numbers]:
    """Cosine of the last of the nearest of each question, and how many of them are in each segment."""
    best = np.full((len(questions), _K), -1, dtype=np.float32)
    best_in = np.full((len(questions), _K), -1)

    def compare(vectors: Halves, at: int) -> None:
        nonlocal best, best_in
        similarity = questions @ vectors.astype(np.float32).T
        both = np.concatenate([best, similarity], axis=1)
        both_in = np.concatenate([best_in, np.full(similarity.shape, at)], axis=1)
        kept = np.argpartition(both, both.shape[1] - _K, axis=1)[:, -_K:]
        best, best_in = (np.take_along_axis(each, kept, axis=1) for each in (both, both_in))

    with connection.cursor() as cursor:
        for at, segment in enumerate(collection.segments):
            visit_live_vectors(cursor, collection, segment, partial(compare, at=at))
    tenth: Floats = best.min(axis=1)
    in_each = [np.count_nonzero(best_in == at, axis=1) for at in range(len(collection.segments))]
    return tenth, np.stack(in_each, axis=1)


def _n_nodes(collection: Collection) -> int:
    return sum(segment.n_nodes for segment in collection.segments)
