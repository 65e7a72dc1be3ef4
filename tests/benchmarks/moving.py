"""Time of questions while a collection is loaded at full rate, in every tenth of the load, and after much was deleted.

``python -m tests.benchmarks.moving --nodes 1000000 --json moving.json --picture moving.svg``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

from ragstore.model.run import Vectors
from ragstore.postgres.collections import get_collection
from ragstore.settings import Settings
from tests.benchmarks.datasets import index, publish
from tests.benchmarks.measurements import percentile
from tests.benchmarks.mixtures import compared, exact
from tests.benchmarks.scale import FULL
from tests.benchmarks.synthetic import Clusters, Corpus
from tests.benchmarks.workbench import Workbench, opened_workbench
from tests.support.internals import pool_of, writer_of

NAME = "moving"
DIM = 256
N_QUESTIONS = 200
PAUSE_S = 0.05
AT_ONCE = 5_000
REST_S = 20.0


@dataclass
class Phase:
    """A tenth of the load, or what came after it.

    Args:
        asked: seconds since the begin, and milliseconds, of each question.
        builds: seconds since the begin at which merges were under way.
    """

    name: str
    begun_s: float
    ended_s: float = 0.0
    nodes: int = 0
    asked: list[tuple[float, float]] = field(default_factory=list)

    def line(self) -> dict[str, object]:
        """For people and as JSON."""
        took = [ms for _, ms in self.asked]
        rate = self.nodes / (self.ended_s - self.begun_s) if self.nodes else 0
        return {
            "phase": self.name,
            "seconds": round(self.ended_s - self.begun_s, 1),
            "nodes_per_s": round(rate),
            "asked": len(took),
            **{f"p{p}_ms": round(percentile(took, p), 1) for p in (50, 95) if took},
            "max_ms": round(max(took), 1) if took else None,
        }


class Reader:
    """A process that asks all the time, and what it measured."""

    def __init__(self, bench: Workbench) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.moving", "--reader"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=bench.environment)
        self.asked: list[tuple[float, float]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            at, ms = line.split()
            self.asked.append((float(at), float(ms)))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


class Builds:
    """When processes that merge were there, and how much memory the largest had."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.peak_mb = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(0.25):
            for process in psutil.process_iter(["cmdline", "memory_info"]):
                if "ragstore.protocol.merge_child" in (process.info["cmdline"] or ()):
                    self.at.append(time.time())
                    self.peak_mb = max(self.peak_mb, process.info["memory_info"].rss / 2**20)

    def close(self) -> None:
        """Look no more."""
        self._ended.set()


def read_for_ever() -> None:
    """The reader process: time and milliseconds of each question, a line each."""
    import ragstore

    questions = made_questions()
    with ragstore.open() as rs:
        while True:
            for question in questions:
                begun = time.perf_counter()
                rs.query("made-up", collection=NAME, top_k=10, mode="vector", embedding=question.tolist())
                print(time.time(), (time.perf_counter() - begun) * 1_000, flush=True)
                time.sleep(PAUSE_S)


def made_questions() -> Vectors:
    """Vectors like those of the nodes."""
    rng = np.random.default_rng(4)
    return Clusters(DIM).draw(rng, rng.integers(200, size=N_QUESTIONS))


def main() -> None:
    """Load in tenths, rest, delete, keep up, and say how long questions took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--json")
    parser.add_argument("--picture")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        read_for_ever()
    with opened_workbench(Settings(), FULL, 1, print) as bench:
        found = measured(bench, given.nodes)
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1), encoding="utf-8")
    if given.picture:
        draw(found, given.picture)


def measured(bench: Workbench, n_nodes: int) -> dict[str, object]:
    """All phases."""
    collection = bench.store.create_collection(NAME, model="external", dim=DIM)
    corpus = Corpus(NAME, Clusters(DIM), keeps=True)
    publish(bench.store, collection, corpus.revisions(AT_ONCE))
    reader, builds, begun = Reader(bench), Builds(), time.time()
    phases: list[Phase] = []

    def phase(name: str, work: object, nodes: int = 0) -> None:
        this = Phase(name, time.time(), nodes=nodes)
        work()  # type: ignore[operator]
        this.ended_s = time.time()
        this.asked = [each for each in reader.asked if this.begun_s <= each[0] <= this.ended_s]
        phases.append(this)
        segments = get_collection(pool_of(bench.store), NAME).segments
        print(this.line(), [(s.n_nodes, s.n_cells) for s in segments], flush=True)

    def load(n: int) -> None:
        indexer = writer_of(bench.store).indexer
        for _ in range(n // AT_ONCE):
            publish(bench.store, collection, corpus.revisions(AT_ONCE))
            indexer.added(collection, AT_ONCE, in_bulk=True)

    for tenth in range(1, 11):
        phase(f"tenth {tenth}", lambda: load(n_nodes // 10), nodes=n_nodes // 10)
    phase("merging at rest", lambda: index(bench.store))
    phase("at rest", lambda: time.sleep(REST_S))
    recall = [recall_of(bench, corpus, alive=slice(None))]
    n_deleted = len(corpus.node_ids) * 3 // 10 // 10
    phase("deleting 30 %", lambda: bench.store.delete(*documents(n_deleted), collection=NAME))
    phase("after it", lambda: time.sleep(REST_S))
    recall.append(recall_of(bench, corpus, alive=slice(n_deleted * 10, None)))
    phase("merging after it", lambda: index(bench.store))
    phase("at rest again", lambda: time.sleep(REST_S))
    recall.append(recall_of(bench, corpus, alive=slice(n_deleted * 10, None)))
    reader.close()
    builds.close()
    print("recall at rest, after deleting, after merging:", recall, "peak of a merge:", round(builds.peak_mb), "MB")
    return {
        "nodes": n_nodes,
        "begun_s": begun,
        "phases": [phase.line() | asdict(phase) for phase in phases],
        "builds_at": builds.at,
        "build_peak_mb": builds.peak_mb,
        "recall": recall,
    }


def documents(n: int) -> list[str]:
    """The first documents of the load."""
    return [f"/{NAME}/{i:07}.md" for i in range(n)]


def recall_of(bench: Workbench, corpus: Corpus, *, alive: slice) -> float:
    """Of the questions, against exact comparison with the nodes that are alive."""
    questions = made_questions()
    tenth = exact(questions, np.concatenate(corpus.kept_vectors)[alive])
    return float(compared(bench, get_collection(pool_of(bench.store), NAME), questions, tenth)["recall"])  # type: ignore[arg-type]


def draw(found: dict[str, object], path: str) -> None:
    """Milliseconds against time, merges marked."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 4.5))
    begun, phases = found["begun_s"], found["phases"]
    for phase in phases:  # type: ignore[attr-defined]
        axes.axvline(phase["begun_s"] - begun, color="lightgrey", linewidth=0.8)
        axes.text(phase["begun_s"] - begun, 0.98, phase["name"], rotation=90, fontsize=6, va="top",
                  transform=axes.get_xaxis_transform())  # fmt: skip
        axes.plot([at - begun for at, _ in phase["asked"]], [ms for _, ms in phase["asked"]], ".", markersize=2)
    axes.plot([at - begun for at in found["builds_at"]], [0.3] * len(found["builds_at"]), "|", color="black")  # type: ignore[attr-defined,arg-type]
    axes.set(xlabel="seconds (black marks: a merge is under way)", ylabel="milliseconds of a question", yscale="log")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
