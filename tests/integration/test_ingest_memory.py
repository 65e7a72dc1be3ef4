"""A large ingest in the memory of a small one."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.settings import Settings
from tests.support import children
from tests.support.corpus import a_sentence
from tests.support.parts import execute

N_CHUNKS = 50_000
N_FILES = 100
PEAK_MB = 400


def main() -> None:
    """Body of the child: ingest a folder, print the report and the most memory this process had."""
    with ragstore.open() as rs:
        report = rs.ingest(sys.argv[1], collection="docs").as_dict()
    # Not the resource usage that the system counts: it begins with what the process had that started this one.
    peak_kb = int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
    print(json.dumps({**report, "peak_mb": peak_kb / 1024}))


@pytest.mark.timeout(300)
def test_fifty_thousand_chunks_are_ingested_in_bounded_memory(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    chance = random.Random(1)
    sentences = [a_sentence(i) for i in range(5_000)]
    # Each paragraph fills a chunk, and its first sentence is like no other.
    for i in range(N_FILES):
        paragraphs = [
            " ".join([f"Number {i} {j} begins here.", *chance.choices(sentences, k=4)])
            for j in range(N_CHUNKS // N_FILES)
        ]
        (folder / f"{i}.txt").write_text("\n\n".join(paragraphs))
    env = children.environment(settings, chunk_size=96, chunk_overlap=0, index_min_nodes=1_000_000)
    report = children.result(children.start(__name__, str(folder), env=env), timeout_s=280)
    print(f"{report['chunks'] / report['seconds']:.0f} chunks/s, {report['peak_mb']:.0f} MB")
    assert report["chunks"] >= N_CHUNKS
    assert report["peak_mb"] < PEAK_MB
    assert execute(settings, "SELECT count(*) FROM ragstore.data_docs") == [(report["chunks"],)]
    assert mongo_database["docs/data"].estimated_document_count() == report["chunks"]


if __name__ == "__main__":
    main()
