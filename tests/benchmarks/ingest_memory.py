"""The most memory that an ingest of 50,000 chunks takes, on servers of its own; ends with 1 where it is above the goal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import ragstore
from tests.support.children import PYTHONPATH
from tests.support.corpus import write_paragraphs
from tests.support.embedded import a_home, remove

N_FILES, N_PARAGRAPHS = 100, 500
GOAL_MB = 400


def ingest(folder: str) -> None:
    """In a process of its own: ingest it, print the report and the most memory this process had."""
    with ragstore.open() as rs:
        report = rs.ingest(folder, collection="bench").as_dict()
    # Not the resource usage that the system counts: it begins with what the process had that started this one.
    peak_kb = int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
    print(json.dumps({**report, "peak_mb": peak_kb / 1024}))


def main() -> None:
    home = a_home()
    options = {"RAGSTORE_CHUNK_SIZE": "96", "RAGSTORE_CHUNK_OVERLAP": "0", "RAGSTORE_INDEX_MIN_NODES": "1000000"}
    env = {**os.environ, **PYTHONPATH, **options, "RAGSTORE_HOME": str(home)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_paragraphs(Path(folder), n_files=N_FILES, n_paragraphs=N_PARAGRAPHS)
            command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, folder]
            told = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    finally:
        remove(home)
    report = json.loads(told.splitlines()[-1])
    chunks_per_s = report["chunks"] / report["seconds"]
    print(f"{report['chunks']} chunks, {chunks_per_s:.0f} a second, {report['peak_mb']:.0f} MB of {GOAL_MB}")
    sys.exit(report["peak_mb"] > GOAL_MB)


if __name__ == "__main__":
    ingest(sys.argv[1]) if len(sys.argv) > 1 else main()
