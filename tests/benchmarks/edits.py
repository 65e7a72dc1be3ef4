"""Row 5: running again where little changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.figures import Line, at_most, series
from tests.benchmarks.texts import texts, write_text
from tests.benchmarks.timing import seconds, timed
from tests.benchmarks.word_llama import word_llama_embedding

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

_N_CHUNKS = 30
_N_BESIDE = 20
_COLLECTION = "changed"
_PUBLISHING = "ragstore.protocol.publish"


@dataclass(frozen=True, slots=True)
class _Change:
    what: str
    most_embedded: int
    make: Callable[[str, int], None]


def measure(bench: Workbench) -> list[Line]:
    """Row 5."""
    folder = bench.path("changed")
    os.makedirs(folder)
    document = os.path.join(folder, "manual.md")
    write_text(document, _long_text(bench))
    for i, text in zip(range(_N_BESIDE), texts(), strict=False):
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
            with _publishing_seconds() as published:
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
    beside = f"{_N_BESIDE} other files"
    note = f"{change.what}: time in the stores; the whole ingest, {beside} looked at, took {whole}"
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


@contextmanager
def _publishing_seconds() -> Iterator[list[float]]:
    """What the protocol says about the time each run took in both stores."""
    logger, taken = logging.getLogger(_PUBLISHING), []

    class _Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields = getattr(record, "fields", {})
            if fields.get("action") == "publish":
                taken.append(float(fields["seconds"]))

    listener = _Listener()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield taken
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate


def _plain_edits(bench: Workbench, document: str) -> tuple[float, int]:
    """Milliseconds beside the embedding, and chunks embedded, when the document's middle gets a sentence more."""
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import Document, MetadataMode

    with open(document, encoding="utf-8") as file:
        text = file.read()
    edited = f"{text[: len(text) // 2]} This is an edit. {text[len(text) // 2 :]}"
    stack = bench.plain_stack("changed", 256, hnsw=False)
    settings, model = bench.settings, word_llama_embedding(bench.store)
    splitter = SentenceSplitter(chunk_size=settings.chunk_size, chunk_overlap=settings.chunk_overlap)
    pipeline = IngestionPipeline(
        transformations=[splitter, model],
        docstore=stack.docstore(),
        vector_store=stack.vectors,
        docstore_strategy=DocstoreStrategy.UPSERTS,
        disable_cache=True,
    )
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
