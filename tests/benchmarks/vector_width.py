"""What half-precision vectors save and what they cost: size, COPY, HNSW build, query and recall, for three layouts.

``full``: vectors of float32 and an index of them; ``ranked``: vectors of float32, an index of float16, whose candidates
are ranked again by the vectors; ``half``: both of float16. Recall is that of the ten nearest, against an exact search by
float32. The layouts are measured in turn, on the same server and rows; figures are medians. ``cpu`` is the time that
PostgreSQL computed, in one process, which other programs on the machine disturb less than what a clock on the wall says.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
from numpy.typing import NDArray

from ragstore.bench.made_up import N_CLUSTERS, Clusters
from ragstore.embedding import ModelOptions, load
from tests.support import servers

K = 10
N_QUESTIONS = 300
NEAR = {"full": [K + 10], "ranked": [K + 10, 2 * K + 20], "half": [K + 10]}
"""Layouts, and how many candidates are taken from the index; those beyond ten may be nearer than they seem."""
LAYOUTS = list(NEAR)
_TEXT = b"a text about as long as chunks are, which is some hundred bytes in most of the collections " * 4
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0), struct.pack(">h", -1)

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """Vectors of shape ``(n_nodes, dim)`` and ``(n_questions, dim)``, of unit length."""

    name: str
    stored: Vectors
    asked: Vectors

    @property
    def dim(self) -> int:
        return int(self.stored.shape[1])


def made_up(dim: int, n_nodes: int) -> Corpus:
    rng = np.random.default_rng(5)
    vectors = Clusters(dim).draw(rng, rng.integers(N_CLUSTERS, size=n_nodes + N_QUESTIONS))
    return Corpus("made up", vectors[:n_nodes], vectors[n_nodes:])


def real(n_nodes: int, folders: list[Path]) -> Corpus:
    """Paragraphs of the documentation and the programs that this machine has; some of them are the questions."""
    texts = list(itertools.islice(_paragraphs(folders), 3 * n_nodes))
    np.random.default_rng(5).shuffle(texts)
    kept = texts[: n_nodes + N_QUESTIONS]
    vectors = load("wordllama", ModelOptions()).embed_documents(kept).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Corpus("real text", vectors[N_QUESTIONS:], vectors[:N_QUESTIONS])


def turned(corpus: Corpus, dim: int) -> Corpus:
    """The same neighbourhoods in more dimensions: a turn changes no cosine, but all the digits."""
    axes, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(dim, corpus.dim)))
    onto = axes.T.astype(np.float32)
    return Corpus(corpus.name, corpus.stored @ onto, corpus.asked @ onto)


def _paragraphs(folders: list[Path]) -> Iterator[str]:
    seen: set[str] = set()
    for folder in folders:
        for path in sorted(p for ending in ("*.md", "*.rst", "*.txt", "*.py") for p in folder.rglob(ending)):
            for paragraph in path.read_text("utf-8", "replace").split("\n\n"):
                text = paragraph.strip()[:1_000]
                if len(text) >= 120 and text not in seen:
                    seen.add(text)
                    yield text


@dataclass(frozen=True)
class Took:
    """How long something took by the clock, and how long PostgreSQL computed for it."""

    wall_s: float
    cpu_s: float


class Bench:
    """One corpus in three layouts; those that share a table share its figures."""

    def __init__(self, connection: Any, corpus: Corpus, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._cursor = connection.cursor()
        self._corpus = corpus
        self._exact = exact(corpus)
        self._cpu = Path(f"/proc/{connection.info.backend_pid}/schedstat")

    def measure(self, layout: str) -> dict[str, float]:
        """Load, build, ask; everything is gone afterwards."""
        column = "halfvec" if layout == "half" else "vector"
        self._run("DROP TABLE IF EXISTS width")
        self._run(f"CREATE TABLE width (id bigint, text text, embedding {column}({self._corpus.dim}) NOT NULL)")
        rows = self._rows(np.dtype(">f2" if column == "halfvec" else ">f4"))
        copy = "COPY width (id, text, embedding) FROM STDIN (FORMAT binary)"
        copied = self._timed(lambda: self._cursor.copy_expert(copy, io.BytesIO(rows)))
        self._run("ALTER TABLE width ADD PRIMARY KEY (id)")
        self._run("VACUUM (ANALYZE) width")
        indexed = "embedding" if layout != "ranked" else f"(l2_normalize(embedding)::halfvec({self._corpus.dim}))"
        operators = "vector_cosine_ops" if layout == "full" else "halfvec_cosine_ops"
        self._run(f"SET maintenance_work_mem = '{self._memory_mb}MB'")
        self._run("SET max_parallel_maintenance_workers = 0")
        index = f"CREATE INDEX width_hnsw ON width USING hnsw ({indexed} {operators})"
        built = self._timed(lambda: self._run(index))
        figures = {
            "table_mb": self._size("pg_table_size('width')"),
            "index_mb": self._size("pg_relation_size('width_hnsw')"),
            "copy_s": copied.wall_s,
            "copy_cpu_s": copied.cpu_s,
            "build_s": built.wall_s,
            "build_cpu_s": built.cpu_s,
        }
        for n_near in NEAR[layout]:
            figures |= {f"{key}_of_{n_near}": value for key, value in self._ask(layout, indexed, n_near).items()}
        return figures

    def _rows(self, kind: np.dtype[Any]) -> bytes:
        stored = self._corpus.stored.astype(kind)
        width, n_bytes = stored.itemsize * self._corpus.dim, stored.tobytes()
        head = struct.pack(">ihh", 4 + width, self._corpus.dim, 0)
        text = struct.pack(">i", len(_TEXT)) + _TEXT
        rows = [
            b"".join((struct.pack(">hiq", 3, 8, i), text, head, n_bytes[i * width : (i + 1) * width]))
            for i in range(len(stored))
        ]
        return b"".join((_HEADER, *rows, _TRAILER))

    def _ask(self, layout: str, indexed: str, n_near: int) -> dict[str, float]:
        """Times, and the share of the exact answers that were found; as ragstore's own statement asks."""
        asked_as = "vector" if layout == "full" else f"halfvec({self._corpus.dim})"
        distance = "embedding <=> %(asked)s::vector" if layout == "ranked" else "index_distance"
        statement = (
            f"SET LOCAL jit = off; SET LOCAL enable_sort = off; SET LOCAL hnsw.ef_search = {max(2 * n_near, 100)}; "
            f"SELECT id FROM (SELECT id, {distance} AS distance FROM (SELECT id, embedding, {indexed} <=> "
            f"%(asked)s::{asked_as} AS index_distance FROM width ORDER BY index_distance LIMIT {n_near}) AS near) AS far "
            f"ORDER BY distance, id LIMIT {K}"
        )
        seconds, cpu_s, found = [], 0.0, 0
        for vector, nearest in zip(self._corpus.asked, self._exact, strict=True):
            asked = json.dumps(vector.tolist())
            took = self._timed(lambda: self._cursor.execute(statement, {"asked": asked}))  # noqa: B023
            seconds.append(took.wall_s)
            cpu_s += took.cpu_s
            found += len(nearest.intersection(row[0] for row in self._cursor.fetchall()))
        n = len(seconds)
        return {"p50_ms": 1e3 * statistics.median(seconds), "cpu_ms": 1e3 * cpu_s / n, "recall": found / (K * n)}

    def _timed(self, work: Callable[[], object]) -> Took:
        before, begun = self._cpu_ns(), time.perf_counter()
        work()
        return Took(time.perf_counter() - begun, (self._cpu_ns() - before) / 1e9)

    def _cpu_ns(self) -> int:
        return int(self._cpu.read_text().split()[0])

    def _size(self, expression: str) -> float:
        self._cursor.execute(f"SELECT {expression}")
        return float(self._cursor.fetchone()[0]) / 2**20

    def _run(self, statement: str) -> None:
        self._cursor.execute(statement)


def exact(corpus: Corpus) -> list[set[int]]:
    """The nearest of each question by float32."""
    similarity = corpus.asked @ corpus.stored.T
    return [{int(i) for i in row} for row in np.argpartition(-similarity, K, axis=1)[:, :K]]


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(each[key] for each in rounds), 4) for key in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--made-up", type=int, nargs="*", default=[256, 1_536], metavar="DIM")
    parser.add_argument("--real", type=int, nargs="*", default=[256, 384, 768, 1_024, 1_536, 2_000], metavar="DIM")
    parser.add_argument(
        "--memory-mb", type=int, default=512, help="of a build, after which it writes each node to disk"
    )
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--text", type=Path, nargs="+", default=[Path("/usr/share/doc"), Path(sys.prefix) / "lib"])
    arguments = parser.parse_args()
    servers.choose()
    try:
        found = servers.running()
        with servers.migrated_template(found) as template, servers.cloned_database(found, template) as url:
            print(
                f"{arguments.nodes:,} nodes, medians of {arguments.rounds} rounds, Python {platform.python_version()}"
            )
            for corpus in _corpora(arguments):
                _report(url, corpus, arguments)
    finally:
        servers.stop()


def _corpora(arguments: argparse.Namespace) -> Iterator[Corpus]:
    if arguments.real:
        words = real(arguments.nodes, arguments.text)
        for dim in arguments.real:
            yield words if dim == words.dim else turned(words, dim)
    for dim in arguments.made_up:
        yield made_up(dim, arguments.nodes)


def _report(url: str, corpus: Corpus, arguments: argparse.Namespace) -> None:
    layouts: Sequence[str] = arguments.layouts
    connection = psycopg2.connect(url)
    connection.autocommit = True
    bench, measured = Bench(connection, corpus, arguments.memory_mb), {layout: [] for layout in layouts}
    for _ in range(arguments.rounds):
        for layout in layouts:
            measured[layout].append(bench.measure(layout))
    for layout in layouts:
        figures = {"corpus": corpus.name, "dim": corpus.dim, "nodes": len(corpus.stored), "layout": layout}
        print(json.dumps(figures | medians(measured[layout])), flush=True)
    connection.close()


if __name__ == "__main__":
    main()
