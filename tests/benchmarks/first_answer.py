"""Seconds from the start of a cold ``ragstore query`` process to its answer, for a small and a large collection.

Nodes are made, not read: random vectors published by the protocol, so that the large collection has its HNSW index.
Runs of both sizes take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import ragstore
from ragstore.app import Ragstore
from ragstore.model.run import PlannedRevision
from ragstore.postgres import vectors
from ragstore.settings import Settings
from tests.benchmarks.storage_path import a_node
from tests.support.embedded import a_home, remove

DIM = 256
NODES_PER_DOCUMENT = 10
DOCUMENTS_PER_RUN = 100
WORDS_PER_NODE = 60
N_WORDS = 20_000
GOAL = 0.20
"""The large collection may take so much longer."""


class Vocabulary:
    """Made-up words, as frequent as those of a language: the n-th is used 1/n as often as the first."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
        words = {"".join(rng.choice(syllables, 4)) for _ in range(2 * N_WORDS)}
        self._words = np.array(sorted(words)[:N_WORDS])
        rng.shuffle(self._words)
        frequencies = 1 / np.arange(1, N_WORDS + 1)
        self._share = np.cumsum(frequencies / frequencies.sum())

    def text(self, rng: np.random.Generator, n_words: int) -> str:
        return " ".join(self._words[np.searchsorted(self._share, rng.random(n_words))])

    @property
    def question(self) -> str:
        """Common and rare words, as a person uses them."""
        return " ".join(self._words[[20, 60, 200, 800, 3_000]])


VOCABULARY = Vocabulary()


def fill(store: Ragstore, name: str, n_nodes: int) -> None:
    """A collection of that many nodes, as an ingest leaves it: with statistics, and with an index where it is due."""
    rng = np.random.default_rng(n_nodes)
    collection = store.create_collection(name, model="wordllama")
    writer = store._writer()
    n_documents = n_nodes // NODES_PER_DOCUMENT
    for first in range(0, n_documents, DOCUMENTS_PER_RUN):
        batch = range(first, min(first + DOCUMENTS_PER_RUN, n_documents))
        result = writer.publisher.publish(collection, [a_revision(number, rng) for number in batch])
        assert not result.moved_on
    writer.recoverer.retire()
    vectors.refresh_statistics(store._pool, collection)
    vectors.ensure_index(store._pool, collection, min_nodes=store.settings.index_min_nodes)


def a_revision(number: int, rng: np.random.Generator) -> PlannedRevision:
    document_id = f"/documents/{number}.md"
    metadata = {"file_path": document_id, "file_name": f"{number}.md"}
    texts = [VOCABULARY.text(rng, WORDS_PER_NODE) for _ in range(NODES_PER_DOCUMENT)]
    nodes = [a_node(document_id, ordinal, metadata, text) for ordinal, text in enumerate(texts)]
    embeddings = rng.normal(size=(NODES_PER_DOCUMENT, DIM)).astype(np.float32)
    return PlannedRevision(document_id, document_id, 0, "added", nodes, embeddings, content_hash="0" * 32)


def seconds_to_answer(home: Path, name: str) -> float:
    command = [sys.executable, "-m", "ragstore", "query", VOCABULARY.question, "-c", name, "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=home, env={"RAGSTORE_HOME": str(home)}
    )
    seconds = time.perf_counter() - started
    assert len(json.loads(done.stdout)["hits"]) == 10
    return seconds


def measure(sizes: list[int], rounds: int) -> dict[int, list[float]]:
    home = a_home()
    try:
        with ragstore.open(Settings(home=home, grace_s=0)) as store:
            for size in sizes:
                fill(store, f"nodes-{size}", size)
            states = {each.name: (each.nodes, each.index_state) for each in store.collections()}
        print(", ".join(f"{name}: {nodes} nodes, index {index}" for name, (nodes, index) in states.items()))
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for size in sizes:  # the first one reads programs and pages into memory
            seconds_to_answer(home, f"nodes-{size}")
        for _ in range(rounds):
            for size in sizes:
                seconds[size].append(seconds_to_answer(home, f"nodes-{size}"))
        return seconds
    finally:
        remove(home)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 50_000])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    seconds = measure(arguments.sizes, arguments.rounds)
    for size, values in seconds.items():
        print(
            f"{size:>9,} nodes: median {statistics.median(values):.3f} s, "
            f"fastest {min(values):.3f} s, slowest {max(values):.3f} s"
        )
    small, large = (statistics.median(seconds[size]) for size in (arguments.sizes[0], arguments.sizes[-1]))
    print(
        f"large / small: {large / small:.2f}; goal at most {1 + GOAL:.2f}: {'met' if large <= small * (1 + GOAL) else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
