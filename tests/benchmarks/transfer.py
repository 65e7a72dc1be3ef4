"""A persist_dir of many nodes through import and export: time, memory, and whether the answers stay the same.

Plain LlamaIndex answers before and after; each step is a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import servers
from tests.support.children import PYTHONPATH

DIM = 256
NODES_PER_DOCUMENT = 10
N_QUESTIONS = 100
TOP_K = 10


def questions() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).normal(size=(N_QUESTIONS, DIM)).astype(np.float32)


def write(folder: str, n_nodes: int) -> dict[str, Any]:
    """As a program of plain LlamaIndex persists it."""
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(n_nodes, DIM)).astype(np.float32)
    nodes = [
        TextNode(
            id_=f"node-{i:07}",
            text=f"Chunk {i} of a manual. " + "It says what to do with the pump and the valve. " * 12,
            metadata={"file_path": f"/manuals/{i // NODES_PER_DOCUMENT}.md", "page": i % NODES_PER_DOCUMENT},
            embedding=vectors[i].tolist(),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"d{i // NODES_PER_DOCUMENT}", hash="h")},
        )
        for i in range(n_nodes)
    ]
    context = StorageContext.from_defaults()
    VectorStoreIndex(nodes, storage_context=context, embed_model=_no_model())
    for i in range(0, n_nodes, NODES_PER_DOCUMENT):
        context.docstore.set_document_hash(f"d{i // NODES_PER_DOCUMENT}", "h")
    context.persist(folder)
    return {"mb": sum(path.stat().st_size for path in Path(folder).iterdir()) // 1_000_000}


def ask_plain(folder: str, _: int) -> list[list[str]]:
    from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
    from llama_index.core.vector_stores.types import VectorStoreQuery

    index = load_index_from_storage(StorageContext.from_defaults(persist_dir=folder), embed_model=_no_model())
    assert isinstance(index, VectorStoreIndex)
    store = index.vector_store
    nodes = index.index_struct.nodes_dict
    return [
        [nodes[i] for i in store.query(VectorStoreQuery(query_embedding=q.tolist(), similarity_top_k=TOP_K)).ids or []]
        for q in questions()
    ]


def ask_ours(_: str, __: int) -> list[list[str]]:
    import ragstore

    with ragstore.open() as store:
        return [
            [hit.node_id for hit in store.query("", collection="bench", mode="vector", top_k=TOP_K, embedding=q)]
            for q in questions()
        ]


def bring_in(folder: str, _: int) -> dict[str, Any]:
    import ragstore

    with ragstore.open() as store:
        return store.import_(folder, collection="bench").as_dict()


def bring_out(folder: str, _: int) -> dict[str, Any]:
    import ragstore

    with ragstore.open() as store:
        return store.export(folder, collection="bench", overwrite=True).as_dict()


STEPS = {step.__name__: step for step in (write, ask_plain, ask_ours, bring_in, bring_out)}


def _no_model() -> Any:
    from llama_index.core.embeddings import MockEmbedding

    return MockEmbedding(embed_dim=DIM)


def run(step: str, folder: str, n_nodes: int, env: dict[str, str]) -> Any:
    begun = time.monotonic()
    command = [sys.executable, "-m", __spec__.name, "--step", step, "--folder", folder, "--nodes", str(n_nodes)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result, peak_mb = json.loads(done.stdout.splitlines()[-1])
    shown = result if isinstance(result, dict) else {}
    print(f"{step}: {time.monotonic() - begun:.1f} s, {peak_mb} MB {json.dumps(shown)}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.step:
        result = STEPS[arguments.step](arguments.folder, arguments.nodes)
        print(json.dumps([result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]))
        return
    print(f"{arguments.nodes} nodes of {DIM} dimensions, Python {platform.python_version()}, {platform.machine()}")
    servers.choose()
    folder = tempfile.mkdtemp(prefix="ragstore-transfer-")
    try:
        found = servers.running()
        with (
            servers.migrated_template(found) as template,
            servers.cloned_database(found, template) as postgres_url,
            servers.fresh_mongo_database(found) as mongo,
        ):
            servers.migrate_mongo(postgres_url, mongo)
            env = {
                **os.environ,
                **PYTHONPATH,
                "RAGSTORE_POSTGRES_URL": postgres_url,
                "RAGSTORE_MONGO_URL": found.mongo_url,
                "RAGSTORE_MONGO_DATABASE": mongo.name,
                # Exact, as SimpleVectorStore is.
                "RAGSTORE_INDEX_MIN_NODES": "1000000",
            }
            measure(folder, arguments.nodes, env)
    finally:
        shutil.rmtree(folder)
        servers.stop()


def measure(folder: str, n_nodes: int, env: dict[str, str]) -> None:
    before, after = f"{folder}/before", f"{folder}/after"
    run("write", before, n_nodes, env)
    expected = run("ask_plain", before, n_nodes, env)
    report = run("bring_in", before, n_nodes, env)
    assert (report["nodes"], report["embedded"], report["left_behind"]) == (n_nodes, 0, {})
    assert run("bring_in", before, n_nodes, env)["skipped"] == n_nodes
    ours = run("ask_ours", before, n_nodes, env)
    run("bring_out", after, n_nodes, env)
    plain = run("ask_plain", after, n_nodes, env)
    for name, found in (("ragstore", ours), ("exported", plain)):
        n_equal = sum(hits == wanted for hits, wanted in zip(found, expected, strict=True))
        n_same = sum(set(hits) == set(wanted) for hits, wanted in zip(found, expected, strict=True))
        print(f"{name}: {n_equal} of {N_QUESTIONS} answers equal, {n_same} with the same {TOP_K} nodes")


if __name__ == "__main__":
    main()
