"""Rows 3, 4 and 5: ingest of real files, again where nothing changed, and again where little changed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ragstore.errors import StoreError
from ragstore.ingest.splitting import split
from ragstore.model.collection import Chunking, Collection
from ragstore.model.run import PlannedRevision, Vectors
from ragstore.sources.readers import read
from tests.benchmarks.corpora import texts, write_text
from tests.benchmarks.datasets import embedder, index, publish, word_llama_embedding
from tests.benchmarks.measurements import (
    Goal,
    Line,
    at_most,
    in_turn,
    number,
    publishing_seconds,
    rate_times,
    seconds,
    series,
    timed,
    times_faster,
)
from tests.benchmarks.synthetic import a_node, a_revision
from tests.benchmarks.workbench import Workbench

_EMBEDDED_AT_ONCE = 1_000
_PLAIN_SHARE = 10
_N_CHUNKS = 30
_N_OTHERS = 20
_COLLECTION = "changed"


@dataclass
class _Computed:
    """Chunks of each file, and their vectors, in one row of all."""

    documents: list[tuple[str, list[str]]]
    vectors: list[Vectors]

    @property
    def n_chunks(self) -> int:
        return sum(len(chunks) for _, chunks in self.documents)


def pipeline(bench: Workbench) -> list[Line]:
    """Row 3."""
    folder, n_files, n_bytes = bench.data.real_files
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
    from llama_index.core.node_parser import SentenceSplitter

    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))[::_PLAIN_SHARE]]
    stack = bench.plain_stack("real", 256, hnsw=False)
    settings = bench.settings
    splitter = SentenceSplitter(chunk_size=settings.chunk_size, chunk_overlap=settings.chunk_overlap)
    pipeline = stack.pipeline(splitter, word_llama_embedding(bench.store))
    stored: list[object] = []

    def run() -> None:
        documents = SimpleDirectoryReader(input_files=paths, filename_as_id=True).load_data()
        stored.extend(pipeline.run(documents=documents))

    try:
        taken = seconds(run)
    finally:
        stack.close()
    return len(stored) / taken


def unchanged(bench: Workbench) -> list[Line]:
    """Row 4."""
    folder, n_files = bench.data.pieces
    name = "unchanged"
    first = bench.store.ingest(folder, collection=name)

    def again() -> float:
        taken, report = timed(lambda: bench.store.ingest(folder, collection=name))
        if report.unchanged != n_files:
            raise StoreError(f"of {n_files:,} unchanged files {report.unchanged:,} were found so")
        return taken

    ours, walks = in_turn(bench.rounds, again, lambda: seconds(partial(_walk, folder)))
    plain = _unchanged_plainly(bench, folder, n_files)
    own, walk, other = series("s", ours), series("s", walks), series("s", plain)
    n_plain = min(n_files, bench.scale.plain_files)
    allowed = 1.3 * walk.median + 0.3
    return [
        Line(
            4,
            f"unchanged re-run of {n_files:,} files",
            own,
            other,
            walk,
            (
                Goal("s ≤ 1.3 × raw + 0.3", own.median, allowed, at_least=False),
                times_faster(own, other, 7, "plain"),
            ),
            (
                f"raw is walking and stat-ing; reading, embedding and storing it all took {number(first.seconds)} s",
                f"plain is IngestionPipeline without transformations, on {n_plain:,} loaded documents, scaled",
            ),
        )
    ]


def _walk(folder: str) -> int:
    """Sum of all sizes, as a program that looks for changes has to ask for them."""
    total = 0
    for entry in os.scandir(folder):
        total += _walk(entry.path) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
    return total


def _unchanged_plainly(bench: Workbench, folder: str, n_files: int) -> list[float]:
    from llama_index.core.schema import Document

    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    documents = []
    for path in sorted(paths)[: bench.scale.plain_files]:
        with open(path, encoding="utf-8") as file:
            documents.append(Document(id_=path, text=file.read()))
    stack = bench.plain_stack("unchanged", 256, hnsw=False)
    pipeline = stack.pipeline()
    try:
        pipeline.run(documents=documents)
        taken = [seconds(lambda: pipeline.run(documents=documents)) for _ in range(bench.few_rounds)]
    finally:
        stack.close()
    return [one * n_files / len(documents) for one in taken]


@dataclass(frozen=True, slots=True)
class _Change:
    what: str
    most_embedded: int
    make: Callable[[str, int], None]


def edits(bench: Workbench) -> list[Line]:
    """Row 5."""
    folder = bench.path("changed")
    os.makedirs(folder)
    document = os.path.join(folder, "manual.md")
    write_text(document, _long_text(bench))
    for i, text in zip(range(_N_OTHERS), texts(), strict=False):
        write_text(os.path.join(folder, f"beside-{i}.txt"), text)
    n_chunks = _chunks_of(bench, folder, document)
    plain = _plain_edits(bench, document)
    lines = []
    for change in (
        _Change("one sentence edited", 2, _edit),
        _Change("a rename", 0, _rename),
        _Change("a new time and nothing else", 0, _touch),
    ):
        stored, total, embedded = [], [], []
        for i in range(bench.rounds):
            change.make(folder, i)
            with publishing_seconds() as published:
                taken, report = timed(lambda: bench.store.ingest(folder, collection=_COLLECTION))
            stored.append(sum(published) * 1_000)
            total.append(taken * 1_000)
            embedded.append(report.embedded)
        lines.append(_change_line(change, n_chunks, (stored, total, embedded), plain))
    return lines


def _change_line(
    change: _Change, n_chunks: int, measured: tuple[list[float], list[float], list[int]], plain: tuple[float, int]
) -> Line:
    stored, total, embedded = measured
    own, whole = series("ms", stored), series("ms", total)
    goals = (at_most("embeddings", max(embedded), change.most_embedded), at_most("ms", own.median, 50))
    note = f"{change.what}: time in the stores; the whole ingest, {_N_OTHERS} other files looked at, took {whole}"
    edited = change.make is _edit
    plain_note = f"the plain stack embedded {plain[1]} chunks for the edited sentence; ms without embedding them"
    return Line(
        5,
        f"{change.what} in a document of {n_chunks} chunks",
        own,
        series("ms", [plain[0]]) if edited else None,
        None,
        goals,
        (note, plain_note) if edited else (note,),
    )


def _long_text(bench: Workbench) -> str:
    """Real text that gives about 30 chunks."""
    wanted = _N_CHUNKS * bench.settings.chunk_size * 3
    text = ""
    for each in texts():
        text += f"{each}\n\n"
        if len(text) >= wanted:
            break
    return text[:wanted]


def _chunks_of(bench: Workbench, folder: str, document: str) -> int:
    bench.store.ingest(folder, collection=_COLLECTION)
    return next(d.n_nodes for d in bench.store.documents(_COLLECTION) if d.document_id == document)


def _manual(folder: str) -> str:
    return next(os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("manual"))


def _edit(folder: str, i: int) -> None:
    path = _manual(folder)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    middle = text.index(" ", len(text) // 2)
    write_text(path, f"{text[:middle]} This is edit number {i}.{text[middle:]}")


def _rename(folder: str, i: int) -> None:
    os.rename(_manual(folder), os.path.join(folder, f"manual-{i}.md"))


def _touch(folder: str, i: int) -> None:
    path = _manual(folder)
    later = os.stat(path).st_mtime_ns + (i + 1) * 1_000_000_000
    os.utime(path, ns=(later, later))


def _plain_edits(bench: Workbench, document: str) -> tuple[float, int]:
    """Milliseconds without the embedding, and chunks embedded, after a sentence is added to the document."""
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import Document, MetadataMode

    with open(document, encoding="utf-8") as file:
        text = file.read()
    edited = f"{text[: len(text) // 2]} This is an edit. {text[len(text) // 2 :]}"
    stack = bench.plain_stack("changed", 256, hnsw=False)
    settings, model = bench.settings, word_llama_embedding(bench.store)
    splitter = SentenceSplitter(chunk_size=settings.chunk_size, chunk_overlap=settings.chunk_overlap)
    pipeline = stack.pipeline(splitter, model)
    try:
        pipeline.run(documents=[Document(id_="manual", text=text)])
        chunks: list[str] = []
        taken = seconds(
            lambda: chunks.extend(
                node.get_content(MetadataMode.EMBED)
                for node in pipeline.run(documents=[Document(id_="manual", text=edited)])
            )
        )
        taken -= seconds(lambda: model.get_text_embedding_batch(chunks))
    finally:
        stack.close()
    return max(0.0, taken * 1_000), len(chunks)
