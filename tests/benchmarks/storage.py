"""Rows 1, 2 and 9: storing nodes in an empty and in a large collection, and deleting a long document."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from functools import cache, partial
from uuid import uuid4

import numpy as np
import orjson
from pymongo import monitoring

from ragstore.app import Ragstore
from ragstore.model.collection import Collection
from ragstore.model.node import Node
from ragstore.model.run import PlannedRevision, Vectors
from ragstore.postgres.copy import COLUMNS, HEADER, TRAILER, encode_rows
from ragstore.postgres.names import quoted_table
from tests.benchmarks.datasets import Filled, index, publish
from tests.benchmarks.measurements import Goal, Line, at_least, at_most, in_turn, rate_times, seconds, series
from tests.benchmarks.plain import PlainStack, llama_nodes
from tests.benchmarks.synthetic import NODES_PER_DOCUMENT, Clusters, Corpus, a_revision
from tests.benchmarks.workbench import Workbench
from tests.support.internals import mongo_bodies
from tests.support.sql_spy import can_spy

_N_PROBED = 100
_DIM = 256
_COUNTED = 3


def into_empty(bench: Workbench) -> list[Line]:
    """Row 1."""
    return [_into_empty(bench, dim) for dim in bench.scale.dims]


def _into_empty(bench: Workbench, dim: int) -> Line:
    corpus = Corpus(f"stored-{dim}", Clusters(dim))
    stack = bench.plain_stack(f"stored_{dim}", dim, hnsw=False)
    made: list[str] = []

    def ours() -> float:
        name = f"stored-{dim}-{len(made)}"
        made.append(name)
        collection = bench.store.create_collection(name, model="external", dim=dim)
        revisions = corpus.revisions(bench.scale.stored)
        return bench.scale.stored / seconds(lambda: publish(bench.store, collection, revisions))

    def by_hand() -> float:
        collection = bench.store.create_collection(f"stored-{dim}-0", model="external", dim=dim)
        revisions = corpus.revisions(bench.scale.stored)
        return bench.scale.stored / seconds(lambda: _write_by_hand(bench, collection, revisions))

    def plainly() -> float:
        nodes = llama_nodes(corpus.revisions(bench.scale.plain_nodes))
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
        f"storing {bench.scale.stored:,} nodes × {dim:,}",
        own,
        plains,
        by_hands,
        (rate_times(own, by_hands, 0.7, "raw"), rate_times(own, plains, 40, "plain")),
        (f"the plain stack got {bench.scale.plain_nodes:,} nodes; it gets slower with more",),
    )


def into_large(bench: Workbench) -> list[Line]:
    """Row 2."""
    large, stack = bench.data.large, bench.data.plain
    own, plain, by_hand, indexed, exact = [], [], [], [], []
    for _ in range(bench.few_rounds):
        revisions = large.corpus.revisions(bench.scale.stored)
        storing = seconds(partial(publish, bench.store, large.collection, revisions))
        own.append(bench.scale.stored / storing)
        exact.append(_share_found(bench, large, revisions))
        indexed.append(bench.scale.stored / (storing + seconds(partial(index, bench.store))))
        bench.store.delete(*(r.document_id for r in revisions), collection=large.collection.name)
        large.corpus.forget_last()
        plain.append(_plain_rate(bench, stack))
        by_hand.append(_raw_rate(bench, stack))
    stored, plains, raws = series("nodes/s", own), series("nodes/s", plain), series("nodes/s", by_hand)
    into = f"into {large.n_nodes:,} indexed ones"
    note = f"the plain stack (PGVectorStore.add alone) and raw got {bench.scale.plain_nodes:,} nodes"
    found = at_least("recall of fresh nodes", min(exact), 1.0)
    return [
        Line(
            2,
            f"storing {bench.scale.stored:,} nodes × 256 {into}",
            stored,
            plains,
            raws,
            (rate_times(stored, plains, 5, "plain"), found),
            (note, "raw is one COPY into a table with an HNSW index, and insert_many"),
        ),
        Line(2, "the same until all of them are in the index", series("nodes/s", indexed), plains, raws),
    ]


def _plain_rate(bench: Workbench, stack: PlainStack) -> float:
    nodes = llama_nodes(_fresh(bench, "plain").revisions(bench.scale.plain_nodes))
    taken = seconds(lambda: stack.vectors.add(nodes))
    stack.forget([node.node_id for node in nodes])
    return len(nodes) / taken


def _raw_rate(bench: Workbench, stack: PlainStack) -> float:
    revisions = _fresh(bench, "raw").revisions(bench.scale.plain_nodes)
    taken = seconds(lambda: _write_into_hnsw(bench, stack.table, revisions))
    stack.forget([node.node_id for revision in revisions for node in revision.nodes])
    return len(revisions) * NODES_PER_DOCUMENT / taken


def _fresh(bench: Workbench, name: str) -> Corpus:
    return Corpus(name, bench.data.large.corpus.clusters, seed=bench.rounds)


def _share_found(bench: Workbench, large: Filled, fresh: list[PlannedRevision]) -> float:
    """Recall of fresh nodes: the share that queries find of those among the ten nearest to fresh nodes' vectors."""
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


def _write_by_hand(bench: Workbench, collection: Collection, revisions: Sequence[PlannedRevision]) -> None:
    """Write the same rows and documents by hand: one ``insert_many`` and one binary COPY into a table without an index."""
    nodes = [node for revision in revisions for node in revision.nodes]
    _insert(bench, nodes)
    rows = encode_rows(nodes, _vectors(revisions))
    with bench.connection() as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS public.raw")
        cursor.execute(f"CREATE TABLE public.raw (LIKE {quoted_table(collection)} INCLUDING DEFAULTS)")
        stream = io.BytesIO(HEADER + rows + TRAILER)
        cursor.copy_expert(f"COPY public.raw ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)", stream)


def _write_into_hnsw(bench: Workbench, table: str, revisions: Sequence[PlannedRevision]) -> None:
    """Write them by hand into a table of PGVectorStore that has an HNSW index."""
    nodes = [node for revision in revisions for node in revision.nodes]
    _insert(bench, nodes)
    stream = io.StringIO()
    writer = csv.writer(stream)
    for node, vector in zip(nodes, _vectors(revisions), strict=True):
        metadata = orjson.dumps(node.metadata | {"_node_content": orjson.dumps(node.content).decode()}).decode()
        writer.writerow((node.text, metadata, node.node_id, orjson.dumps(vector.tolist()).decode()))
    stream.seek(0)
    with bench.connection() as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} (text, metadata_, node_id, embedding) FROM STDIN (FORMAT csv)", stream)


def _insert(bench: Workbench, nodes: Sequence[Node]) -> None:
    bench.mongo[f"raw/{uuid4()}"].insert_many(mongo_bodies(nodes), ordered=False)


def _vectors(revisions: Sequence[PlannedRevision]) -> Vectors:
    return np.concatenate([revision.vectors for revision in revisions])


def deletion(bench: Workbench) -> list[Line]:
    """Row 9."""
    n_nodes, n_plain = bench.scale.document_nodes, bench.scale.plain_document_nodes
    corpus = Corpus("deleted", Clusters(_DIM))
    collection = bench.store.create_collection("deleted", model="external", dim=_DIM)
    stack = bench.plain_stack("deleted", _DIM, hnsw=False)
    try:
        (taken,) = in_turn(bench.rounds, partial(_delete, bench.store, collection, corpus, n_nodes))
        (plain,) = in_turn(bench.few_rounds, partial(_delete_plainly, stack, corpus, n_plain))
    finally:
        stack.close()
    own = series("ms", taken)
    goals, notes = [at_most("ms", own.median, 100)], []
    if can_spy(bench.postgres_url):
        few, many = (_round_trips(bench, collection, corpus, n) for n in (n_plain, n_nodes))
        goals.append(Goal(f"round trips as for {n_plain:,}", many / few, 1, at_least=False))
        notes.append(f"{many:g} round trips to delete {n_nodes:,} chunks, {few:g} to delete {n_plain:,}")
    else:
        bench.left_out.append("row 9, round trips: PostgreSQL is not reached by TCP at one address")
    notes.append(f"the plain stack's document has {n_plain:,} chunks")
    work = f"deleting a document of {n_nodes:,} chunks"
    return [Line(9, work, own, series("ms", plain), None, tuple(goals), tuple(notes))]


def _delete(store: Ragstore, collection: Collection, corpus: Corpus, n_nodes: int) -> float:
    """Milliseconds."""
    document = _one_document(corpus, n_nodes)
    publish(store, collection, [document])
    return seconds(lambda: store.delete(document.document_id, collection=collection.name)) * 1_000


def _delete_plainly(stack: PlainStack, corpus: Corpus, n_nodes: int) -> float:
    document = _one_document(corpus, n_nodes)
    index = stack.index()
    index.insert_nodes(llama_nodes([document]))
    return seconds(lambda: index.delete_ref_doc(document.document_id, delete_from_docstore=True)) * 1_000


def _round_trips(bench: Workbench, collection: Collection, corpus: Corpus, n_nodes: int) -> float:
    """Round trips to both databases, as a median because the process has background work too."""
    commands = _mongo_commands()
    counted = []
    with bench.spied() as (spy, store):
        for _ in range(_COUNTED):
            document = _one_document(corpus, n_nodes)
            publish(store, collection, [document])
            spy.taken()
            before = commands.n_sent
            store.delete(document.document_id, collection=collection.name)
            counted.append(len(spy.taken()) + commands.n_sent - before)
    return statistics.median(counted)


def _one_document(corpus: Corpus, n_nodes: int) -> PlannedRevision:
    """The corpus's next nodes as one document."""
    revisions = corpus.revisions(n_nodes)
    nodes = [node for revision in revisions for node in revision.nodes]
    document_id = revisions[0].document_id
    return a_revision(document_id, nodes, np.concatenate([revision.vectors for revision in revisions]))


class _Commands(monitoring.CommandListener):
    def __init__(self) -> None:
        self.n_sent = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.n_sent += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Of no interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Of no interest."""


@cache
def _mongo_commands() -> _Commands:
    """Counts the commands of all MongoDB clients made after the first call."""
    commands = _Commands()
    monitoring.register(commands)
    return commands
