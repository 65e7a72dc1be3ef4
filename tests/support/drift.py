"""A small collection in both databases, and what somebody could do to it with plain SQL and pymongo."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from llama_index.core.schema import TextNode
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.model.drift import RepairReport, VerifyReport
from ragstore.settings import Settings
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.oracle import Oracle, State
from tests.support.parts import execute, postgres_url

COLLECTION = "docs"
SMALL: dict[str, Any] = {"chunk_size": 32, "chunk_overlap": 0}
MUCH_WRITTEN = "SELECT 1 FROM ragstore.event HAVING count(*) > 40"


@dataclass
class Scene:
    """An ingested folder, its databases, and the independent judge of both."""

    rs: Ragstore
    settings: Settings
    mongo: Database[dict[str, Any]]
    oracle: Oracle
    folder: Path
    state: State

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return execute(self.settings, statement, parameters)

    def node_ids(self, document: str | None = None) -> list[str]:
        rows = self.sql("SELECT node_id, document_id FROM ragstore.data_docs ORDER BY document_id, ordinal")
        return [row[0] for row in rows if document is None or row[1] == self.id_of(document)]

    def id_of(self, name: str) -> str:
        return str(self.folder / name)

    def data(self) -> Any:
        return self.mongo[f"{COLLECTION}/data"]

    def entries(self, kind: str) -> Any:
        return self.mongo[f"{COLLECTION}/{kind}"]

    def hits(self) -> list[list[tuple[str, float]]]:
        """Answers to one question per document: texts and scores."""
        return [
            [
                (hit.text, round(hit.score, 5))
                for hit in self.rs.query(text[:120], collection=COLLECTION, top_k=10, mode="vector")
            ]
            for text in self.state.values()
        ]

    def contents(self) -> tuple[Any, ...]:
        """Everything that both databases hold, but for the audit trail."""
        tables = ("ragstore.document", "ragstore.collection", "ragstore.outbox", "ragstore.event", "ragstore.body")
        rows = [self.sql(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]
        if self.sql("SELECT to_regclass('ragstore.data_docs')") != [(None,)]:
            rows.append(self.sql("SELECT t::text FROM ragstore.data_docs t ORDER BY 1"))
        names = sorted(self.mongo.list_collection_names())
        return rows, {name: list(self.mongo[name].find().sort("_id")) for name in names}

    def verify(self) -> VerifyReport:
        """Deep, and of the shallow kind too, which must not see less of what it counts."""
        deep, quick = self.rs.verify(deep=True), self.rs.verify()
        assert quick.drift.total <= deep.drift.total
        assert quick.ok or not deep.ok
        return deep

    def assert_ok(self) -> None:
        """Verify, and the judge that does not use it, find nothing."""
        report = self.verify()
        assert report.ok, report.drift.as_dict()
        self.oracle.assert_settled(self.state)

    def repair(self) -> RepairReport:
        """Repair that says beforehand what it will do and then does it; once done there is nothing more to do."""
        before = self.contents()
        planned = self.rs.repair(dry_run=True)
        assert self.contents() == before, "a dry run changed something"
        report = self.rs.repair()
        assert bool(planned.repaired.counts) == bool(report.repaired.counts)
        assert self.rs.repair().repaired.counts == {}, "repair is not done after it is done"
        return report


@contextmanager
def a_scene(
    settings: Settings, mongo: Database[dict[str, Any]], folder: Path, *, n_documents: int = 4, n_sentences: int = 12
) -> Iterator[Scene]:
    with ragstore.open(settings) as rs:
        rs.create_collection(COLLECTION, **SMALL)
        state = write_documents(folder, {f"{i}.txt": a_text(i, n_sentences) for i in range(n_documents)})
        rs.ingest(folder, collection=COLLECTION)
        yield Scene(rs, settings, mongo, Oracle(postgres_url(settings), mongo, COLLECTION), folder, state)


def an_old_node_id(seconds: float) -> str:
    """A version 7 UUID of that time."""
    return str(UUID(int=(int(seconds * 1000) << 80) | (0x7 << 76) | (0b10 << 62) | (uuid4().int & ((1 << 62) - 1))))


def a_copied_row(scene: Scene, node_id: str, new_id: str) -> None:
    """What a foreign writer does that copies a row."""
    scene.sql(
        "INSERT INTO ragstore.data_docs (text, metadata_, node_id, embedding, document_id, ordinal, start_char, "
        "end_char, chunk_hash, user_metadata) SELECT text, metadata_, %s, embedding, document_id, ordinal, "
        "start_char, end_char, chunk_hash, user_metadata FROM ragstore.data_docs WHERE node_id = %s",
        new_id,
        node_id,
    )


def a_struct_with_nodes(index_id: str, node_ids: list[str]) -> dict[str, Any]:
    """A vector index's struct as plain LlamaIndex keeps it with ``store_nodes_override``."""
    data = {"index_id": index_id, "summary": None, "nodes_dict": {i: i for i in node_ids}, "doc_id_dict": {}}
    return {"_id": index_id, "__type__": "vector_store", "__data__": json.dumps(data), "collection": COLLECTION}


def keep_ingesting(scene: Scene, stop: threading.Event) -> None:
    for round_ in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
        texts = {f"{i}.txt": an_edited(a_text(i, 12), f"{round_}") for i in range(12)}
        write_documents(scene.folder, {**texts, f"new-{round_}.txt": a_text(f"new {round_}", 6)})
        scene.rs.ingest(scene.folder, collection=COLLECTION)
        scene.rs.delete(scene.id_of(f"new-{round_ - 1}.txt"), collection=COLLECTION)
        (scene.folder / f"new-{round_ - 1}.txt").unlink(missing_ok=True)


def keep_putting(scene: Scene, stop: threading.Event) -> None:
    """Nodes under the same ids again and again, as LlamaIndex code does."""
    vectors = scene.rs.storage_context(COLLECTION).vector_store
    for round_ in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
        text = f"version {round_}"
        vectors.add([TextNode(text=text, id_=f"node-{i}", embedding=[1.0] * 256) for i in range(20)])
        vectors.delete_nodes([f"node-{i}" for i in range(round_ % 20)])


@contextmanager
def workers_busy(scene: Scene) -> Iterator[None]:
    """One worker that ingests and deletes, and two that put the same nodes, for the length of the block."""
    stop = threading.Event()
    works = (keep_ingesting, keep_putting, keep_putting)
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work, scene, stop) for work in works]
        try:
            yield
        finally:
            stop.set()
            for each in running:
                each.result()
