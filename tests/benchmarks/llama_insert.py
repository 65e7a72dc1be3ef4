"""What ``index.insert`` and ``load_index_from_storage`` cost in a small collection and in a large one, with its HNSW index.

The two are measured in turn, so that what else the machine does hits both. Embedding is not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llama_index.core import Document, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser import SentenceSplitter

import ragstore
import ragstore.llama  # now, not in the first measurement
from ragstore.settings import Settings
from tests.benchmarks.datasets import index, publish
from tests.benchmarks.synthetic import Clusters, Corpus
from tests.support import servers

DIM = 256
_AT_ONCE = 10_000


class RandomEmbedding(BaseEmbedding):
    """Vectors like those that the collections hold."""

    def _get_text_embedding(self, text: str) -> list[float]:
        rng = np.random.default_rng(len(text))
        values: list[float] = rng.normal(size=DIM).tolist()
        return values

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def fill(store: ragstore.Ragstore, name: str, n_nodes: int) -> None:
    collection = store.create_collection(name, model="external", dim=DIM)
    corpus = Corpus(name, Clusters(DIM))
    for begin in range(0, n_nodes, _AT_ONCE):
        publish(store, collection, corpus.revisions(min(_AT_ONCE, n_nodes - begin)))
    index(store)


def load(store: ragstore.Ragstore, name: str) -> VectorStoreIndex:
    index = load_index_from_storage(
        store.storage_context(name), embed_model=RandomEmbedding(), transformations=[SentenceSplitter()]
    )
    assert isinstance(index, VectorStoreIndex)
    return index


def timed_ms(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1_000


def measure(store: ragstore.Ragstore, names: list[str], rounds: int) -> dict[str, dict[str, object]]:
    inserts: dict[str, list[float]] = {name: [] for name in names}
    loads: dict[str, list[float]] = {name: [] for name in names}
    indexes = {name: load(store, name) for name in names}
    for i in range(rounds):
        for name in names if i % 2 else reversed(names):
            document = Document(id_=f"new-{i}", text=f"Inserted as number {i}. " + "x" * i)
            inserts[name].append(timed_ms(lambda: indexes[name].insert(document)))  # noqa: B023 - called at once
            loads[name].append(timed_ms(lambda: load(store, name)))  # noqa: B023
    return {
        name: {
            "insert_ms": round(statistics.median(inserts[name]), 2),
            "load_ms": round(statistics.median(loads[name]), 2),
        }
        for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    servers.choose()
    try:
        found = servers.running()
        with (
            servers.migrated_template(found) as template,
            servers.cloned_database(found, template) as postgres_url,
            servers.fresh_mongo_database(found) as mongo,
        ):
            servers.migrate_mongo(postgres_url, mongo)
            settings = Settings(
                postgres_url=postgres_url, mongo_url=found.mongo_url, mongo_database=mongo.name, grace_s=0
            )
            with ragstore.open(settings) as store:
                fill(store, "small", arguments.small)
                fill(store, "large", arguments.large)
            # A process that did not fill.
            with ragstore.open(settings) as store:
                measure(store, ["small", "large"], 10)
                results = measure(store, ["small", "large"], arguments.rounds)
    finally:
        servers.stop()
    ratios = {
        what: round(float(str(results["large"][what])) / float(str(results["small"][what])), 2)
        for what in ("insert_ms", "load_ms")
    }
    sizes = f"{arguments.small} and {arguments.large} nodes of {DIM} dimensions"
    print(f"{sizes}, Python {platform.python_version()}, {platform.machine()}")
    print(json.dumps(results | {"ratio": ratios}))


if __name__ == "__main__":
    main()
