"""A large ingest in the memory of a small one, by what Python allocates, which is the same on every machine."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from pymongo.database import Database

import ragstore
from ragstore.settings import Settings
from tests.support import children
from tests.support.corpus import write_paragraphs
from tests.support.parts import execute

SMALL, LARGE = 10, 40
"""Files of 200 chunks; even the small ones fill what may be on its way at once."""


def main() -> None:
    """Body of the child: ingest both folders, print how many chunks each had and the most memory it took."""
    small, large = sys.argv[1:]
    reports = []
    with ragstore.open() as rs:
        rs.ingest(str(next(Path(small).iterdir())), collection="docs")
        tracemalloc.start()
        for folder in (small, large):
            tracemalloc.reset_peak()
            chunks = rs.ingest(folder, collection="docs").chunks
            reports.append({"chunks": chunks, "peak": tracemalloc.get_traced_memory()[1]})
    print(json.dumps(reports))


def test_four_times_as_many_files_are_ingested_in_the_same_memory(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    for folder, n_files in (("small", SMALL), ("large", LARGE)):
        write_paragraphs(tmp_path / folder, n_files=n_files, n_paragraphs=200)
    env = children.environment(
        settings, chunk_size=96, chunk_overlap=0, index_min_nodes=1_000_000, batch_chunks=200, ingest_memory_mb=8
    )
    child = children.start(__name__, str(tmp_path / "small"), str(tmp_path / "large"), env=env)
    small, large = children.result(child, timeout_s=100)
    assert large["chunks"] >= 4 * small["chunks"] > 0
    assert large["peak"] < 1.5 * small["peak"]
    n_chunks = 200 + small["chunks"] + large["chunks"]
    assert execute(settings, "SELECT count(*) FROM ragstore.data_docs") == [(n_chunks,)]
    assert mongo_database["docs/data"].estimated_document_count() == n_chunks


if __name__ == "__main__":
    main()
