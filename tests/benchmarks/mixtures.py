"""Recall and time of searches in mixed corpora, with exact comparison as the truth.

``python -m tests.benchmarks.mixtures --nodes 100000 --model wordllama --order first``
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ragstore.embedding import Embedder
from ragstore.model.collection import Collection, Segment
from ragstore.postgres.collections import get_collection
from ragstore.postgres.search import Query, Row, vector_search
from ragstore.postgres.segment_tables import table_of
from ragstore.settings import Settings
from tests.benchmarks.corpora import LONE, mixture, phrases
from tests.benchmarks.datasets import index, publish
from tests.benchmarks.measurements import percentile
from tests.benchmarks.scale import FULL
from tests.benchmarks.synthetic import a_node, a_revision
from tests.benchmarks.workbench import Workbench, opened_workbench
from tests.support.internals import models_of, pool_of, writer_of

K = 10
SAME = 2e-6
PER_DOCUMENT = 10

Floats = NDArray[np.float32]


def main() -> None:
    """Fill, ask, keep up, ask again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--model", default="wordllama")
    parser.add_argument("--order", choices=("first", "last"), default="first", help="of the documentation")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--own", type=int, default=2_000, help="nodes whose own vector is asked")
    parser.add_argument("--json", help="file for the figures")
    given = parser.parse_args()
    with opened_workbench(Settings(), FULL, 1, print) as bench:
        lines = list(measured(bench, given))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(lines, file, indent=1)


def measured(bench: Workbench, given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """A line of figures for each kind of question, after the load and after upkeep."""
    model = models_of(bench.store).named(given.model)
    made = mixture(given.nodes)
    order = list(made) if given.order == "first" else list(made)[::-1]
    vectors = {name: np.concatenate([model.embed_documents(made[name][i : i + 5_000])
                                     for i in range(0, len(made[name]), 5_000)]) for name in order}  # fmt: skip
    print({name: len(vectors[name]) for name in order}, flush=True)
    collection = bench.store.create_collection("mixture", model="external", dim=model.dim)
    begun = time.perf_counter()
    for name in order:
        fill(bench, collection, name, made[name], vectors[name])
    print(f"loaded in {time.perf_counter() - begun:.0f} s", flush=True)
    nodes = np.concatenate([vectors[name] for name in order])
    asked = questions(made, nodes, model, given.questions)
    truth = {kind: exact(each, nodes) for kind, each in asked.items()}
    for when in ("after the load", "after upkeep"):
        if when == "after upkeep":
            begun = time.perf_counter()
            index(bench.store)
            print(f"kept up in {time.perf_counter() - begun:.0f} s", flush=True)
        now = get_collection(pool_of(bench.store), "mixture")
        print(when, [(s.n_nodes, s.n_cells) for s in now.segments], now.effort, flush=True)
        for kind, each in asked.items():
            yield show({"when": when, "kind": kind, **compared(bench, now, each, truth[kind])})
        own = nodes[np.random.default_rng(8).choice(len(nodes), min(len(nodes), given.own), replace=False)]
        yield show({"when": when, "kind": "itself", "share": finds_itself(bench, now, own), "asked": len(own)})
        placed = [well_placed(bench, now, segment) for segment in now.segments if segment.n_cells]
        n_placed, n_all = sum(n for n, _ in placed), sum(n for _, n in placed)
        yield show({"when": when, "kind": "every node of trees where its own vector looks", "share": n_placed / max(1, n_all),
                    "asked": n_all})  # fmt: skip


def show(line: dict[str, object]) -> dict[str, object]:
    """The same, printed."""
    print("  ", line, flush=True)
    return line


def fill(bench: Workbench, collection: Collection, name: str, chunks: list[str], vectors: Floats) -> None:
    """Publish chunks as documents of ten."""
    indexer = writer_of(bench.store).indexer
    for begin in range(0, len(chunks), 5_000):
        revisions = []
        for first in range(begin, min(begin + 5_000, len(chunks)), PER_DOCUMENT):
            document_id = f"/{name}/{first:07}"
            own = range(first, min(first + PER_DOCUMENT, len(chunks)))
            made = [a_node(document_id, i - first, {"file_path": document_id, "part": name}, chunks[i]) for i in own]
            revisions.append(a_revision(document_id, made, vectors[own.start : own.stop]))
        publish(bench.store, collection, revisions)
        indexer.added(collection, min(5_000, len(chunks) - begin), in_bulk=True)
    indexer.finish(collection)


def questions(made: dict[str, list[str]], nodes: Floats, model: Embedder, n: int) -> dict[str, Floats]:
    """Vectors of questions by kind; those near lone nodes are near the ones farthest from their 5th neighbour."""
    rng = np.random.default_rng(7)

    def embed(texts: list[str]) -> Floats:
        return np.stack([model.embed_query(text) for text in texts])

    i, j = rng.choice(len(nodes), n), rng.choice(len(nodes), n)
    some = nodes[np.sort(rng.choice(len(nodes), min(len(nodes), 20_000), replace=False))]
    fifth = np.concatenate([np.sort(some[k : k + 500] @ some.T, axis=1)[:, -6] for k in range(0, len(some), 500)])
    lone = some[np.argsort(fifth)[:n]]
    return {
        "phrases of documentation": embed(phrases(made["documentation"], n, n_words=12)),
        "terms of documentation": embed(phrases(made["documentation"], n, n_words=2)),
        "phrases of all": embed(phrases([c for part in made.values() for c in part], n, n_words=12)),
        "lone texts": embed(list(LONE)),
        "between two nodes": units(nodes[i] + nodes[j]),
        "near lone nodes": units(lone + 0.3 * units(rng.standard_normal(lone.shape).astype(np.float32))),
    }


def units(vectors: Floats) -> Floats:
    """At length 1."""
    of_one: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return of_one


def exact(asked: Floats, nodes: Floats) -> Floats:
    """Cosine of the last of the nearest, of each question."""
    best = np.full((len(asked), K), -1, dtype=np.float32)
    for begin in range(0, len(nodes), 50_000):
        both = np.concatenate([best, asked @ nodes[begin : begin + 50_000].T], axis=1)
        best = np.partition(both, both.shape[1] - K, axis=1)[:, -K:]
    tenth: Floats = best.min(axis=1)
    return tenth


def compared(bench: Workbench, collection: Collection, asked: Floats, tenth: Floats) -> dict[str, object]:
    """Recall, and times of every question's second asking in a warm process."""
    recalls, took, took_exact = [], [], []
    for question, limit in zip(asked, tenth, strict=True):
        for _ in range(2):
            rows, ms = timed(bench, collection, question, Query(K))
        recalls.append(np.mean([row.score >= limit - SAME for row in rows]))
        took.append(ms)
    for question in asked[:5]:
        took_exact.append(timed(bench, collection, question, Query(K, exact=True))[1])
    return {
        "recall": round(float(np.mean(recalls)), 4),
        "p50_ms": round(percentile(took, 50), 1),
        "p95_ms": round(percentile(took, 95), 1),
        "exact_p50_ms": round(percentile(took_exact, 50), 1),
        "asked": len(asked),
    }


def timed(bench: Workbench, collection: Collection, question: Floats, query: Query) -> tuple[list[Row], float]:
    """Hits and milliseconds."""
    begun = time.perf_counter()
    rows = pool_of(bench.store).read(lambda connection: vector_search(connection, collection, question, query)).rows
    return rows, (time.perf_counter() - begun) * 1_000


def finds_itself(bench: Workbench, collection: Collection, own: Floats) -> float:
    """Share of nodes whose own vector finds them, or an equal one, first."""
    found = [timed(bench, collection, vector, Query(1))[0][0].score >= 1 - 1e-5 for vector in own]
    return round(float(np.mean(found)), 5)


def well_placed(bench: Workbench, collection: Collection, segment: Segment) -> tuple[int, int]:
    """How many nodes of a tree are where a search for their own vector looks in any case, and how many there are.

    That is at the root, or in one of the two nearest regions, and there in it or in one of its two nearest cells.
    """
    table = table_of(collection, segment)
    groups = bench.sql(f"SELECT cell, id, vector_send(embedding::vector) FROM {table} WHERE n > 0 ORDER BY id")
    parents = np.array([0] + [parent for parent, _, _ in groups])
    centres = np.stack([np.zeros(collection.space.dim)] + [received(sent) for _, _, sent in groups]).astype(np.float32)
    regions = np.flatnonzero(parents == 0)[1:]
    cells_of = {int(region): np.flatnonzero(parents == region) for region in regions}
    n_well = n_nodes = 0
    for begin in range(0, segment.upto - segment.above, 100_000):
        low, high = segment.above + begin, min(segment.upto, segment.above + begin + 100_000)
        rows = bench.sql(
            f"SELECT cell, vector_send(embedding::vector) FROM {table} WHERE n = 0 AND id > {low} AND id <= {high}"
        )
        if not rows:
            continue
        cells, vectors = np.array([cell for cell, _ in rows]), np.stack([received(sent) for _, sent in rows])
        is_region = np.isin(cells, regions)
        of_region = np.where(is_region | (cells == 0), cells, parents[cells])
        two = regions[np.argpartition(vectors @ centres[regions].T, -2, axis=1)[:, -2:]]
        well = (cells == 0) | (two == of_region[:, np.newaxis]).any(axis=1)
        for region in np.unique(of_region[~is_region & (cells > 0)]):
            own = np.flatnonzero((of_region == region) & ~is_region)
            inner = cells_of[int(region)]
            nearest = inner[np.argsort(vectors[own] @ centres[inner].T, axis=1)[:, -2:]]
            well[own] &= (nearest == cells[own][:, np.newaxis]).any(axis=1)
        n_well, n_nodes = n_well + int(well.sum()), n_nodes + len(rows)
    return n_well, n_nodes


def received(sent: bytes) -> Floats:
    """A vector as PostgreSQL sends it."""
    return np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)


if __name__ == "__main__":
    main()
