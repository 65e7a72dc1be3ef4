"""Row 3: the whole pipeline on real files, against its parts alone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ragstore.ingest.splitting import split
from ragstore.model.collection import Chunking, Collection
from ragstore.model.run import PlannedRevision, Vectors
from ragstore.sources.reading import read
from tests.benchmarks.figures import Line, rate_times, series
from tests.benchmarks.made_up import a_node, a_revision
from tests.benchmarks.publishing import index, publish
from tests.benchmarks.timing import in_turn, seconds
from tests.benchmarks.word_llama import embedder, word_llama_embedding

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

_EMBEDDED_AT_ONCE = 1_000
_PLAIN_SHARE = 10


@dataclass
class _Computed:
    """Chunks of each file, and their vectors, in one row of all."""

    documents: list[tuple[str, list[str]]]
    vectors: list[Vectors]

    @property
    def n_chunks(self) -> int:
        return sum(len(chunks) for _, chunks in self.documents)


def measure(bench: Workbench) -> list[Line]:
    """Row 3."""
    folder, n_files, n_bytes = bench.shared.real_files
    collections: list[Collection] = []
    computed = _compute(bench, folder)  # warms up, and is what storage alone gets
    n_chunks = computed.n_chunks

    def ours() -> float:
        collections.append(bench.store.create_collection(f"ingested-{len(collections)}", model="wordllama"))
        name = collections[-1].name
        return n_chunks / seconds(lambda: bench.store.ingest(folder, collection=name))

    rounds = itertools.count()

    def stored() -> float:
        # Another name each time: in one of the same name the documents would have a past.
        collection = bench.store.create_collection(f"stored-{next(rounds)}", model="wordllama")
        runs = list(_revisions(computed))

        def publish_all() -> None:
            for run in runs:
                publish(bench.store, collection, run, len(run))
            index(bench.store)  # an ingest ends with it too

        taken = seconds(publish_all)
        bench.store.drop_collection(collection.name)
        return n_chunks / taken

    rates, compute, storage = in_turn(
        bench.few_rounds, ours, lambda: n_chunks / seconds(partial(_compute, bench, folder)), stored
    )
    for collection in collections:
        bench.store.drop_collection(collection.name)
    own, computing, storing = (series("chunks/s", values) for values in (rates, compute, storage))
    plain = series("chunks/s", [_plain_rate(bench, folder)])
    slower = min(computing, storing, key=lambda one: one.median)
    return [
        Line(
            3,
            f"ingest of {n_files:,} real files, {n_bytes / 1e6:.1f} MB, {n_chunks:,} chunks",
            own,
            plain,
            slower,
            (rate_times(own, slower, 0.8, "the slower part alone"),),
            (
                f"raw is the slower of reading, splitting, embedding ({computing}) and storing, indexing ({storing})",
                f"the plain stack got every {_PLAIN_SHARE}th file",
            ),
        )
    ]


def _compute(bench: Workbench, folder: str) -> _Computed:
    """Read, split and embed, one after the other in this process."""
    chunking = Chunking(bench.settings.chunk_size, bench.settings.chunk_overlap)
    model = embedder(bench.store)
    computed, waiting = _Computed([], []), []
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as file:
            chunks = [chunk.text for chunk in split(read(file.read(), name), chunking)]
        computed.documents.append((os.path.join(folder, name), chunks))
        waiting += chunks
        if len(waiting) >= _EMBEDDED_AT_ONCE:
            computed.vectors.append(model.embed_documents(waiting))
            waiting = []
    if waiting:
        computed.vectors.append(model.embed_documents(waiting))
    return computed


def _revisions(computed: _Computed) -> Iterator[Sequence[PlannedRevision]]:
    """Runs of about as many chunks as an ingest publishes together."""
    vectors, begin, run, n_chunks = np.concatenate(computed.vectors), 0, [], 0
    for path, chunks in computed.documents:
        document_id = f"/stored{path}"
        metadata: dict[str, object] = {"file_path": path, "file_name": os.path.basename(path)}
        nodes = [a_node(document_id, ordinal, metadata, text) for ordinal, text in enumerate(chunks)]
        run.append(a_revision(document_id, nodes, vectors[begin : begin + len(nodes)]))
        begin += len(nodes)
        n_chunks += len(nodes)
        if n_chunks >= _EMBEDDED_AT_ONCE:
            yield run
            run, n_chunks = [], 0
    if run:
        yield run


def _plain_rate(bench: Workbench, folder: str) -> float:
    from llama_index.core import SimpleDirectoryReader
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter

    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))[::_PLAIN_SHARE]]
    stack = bench.plain_stack("real", 256, hnsw=False)
    settings = bench.settings
    pipeline = IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=settings.chunk_size, chunk_overlap=settings.chunk_overlap),
            word_llama_embedding(bench.store),
        ],
        docstore=stack.docstore(),
        vector_store=stack.vectors,
        docstore_strategy=DocstoreStrategy.UPSERTS,
        disable_cache=True,
    )
    stored: list[object] = []

    def run() -> None:
        documents = SimpleDirectoryReader(input_files=paths, filename_as_id=True).load_data()
        stored.extend(pipeline.run(documents=documents))

    try:
        taken = seconds(run)
    finally:
        stack.close()
    return len(stored) / taken
