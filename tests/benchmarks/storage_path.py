"""Nodes per second of the storage path with precomputed embeddings, against the raw limit in the same run.

The raw limit is what one can do by hand without any guarantee: encode the same rows and documents, one binary COPY
into a table without indexes, one ``insert_many``. ragstore writes the same with all guarantees on, into a table with
all its indexes but HNSW, which is built afterwards by both.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import numpy as np
import psycopg2
from pymongo.write_concern import WriteConcern

import ragstore
from ragstore.ingest.pipeline import STORED_AT_ONCE
from ragstore.model.collection import Collection
from ragstore.model.ids import new_node_id
from ragstore.model.node import Node
from ragstore.model.run import PlannedRevision
from ragstore.mongo.nodes import _body
from ragstore.postgres.copy import COLUMNS, HEADER, TRAILER, encode_rows
from ragstore.settings import Settings
from tests.support import servers

N_DOCUMENTS = 1_000
NODES_PER_DOCUMENT = 10
WORDS = (
    "storage context vector database index query worker recovery publish retire ledger lease outbox document chunk "
    "node revision run stage commit backup restore audit quarantine drift orphan verify repair embed model space"
).split()


def an_amount_of_revisions(dim: int, rng: np.random.Generator) -> list[PlannedRevision]:
    revisions = []
    for _ in range(N_DOCUMENTS):
        document_id = f"/documents/{uuid4()}.md"
        metadata = {"file_path": document_id, "file_name": "manual.md", "tenant": f"t{rng.integers(50)}"}
        nodes = [a_node(document_id, i, metadata, " ".join(rng.choice(WORDS, 30))) for i in range(NODES_PER_DOCUMENT)]
        vectors = rng.normal(size=(NODES_PER_DOCUMENT, dim)).astype(np.float32)
        revisions.append(PlannedRevision(document_id, document_id, 0, "added", nodes, vectors, content_hash="0" * 32))
    return revisions


def a_node(document_id: str, ordinal: int, metadata: dict[str, object], text: str) -> Node:
    node_id = new_node_id()
    content = {
        "id_": node_id,
        "embedding": None,
        "metadata": metadata,
        "excluded_embed_metadata_keys": [],
        "excluded_llm_metadata_keys": [],
        "relationships": {"1": {"node_id": document_id, "node_type": "4", "metadata": {}, "hash": None,
                                "class_name": "RelatedNodeInfo"}},
        "metadata_template": "{key}: {value}",
        "metadata_separator": "\n",
        "text": "",
        "mimetype": "text/plain",
        "start_char_idx": 0,
        "end_char_idx": len(text),
        "text_template": "{metadata_str}\n\n{content}",
        "class_name": "TextNode",
    }  # fmt: skip
    return Node(node_id, document_id, text, metadata, content, ordinal=ordinal, chunk_hash=uuid4().bytes)


def timed(work: Callable[[], None]) -> float:
    """Nodes per second."""
    started = time.perf_counter()
    work()
    return N_DOCUMENTS * NODES_PER_DOCUMENT / (time.perf_counter() - started)


def ours(store: ragstore.Ragstore, collection: Collection, revisions: list[PlannedRevision], at_once: int) -> None:
    writer = store._writer()
    runs = [revisions[i : i + at_once] for i in range(0, len(revisions), at_once)]
    with ThreadPoolExecutor(STORED_AT_ONCE) as storing:
        for result in storing.map(lambda run: writer.publisher.publish(collection, run), runs):
            assert not result.moved_on
    writer.recoverer.retire()


def raw(settings: Settings, store: ragstore.Ragstore, collection: Collection, revisions: list[PlannedRevision]) -> None:
    """Encode and write everything once, with no guarantee."""
    nodes = [node for revision in revisions for node in revision.nodes]
    target = store._writer().database.get_collection(f"raw/{uuid4()}", write_concern=WriteConcern(w="majority", j=True))
    target.insert_many([_body(node) for node in nodes], ordered=False)
    rows = encode_rows(nodes, np.concatenate([revision.vectors for revision in revisions]))
    with psycopg2.connect(settings.postgres_url.get_secret_value()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS raw")
        cursor.execute(f'CREATE TABLE raw (LIKE ragstore."{collection.table}" INCLUDING DEFAULTS)')
        stream = io.BytesIO(HEADER + rows + TRAILER)
        cursor.copy_expert(f"COPY raw ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)", stream)
    connection.close()


def measure(dim: int, rounds: int, at_once: int) -> dict[str, object]:
    rng = np.random.default_rng(1)
    found = servers.running()
    with (
        servers.migrated_template(found) as template,
        servers.cloned_database(found, template) as postgres_url,
        servers.fresh_mongo_database(found) as mongo,
    ):
        servers.migrate_mongo(postgres_url, mongo)
        settings = Settings(postgres_url=postgres_url, mongo_url=found.mongo_url, mongo_database=mongo.name, grace_s=0)
        rates: dict[str, list[float]] = {"ragstore": [], "raw": []}
        with ragstore.open(settings) as store:
            for i in range(rounds):
                collection = store.create_collection(f"bench{dim}-{i}", model="external", dim=dim)
                revisions = an_amount_of_revisions(dim, rng)
                rates["ragstore"].append(timed(lambda c=collection, r=revisions: ours(store, c, r, at_once)))
                revisions = an_amount_of_revisions(dim, rng)
                rates["raw"].append(timed(lambda c=collection, r=revisions: raw(settings, store, c, r)))
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    return {
        "dim": dim,
        **medians,
        "ratio": round(medians["ragstore"] / medians["raw"], 2),
        "all": {name: [round(v) for v in values] for name, values in rates.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents-per-run", type=int, default=100)
    arguments = parser.parse_args()
    servers.choose()
    try:
        results = [measure(dim, arguments.rounds, arguments.documents_per_run) for dim in (256, 1536)]
    finally:
        servers.stop()
    print(f"{N_DOCUMENTS * NODES_PER_DOCUMENT} nodes of {N_DOCUMENTS} documents, medians of {arguments.rounds} rounds,")
    print(f"Python {platform.python_version()}, {platform.machine()}")
    print(f"{'dim':>6} {'ragstore nodes/s':>18} {'raw nodes/s':>14} {'ratio':>7}")
    for result in results:
        print(f"{result['dim']:>6} {result['ragstore']:>18} {result['raw']:>14} {result['ratio']:>7}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
