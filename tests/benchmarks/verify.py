"""Nodes per second that verify compares, and the memory it takes, on a collection of realistic nodes."""

from __future__ import annotations

import argparse
import json
import platform
import resource

import numpy as np

import ragstore
from ragstore.settings import Settings
from tests.benchmarks import storage_path
from tests.benchmarks.storage_path import N_DOCUMENTS, NODES_PER_DOCUMENT, an_amount_of_revisions
from tests.support import servers

DIM = 256


def fill(store: ragstore.Ragstore, n_nodes: int) -> None:
    collection = store.create_collection("bench", model="external", dim=DIM)
    rng = np.random.default_rng(1)
    for _ in range(0, n_nodes, N_DOCUMENTS * NODES_PER_DOCUMENT):
        storage_path.ours(store, collection, an_amount_of_revisions(DIM, rng), 100)


def measure(store: ragstore.Ragstore, rounds: int, *, deep: bool) -> dict[str, object]:
    rates, n_nodes = [], 0
    for _ in range(rounds):
        report = store.verify(deep=deep)
        assert report.ok, report.drift.as_dict()
        n_nodes = report.nodes
        rates.append(round(report.nodes / report.seconds))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"deep": deep, "nodes": n_nodes, "best": max(rates), "median": sorted(rates)[len(rates) // 2], "mb": peak_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
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
                fill(store, arguments.nodes)
            # A process that did not fill: its memory is that of verify alone.
            with ragstore.open(settings) as store:
                results = [measure(store, arguments.rounds, deep=deep) for deep in (False, True)]
    finally:
        servers.stop()
    print(f"{arguments.nodes} nodes of {DIM} dimensions, Python {platform.python_version()}, {platform.machine()}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
