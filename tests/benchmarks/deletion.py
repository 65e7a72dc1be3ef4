"""Row 9: deleting a long document from both stores, and how often the databases are asked for it."""

from __future__ import annotations

import statistics
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
from pymongo import monitoring

from ragstore.model.collection import Collection
from ragstore.model.run import PlannedRevision
from tests.benchmarks.figures import Goal, Line, at_most, series
from tests.benchmarks.made_up import Clusters, Corpus, a_revision
from tests.benchmarks.plain import PlainStack, llama_nodes
from tests.benchmarks.publishing import publish
from tests.benchmarks.timing import in_turn, seconds
from tests.support.sql_spy import can_spy

if TYPE_CHECKING:
    from ragstore.app import Ragstore
    from tests.benchmarks.workbench import Workbench

_DIM = 256
_COUNTED = 3


def measure(bench: Workbench) -> list[Line]:
    """Row 9."""
    n_nodes, n_plain = bench.sizes.document_nodes, bench.sizes.plain_document_nodes
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
    """How often an answer of either database is waited for; the middle of some, for a process has other work too."""
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
