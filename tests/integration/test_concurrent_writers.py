"""Workers on the same documents at the same time: none lost, none doubled, nobody deadlocked."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pymongo.database import Database

import ragstore
from ragstore.model.document import SourceItem
from ragstore.postgres import documents
from ragstore.postgres.documents import Touched
from ragstore.settings import Settings
from tests.support import children
from tests.support.corpus import a_text, write_documents
from tests.support.oracle import Oracle
from tests.support.parts import Parts, a_revision, execute, open_parts, postgres_url

N_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def an_oracle(settings: Settings, mongo: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo)


def test_two_processes_that_ingest_the_same_folder_lose_and_double_nothing(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    oracle = an_oracle(settings, mongo_database)
    env = children.environment(settings, batch_chunks=30, chunk_size=32, chunk_overlap=0)
    for round_ in range(10):
        # Grows, and changes all: the two workers meet on new and on known documents.
        state = write_documents(folder, {f"{i}.txt": a_text(f"{round_} {i}", 12) for i in range(6 + round_)})
        workers = [children.start("tests.crash.child", "ingest", str(folder), env=env) for _ in range(2)]
        with children.running(workers):
            reports = [children.result(worker) for worker in workers]
        done = sum(r["added"] + r["updated"] for r in reports)
        assert done == len(state)
        assert sum(r["unchanged"] for r in reports) == len(state)
        assert not sum(r["failed"] + r["renamed"] + r["deleted"] for r in reports)
        oracle.assert_settled(state)


def test_publishing_touching_and_deleting_the_same_documents_never_deadlocks(settings: Settings) -> None:
    ids = [f"d{i:03}" for i in range(120)]
    text = a_text("same", 4)
    with open_parts(settings) as parts:
        parts.publisher.publish(parts.collection, [a_revision(i, text) for i in ids])

        def publish(seed: int) -> None:
            chance = random.Random(f"publish {seed}")
            for _ in range(12):
                chosen = chance.sample(ids, 60)
                states = documents.get_documents(parts.pool, parts.collection, chosen)
                parts.publisher.publish(
                    parts.collection, [a_revision(i, text, planned_from=states[i].revision) for i in chosen]
                )

        def touch(seed: int) -> None:
            chance = random.Random(f"touch {seed}")
            for _ in range(60):
                chosen = chance.sample(ids, 80)
                states = documents.get_documents(parts.pool, parts.collection, chosen)
                time = chance.randrange(10**9)
                touched = [Touched(SourceItem(i, i, 1, time), states[i].revision) for i in chosen]
                documents.touch_documents(parts.pool, parts.collection, touched)

        def delete(seed: int) -> None:
            chance = random.Random(f"delete {seed}")
            for _ in range(12):
                parts.publisher.delete(parts.collection, chance.sample(ids, 10))
                parts.recoverer.retire()

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(work, seed) for seed, work in enumerate((publish, publish, touch, delete))]:
                future.result()
        assert execute(settings, N_DEADLOCKS) == [(0,)]
        parts.recoverer.recover()
        live = dict.fromkeys(parts.oracle.snapshot().documents, text)
        parts.oracle.assert_settled(live)


def test_threads_of_one_process_ingest_into_one_collection_together(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    state: dict[str, str] = {}
    with ragstore.open(settings) as rs, ThreadPoolExecutor(3) as pool:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
        for name in ("one", "two", "three"):
            state |= write_documents(tmp_path / name, {f"{i}.txt": a_text(f"{name} {i}", 12) for i in range(8)})
        reports = pool.map(lambda name: rs.ingest(tmp_path / name, collection="docs"), ("one", "two", "three"))
        assert sum(report.added for report in reports) == len(state)
    an_oracle(settings, mongo_database).assert_settled(state)


def test_many_writers_of_one_document_take_turns(settings: Settings) -> None:
    with open_parts(settings) as parts:

        def write(seed: int) -> int:
            return sum(_write_once(parts, a_text(f"{seed} {i}", 8)) for i in range(8))

        with ThreadPoolExecutor(4) as pool:
            n_written = sum(pool.map(write, range(4)))
        parts.recoverer.recover()
        seen = parts.oracle.snapshot()
        # Whoever is refused was overtaken, and one publication overtakes at most the three other writers: 32 / 4.
        assert seen.documents["a"].revision == n_written >= 8
        texts = [a_text(f"{seed} {i}", 8) for seed in range(4) for i in range(8)]
        assert sum(not parts.oracle.settled_violations({"a": text}) for text in texts) == 1


def _write_once(parts: Parts, text: str) -> int:
    state = documents.get_documents(parts.pool, parts.collection, ["a"]).get("a")
    revision = a_revision("a", text, planned_from=state.revision if state else 0)
    n_published = len(parts.publisher.publish(parts.collection, [revision]).published)
    parts.recoverer.retire()
    return n_published
