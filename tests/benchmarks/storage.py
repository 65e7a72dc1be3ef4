"""Rows 1 and 2: nodes per second of the storage path, into an empty collection and into a large, indexed one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ragstore.model.run import PlannedRevision
from tests.benchmarks import raw
from tests.benchmarks.figures import Line, at_least, rate_times, series
from tests.benchmarks.made_up import NODES_PER_DOCUMENT, Clusters, Corpus
from tests.benchmarks.plain import PlainStack, llama_nodes
from tests.benchmarks.publishing import index, publish
from tests.benchmarks.shared import Filled
from tests.benchmarks.timing import in_turn, seconds

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

_N_PROBED = 100


def into_empty(bench: Workbench) -> list[Line]:
    """Row 1."""
    return [_into_empty(bench, dim) for dim in bench.sizes.dims]


def _into_empty(bench: Workbench, dim: int) -> Line:
    corpus = Corpus(f"stored-{dim}", Clusters(dim))
    stack = bench.plain_stack(f"stored_{dim}", dim, hnsw=False)
    made: list[str] = []

    def ours() -> float:
        name = f"stored-{dim}-{len(made)}"
        made.append(name)
        collection = bench.store.create_collection(name, model="external", dim=dim)
        revisions = corpus.revisions(bench.sizes.stored)
        return bench.sizes.stored / seconds(lambda: publish(bench.store, collection, revisions))

    def by_hand() -> float:
        collection = bench.store.create_collection(f"stored-{dim}-0", model="external", dim=dim)
        revisions = corpus.revisions(bench.sizes.stored)
        return bench.sizes.stored / seconds(lambda: raw.write_both(bench, collection, revisions))

    def plainly() -> float:
        nodes = llama_nodes(corpus.revisions(bench.sizes.plain_nodes))
        plain_index = stack.index()
        return len(nodes) / seconds(lambda: plain_index.insert_nodes(nodes))

    try:
        rates, raw_rates = in_turn(bench.rounds, ours, by_hand)
        (plain_rates,) = in_turn(bench.few_rounds, plainly)
    finally:
        stack.close()
        for name in made:
            bench.store.drop_collection(name)
    own, by_hands, plains = (series("nodes/s", values) for values in (rates, raw_rates, plain_rates))
    return Line(
        1,
        f"storing {bench.sizes.stored:,} nodes × {dim:,}",
        own,
        plains,
        by_hands,
        (rate_times(own, by_hands, 0.7, "raw"), rate_times(own, plains, 40, "plain")),
        (f"the plain stack got {bench.sizes.plain_nodes:,} nodes; it gets slower with more",),
    )


def into_large(bench: Workbench) -> list[Line]:
    """Row 2."""
    large, stack = bench.shared.large, bench.shared.plain
    own, plain, by_hand, indexed, exact = [], [], [], [], []
    for _ in range(bench.few_rounds):
        revisions = large.corpus.revisions(bench.sizes.stored)
        storing = seconds(partial(publish, bench.store, large.collection, revisions))
        own.append(bench.sizes.stored / storing)
        exact.append(_share_found(bench, large, revisions))
        indexed.append(bench.sizes.stored / (storing + seconds(partial(index, bench.store))))
        bench.store.delete(*(r.document_id for r in revisions), collection=large.collection.name)
        large.corpus.forget_last()
        plain.append(_plain_rate(bench, stack))
        by_hand.append(_raw_rate(bench, stack))
    stored, plains, raws = series("nodes/s", own), series("nodes/s", plain), series("nodes/s", by_hand)
    into = f"into {large.n_nodes:,} indexed ones"
    note = f"the plain stack (PGVectorStore.add alone) and raw got {bench.sizes.plain_nodes:,} nodes"
    found = at_least("recall of fresh nodes", min(exact), 1.0)
    return [
        Line(
            2,
            f"storing {bench.sizes.stored:,} nodes × 256 {into}",
            stored,
            plains,
            raws,
            (rate_times(stored, plains, 5, "plain"), found),
            (note, "raw is one COPY into a table with an HNSW index, and insert_many"),
        ),
        Line(2, "the same until all of them are in the index", series("nodes/s", indexed), plains, raws),
    ]


def _plain_rate(bench: Workbench, stack: PlainStack) -> float:
    nodes = llama_nodes(_fresh(bench, "plain").revisions(bench.sizes.plain_nodes))
    taken = seconds(lambda: stack.vectors.add(nodes))
    stack.forget([node.node_id for node in nodes])
    return len(nodes) / taken


def _raw_rate(bench: Workbench, stack: PlainStack) -> float:
    revisions = _fresh(bench, "raw").revisions(bench.sizes.plain_nodes)
    taken = seconds(lambda: raw.write_beside_hnsw(bench, stack.table, revisions))
    stack.forget([node.node_id for revision in revisions for node in revision.nodes])
    return len(revisions) * NODES_PER_DOCUMENT / taken


def _fresh(bench: Workbench, name: str) -> Corpus:
    return Corpus(name, bench.shared.large.corpus.clusters, seed=bench.rounds)


def _share_found(bench: Workbench, large: Filled, fresh: list[PlannedRevision]) -> float:
    """Of the fresh nodes among the ten nearest to some fresh nodes' vectors, the share that queries return at once."""
    vectors = np.concatenate([revision.vectors for revision in fresh])
    ids = {node.node_id for revision in fresh for node in revision.nodes}
    everything, node_ids = large.vectors, large.node_ids
    n_wanted = n_found = 0
    for vector in vectors[:: max(1, len(vectors) // _N_PROBED)]:
        nearest = np.argsort(-(everything @ vector))[:10]
        wanted = {node_ids[i] for i in nearest} & ids
        hits = bench.store.query(
            "fresh", collection=large.collection.name, top_k=10, mode="vector", embedding=vector.tolist()
        )
        n_wanted += len(wanted)
        n_found += len(wanted & {hit.node_id for hit in hits})
    return n_found / n_wanted
