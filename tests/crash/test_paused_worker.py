"""A worker stands still for longer than its lease, others do its work or clean up behind it, and it wakes up again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.ingest import parse_process
from ragstore.settings import Settings
from tests.crash.forked import COLLECTION, InThisProcess, Order, started
from tests.support import children
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.forwarder import a_forwarder
from tests.support.oracle import Change, Oracle
from tests.support.parts import execute, postgres_url

NAMES = [f"{i}.txt" for i in range(8)]
LEASES_RUN_OUT = "UPDATE ragstore.run SET lease_until = now() - interval '1 second'"

PAUSES = [
    "run_begun",
    "nodes_half_staged",
    "nodes_staged",
    "vectors_copied",
    "published",
    "nodes_half_retired",
    "nodes_retired",
    "ref_docs_half_put",
    "ref_docs_put",
]


@pytest.fixture(autouse=True)
def _parse_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_process, "ParseProcess", InThisProcess)


@pytest.mark.parametrize("others", ["clean up", "do its work", "go on to what is newer"])
@pytest.mark.parametrize("pause", PAUSES)
def test_a_worker_that_stood_still_publishes_nothing_that_is_not_its_own_any_more(
    pause: str, others: str, settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    oracle = Oracle(postgres_url(settings), mongo_database, COLLECTION)
    folder = tmp_path / "docs"
    with ragstore.open(settings) as rs:
        rs.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
        before = write_documents(folder, {name: a_text(name) for name in NAMES})
        rs.ingest(folder, collection=COLLECTION)
        state = write_documents(folder, {name: an_edited(a_text(name), name) for name in NAMES})
        changes = [Change({i: before[i]}, {i: state[i]}) for i in before]
        # One batch, so that no other thread of it stands still in the middle of a transaction too.
        env = children.environment(settings, batch_chunks=1000)
        with started([Order("ingest", [str(folder)], env, stops_at=pause)]) as (worker,):
            children.until(worker.is_stopped, what="the worker stands still")
            execute(settings, LEASES_RUN_OUT)
            oracle.assert_visible(changes)
            if others == "go on to what is newer":
                state = write_documents(folder, {name: an_edited(a_text(name), f"newer {name}") for name in NAMES})
            if others == "clean up":
                with ragstore.open(settings) as newcomer:
                    newcomer.delete("never seen", collection=COLLECTION)
                oracle.assert_visible(changes)
            else:
                rs.ingest(folder, collection=COLLECTION)
            worker.send_signal(signal.SIGCONT)
            worker.end()
        # What it had already told MongoDB of, the next run that finds its lease over takes away.
        execute(settings, LEASES_RUN_OUT)
        rs.ingest(folder, collection=COLLECTION)
    oracle.assert_settled(state)


def test_a_worker_that_stands_still_while_it_publishes_does_not_hold_the_others_up_for_ever(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    write_documents(folder, {name: a_text(name) for name in NAMES})
    with ragstore.open(settings) as rs, a_forwarder(postgres_url(settings), mark=b"COPY ragstore") as proxy:
        rs.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
        proxy.arm("arrives late", cut=False)
        # The server ends a transaction that stands still for twice the lease, and at least 10 s.
        env = children.environment(settings, postgres_url=proxy.url)
        worker = children.start("tests.crash.child", "ingest", str(folder), env=env)
        with children.running([worker]):
            assert proxy.met.wait(30)
            worker.send_signal(signal.SIGSTOP)
            state = write_documents(folder, {name: a_text(f"newer {name}") for name in NAMES})
            assert rs.ingest(folder, collection=COLLECTION).added == len(state)
            execute(settings, LEASES_RUN_OUT)
            worker.send_signal(signal.SIGCONT)
            proxy.let_through.set()
            children.finish(worker)
        execute(settings, LEASES_RUN_OUT)
        rs.ingest(folder, collection=COLLECTION)
    Oracle(postgres_url(settings), mongo_database, COLLECTION).assert_settled(state)
