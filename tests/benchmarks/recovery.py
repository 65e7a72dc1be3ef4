"""Seconds that recovery takes after a worker was killed with everything staged, for a small and a large collection.

Each size has servers of its own. The same number of nodes is in flight each time. Recovered is what a new process finds
when it first writes: it is timed from its start, and from ``ragstore.open()`` on. Both sizes take turns, so that what
else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
from pymongo import MongoClient

import ragstore
from ragstore.app import Ragstore
from ragstore.embedded import remembered_urls
from ragstore.settings import Settings
from tests.benchmarks.datasets import index, publish
from tests.benchmarks.synthetic import Clusters
from tests.benchmarks.synthetic import Corpus as SyntheticCorpus
from tests.support.children import PYTHONPATH
from tests.support.embedded import a_home, remove
from tests.support.internals import writer_of

COLLECTION = "bench"
GRACE_S = 0
GOAL = 0.20
"""The large collection may take so much longer."""

DIM = 256
_AT_ONCE = 10_000


def fill(store: Ragstore, n_nodes: int) -> None:
    """A collection of that many nodes, with an index where it is due."""
    collection = store.create_collection(COLLECTION, model="wordllama")
    corpus = SyntheticCorpus("filled", Clusters(DIM))
    for begin in range(0, n_nodes, _AT_ONCE):
        publish(store, collection, corpus.revisions(min(_AT_ONCE, n_nodes - begin)))
    index(store)


# In processes of their own


def die(n_in_flight: int) -> None:
    """Stage a run and be killed before it is published."""
    with ragstore.open() as store:
        collection = store.create_collection(COLLECTION)
        in_flight = SyntheticCorpus("in-flight", Clusters(DIM))
        writer_of(store).publisher.publish(collection, in_flight.revisions(n_in_flight))


def recover(_: int) -> None:
    """Print the seconds until what died is recovered."""
    started = time.perf_counter()
    with ragstore.open() as store:
        writer_of(store)
        print(time.perf_counter() - started)


PROCESSES: dict[str, Callable[[int], None]] = {"die": die, "recover": recover}


def run(work: str, home: Path, n_in_flight: int, **options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.recovery", "--process", work, "--in-flight", str(n_in_flight)]
    own = {"RAGSTORE_HOME": str(home), "RAGSTORE_GRACE_S": str(GRACE_S), **options}
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAGSTORE_")} | own | PYTHONPATH
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=600)


# What is measured


class Corpus:
    """A collection on servers of its own."""

    def __init__(self, n_nodes: int) -> None:
        self.n_nodes = n_nodes
        self.home = a_home()
        self.since_start: list[float] = []
        self.since_open: list[float] = []
        with ragstore.open(Settings(home=self.home, grace_s=GRACE_S)) as store:
            fill(store, n_nodes)

    def recovered(self, n_in_flight: int) -> tuple[float, float]:
        """Seconds from the process's start, and from ``open()`` on."""
        died = run("die", self.home, n_in_flight, RAGSTORE_ENV="test", RAGSTORE_FAILPOINT="nodes_staged")
        assert died.returncode == -9, died.stderr
        assert self._state() == (1, 0, self.n_nodes + n_in_flight)
        started = time.perf_counter()
        done = run("recover", self.home, 0)
        since_start = time.perf_counter() - started
        assert done.returncode == 0, done.stderr
        assert self._state() == (0, 0, self.n_nodes), "not recovered"
        return since_start, float(done.stdout)

    def measure(self, n_in_flight: int) -> None:
        since_start, since_open = self.recovered(n_in_flight)
        self.since_start.append(since_start)
        self.since_open.append(since_open)

    def _state(self) -> tuple[int, int, int]:
        """Runs and outbox rows, and bodies in MongoDB."""
        urls = remembered_urls(self.home)
        assert urls is not None
        connection = psycopg2.connect(urls.postgres_url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT (SELECT count(*) FROM ragstore.run), (SELECT count(*) FROM ragstore.outbox)")
            n_runs, n_outbox = cursor.fetchone() or (0, 0)
        connection.close()
        with MongoClient[dict[str, Any]](urls.mongo_url) as client:
            n_bodies = client[Settings().mongo_database][f"{COLLECTION}/data"].count_documents({})
        return n_runs, n_outbox, n_bodies


def measure(sizes: list[int], rounds: int, n_in_flight: int) -> list[Corpus]:
    corpora: list[Corpus] = []
    try:
        for size in sizes:
            corpora.append(Corpus(size))
            # The first one reads programs and pages into memory.
            corpora[-1].recovered(n_in_flight)
        for _ in range(rounds):
            for corpus in corpora:
                corpus.measure(n_in_flight)
    finally:
        for corpus in corpora:
            remove(corpus.home)
    return corpora


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--in-flight", type=int, default=1_000, help="nodes staged and not published")
    parser.add_argument("--process", choices=sorted(PROCESSES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        PROCESSES[arguments.process](arguments.in_flight)
        return
    corpora = measure(arguments.sizes, arguments.rounds, arguments.in_flight)
    result: dict[str, Any] = {
        "dim": DIM,
        "in_flight": arguments.in_flight,
        "rounds": arguments.rounds,
        "goal": 1 + GOAL,
    }
    for name, seconds in (("since_open", "since_open"), ("since_start", "since_start")):
        medians = [statistics.median(getattr(corpus, seconds)) for corpus in corpora]
        for corpus, median in zip(corpora, medians, strict=True):
            values = getattr(corpus, seconds)
            print(
                f"{name:>12}, {corpus.n_nodes:>9,} nodes: median {median:.3f} s, "
                f"fastest {min(values):.3f} s, slowest {max(values):.3f} s"
            )
        ratio = medians[-1] / medians[0]
        print(f"{name:>12}, large / small: {ratio:.2f}; goal at most {1 + GOAL:.2f}: {_verdict(ratio)}")
        result[name] = {"medians": [round(median, 4) for median in medians], "ratio": round(ratio, 3)}
    print(json.dumps(result))


def _verdict(ratio: float) -> str:
    return "met" if ratio <= 1 + GOAL else "MISSED"


if __name__ == "__main__":
    main()
