"""Row 10: how fast verify compares, and that memory does not grow with the corpus."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ragstore.errors import StoreError
from ragstore.settings import masked_url
from tests.benchmarks.figures import Goal, Line, at_least, series
from tests.benchmarks.made_up import Clusters, Corpus
from tests.benchmarks.plain import llama_nodes
from tests.benchmarks.texts import write_pieces

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

_LAUNCHER = str(Path(__file__).parent / "peak_memory.py")
_MOST_GROWTH = 1.2
_TIMEOUT_S = 300
_DIM = 256


def measure(bench: Workbench) -> list[Line]:
    """Row 10."""
    bench.left_out.append("row 10, memory of a backup: that is pg_dump's and mongodump's")
    return [_speed(bench), _ingest(bench), _verify(bench), _import(bench)]


def _speed(bench: Workbench) -> Line:
    large, rates = bench.shared.large, []
    for _ in range(bench.rounds):
        report = bench.store.verify(large.collection.name)
        if not report.ok:
            raise StoreError(f"verify found drift: {report.drift.as_dict()}")
        rates.append(report.nodes / report.seconds)
    own = series("nodes/s", rates)
    goal = at_least("nodes/s", own.median, 100_000)
    return Line(10, f"verify of {large.n_nodes:,} nodes", own, goals=(goal,))


def _ingest(bench: Workbench) -> Line:
    peaks, sizes = [], bench.sizes.memory_files
    for n in sizes:
        folder = bench.path(f"memory-{n}")
        write_pieces(folder, n)
        peaks.append(_peak(bench, "ingest", folder, "-c", f"memory-{n}", "--quiet"))
    return _line("ingest", f"{sizes[0]:,} and {sizes[1]:,} files", peaks)


def _verify(bench: Workbench) -> Line:
    small, large = bench.shared.middle, bench.shared.large
    peaks = [_peak(bench, "verify", "-c", filled.collection.name, "--quiet") for filled in (small, large)]
    return _line("verify", f"{small.n_nodes:,} and {large.n_nodes:,} nodes", peaks)


def _import(bench: Workbench) -> Line:
    peaks, sizes = [], bench.sizes.memory_nodes
    for n in sizes:
        folder = bench.path(f"persisted-{n}")
        _persist(folder, n)
        peaks.append(_peak(bench, "import", folder, "-c", f"imported-{n}", "--quiet"))
    return _line("import", f"{sizes[0]:,} and {sizes[1]:,} nodes", peaks)


def _line(verb: str, sizes: str, peaks: list[float]) -> Line:
    few, many = peaks
    goal = Goal(f"≤ {_MOST_GROWTH:g} × at the smaller size", many / few, _MOST_GROWTH, at_least=False)
    note = f"{verb}: {few:.0f} and {many:.0f} MB at {sizes}; the largest of its processes"
    return Line(10, f"peak memory of {verb}", series("MB", [many]), goals=(goal,), notes=(note,))


def _persist(folder: str, n_nodes: int) -> None:
    """As plain LlamaIndex leaves it."""
    from llama_index.core import MockEmbedding, VectorStoreIndex

    nodes = llama_nodes(Corpus("persisted", Clusters(_DIM)).revisions(n_nodes))
    index = VectorStoreIndex(nodes=nodes, embed_model=MockEmbedding(embed_dim=_DIM))
    index.storage_context.persist(folder)


def _peak(bench: Workbench, *arguments: str) -> float:
    """MB that ``ragstore`` with these arguments took at most."""
    command = [sys.executable, "-P", _LAUNCHER, sys.executable, "-m", "ragstore", *arguments]
    process = subprocess.Popen(
        command,
        env=bench.environment,
        cwd=bench.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, said = process.communicate(timeout=_TIMEOUT_S)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    found = json.loads(printed or '{"status": 1}')
    if found["status"]:
        raise StoreError(f"ragstore {arguments[0]} ended with {found['status']}: {masked_url(said[-500:])}")
    return float(found["bytes"]) / 1e6
