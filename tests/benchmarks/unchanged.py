"""Row 4: running again where nothing changed."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from ragstore.errors import StoreError
from tests.benchmarks.figures import Goal, Line, number, series, times_faster
from tests.benchmarks.timing import in_turn, seconds, timed

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench


def measure(bench: Workbench) -> list[Line]:
    """Row 4."""
    folder, n_files = bench.shared.pieces
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
    n_plain = min(n_files, bench.sizes.plain_files)
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
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.schema import Document

    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    documents = []
    for path in sorted(paths)[: bench.sizes.plain_files]:
        with open(path, encoding="utf-8") as file:
            documents.append(Document(id_=path, text=file.read()))
    stack = bench.plain_stack("unchanged", 256, hnsw=False)
    pipeline = IngestionPipeline(
        transformations=[],
        docstore=stack.docstore(),
        vector_store=stack.vectors,  # without it the strategy would be another one
        docstore_strategy=DocstoreStrategy.UPSERTS,
        disable_cache=True,
    )
    try:
        pipeline.run(documents=documents)
        taken = [seconds(lambda: pipeline.run(documents=documents)) for _ in range(bench.few_rounds)]
    finally:
        stack.close()
    return [one * n_files / len(documents) for one in taken]
