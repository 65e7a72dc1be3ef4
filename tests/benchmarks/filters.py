"""Recall and time of searches with filters, from one that leaves a node in 10,000 to one that leaves all.

``python -m tests.benchmarks.filters --nodes 100000 --json filters.json --picture filters.svg``
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragstore.model.collection import Collection
from ragstore.model.filters import Condition
from ragstore.postgres.collections import get_collection
from ragstore.postgres.search import Query, vector_search
from ragstore.settings import Settings
from tests.benchmarks.datasets import index, publish
from tests.benchmarks.measurements import percentile
from tests.benchmarks.scale import FULL
from tests.benchmarks.synthetic import N_CLUSTERS, VOCABULARY, Clusters, a_node, a_revision
from tests.benchmarks.workbench import Workbench, opened_workbench
from tests.support.internals import pool_of, writer_of

NAME, DIM, K = "filtered", 256, 10
SHARES = np.geomspace(1e-4, 1, 20)
OFFSETS = np.random.default_rng(1).random(len(SHARES))
AT_ONCE, PER_DOCUMENT = 10_000, 10
KINDS = ("spread", "near", "far")

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


def main() -> None:
    """Fill, ask at each share, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=40, help="at each share and of each kind")
    parser.add_argument("--json")
    parser.add_argument("--picture")
    given = parser.parse_args()
    with opened_workbench(Settings(), FULL, 1, print) as bench:
        collection, vectors, members = filled(bench, given.nodes)
        lines = list(measured(bench, collection, (vectors, members), given.questions))
    if given.json:
        Path(given.json).write_text(json.dumps(lines, indent=1), encoding="utf-8")
    if given.picture:
        draw(lines, given.picture)


def filled(bench: Workbench, n_nodes: int) -> tuple[Collection, Floats, dict[str, Flags]]:
    """A collection at rest, its vectors, and for each kind of key which node has it; shape ``(n, len(SHARES))``.

    ``spread`` keys are drawn for each node, ``part`` keys are those of a stretch of clusters.
    """
    rng, clusters = np.random.default_rng(5), Clusters(DIM)
    bench.store.create_collection(NAME, model="external", dim=DIM)
    indexer, begun = writer_of(bench.store).indexer, time.perf_counter()
    made: list[tuple[Floats, Flags, Flags]] = []
    for first in range(0, n_nodes, AT_ONCE):
        where = rng.random(AT_ONCE)
        vectors = clusters.draw(rng, (where * N_CLUSTERS).astype(np.int64))
        spread = rng.random((AT_ONCE, len(SHARES))) < SHARES
        part = (where[:, np.newaxis] - OFFSETS) % 1 < SHARES
        texts = VOCABULARY.texts(rng, AT_ONCE)
        revisions = []
        for i in range(0, AT_ONCE, PER_DOCUMENT):
            document_id = f"/{NAME}/{first + i:07}"
            own = range(i, i + PER_DOCUMENT)
            keys = [keys_of("spread", spread[j]) | keys_of("part", part[j]) for j in own]
            nodes = [a_node(document_id, j - i, {"file_path": document_id, **keys[j - i]}, texts[j]) for j in own]
            revisions.append(a_revision(document_id, nodes, vectors[own.start : own.stop]))
        collection = get_collection(pool_of(bench.store), NAME)
        publish(bench.store, collection, revisions)
        indexer.added(collection, AT_ONCE, in_bulk=True)
        made.append((vectors, spread, part))
    index(bench.store)
    now = get_collection(pool_of(bench.store), NAME)
    print(f"filled in {time.perf_counter() - begun:.0f} s:", [(s.n_nodes, s.n_cells) for s in now.segments], now.effort)
    vectors, spread, part = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return now, vectors, {"spread": spread, "near": part, "far": part}


def keys_of(name: str, has: Flags) -> dict[str, object]:
    """Metadata of a node."""
    return {f"{name}{place}": True for place in np.flatnonzero(has)}


def measured(
    bench: Workbench, collection: Collection, nodes: tuple[Floats, dict[str, Flags]], n: int
) -> Iterator[dict[str, object]]:
    """A line for each share and kind; questions with and without the filter take turns."""
    rng, clusters = np.random.default_rng(6), Clusters(DIM)
    vectors, members = nodes
    for place, share in enumerate(SHARES):
        for kind in KINDS:
            middle = OFFSETS[place] + share / 2 + (0.5 if kind == "far" else 0)
            where = rng.random(n) if kind == "spread" else np.full(n, middle % 1)
            questions = clusters.draw(rng, (where * N_CLUSTERS).astype(np.int64))
            allowed = vectors[members[kind][:, place]]
            query = Query(K, filters=Condition(f"{'spread' if kind == 'spread' else 'part'}{place}", "==", True))
            recalls, took, took_all = [], [], []
            for question in questions:
                scores, ms = asked(bench, collection, question, query)
                took.append(ms)
                took_all.append(asked(bench, collection, question, Query(K))[1])
                wanted = np.sort(allowed @ question)[-K:]
                recalls.append(np.mean(scores[: len(wanted)] >= wanted[0] - 2e-6) if len(scores) >= len(wanted) else 0)
            line = {
                "share": float(share),
                "kind": kind,
                "allowed": len(allowed),
                "recall": round(float(np.mean(recalls)), 4),
                "p50_ms": round(percentile(took, 50), 1),
                "p95_ms": round(percentile(took, 95), 1),
                "p95_unfiltered_ms": round(percentile(took_all, 95), 1),
                "times": round(percentile(took, 95) / percentile(took_all, 95), 2),
            }
            print("  ", line, flush=True)
            yield line


def asked(bench: Workbench, collection: Collection, question: Floats, query: Query) -> tuple[Floats, float]:
    """Scores, and milliseconds of the second asking."""
    for _ in range(2):
        begun = time.perf_counter()
        found = pool_of(bench.store).read(lambda connection: vector_search(connection, collection, question, query))
        ms = (time.perf_counter() - begun) * 1_000
    return np.array([row.score for row in found.rows], dtype=np.float32), ms


def draw(lines: list[dict[str, object]], path: str) -> None:
    """Times and recall against the share that a filter leaves."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 6))
    for kind in KINDS:
        own = [line for line in lines if line["kind"] == kind]
        shares = [line["share"] for line in own]
        above.plot(shares, [line["times"] for line in own], marker="o", label=kind)
        below.plot(shares, [line["recall"] for line in own], marker="o", label=kind)
    above.axhline(4, color="lightgrey")
    above.set(ylabel="p95 / unfiltered p95", xscale="log", ylim=(0, None))
    below.axhline(0.95, color="lightgrey")
    below.set(ylabel="recall of the 10 nearest allowed", xlabel="share of the nodes that the filter leaves")
    above.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
