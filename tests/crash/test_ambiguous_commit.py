"""The connection breaks around the COMMIT that publishes: nobody was told whether it happened."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr
from pymongo.database import Database

import ragstore
from ragstore.errors import StoreUnavailableError
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.corpus import a_text, write_documents
from tests.support.forwarder import COMMIT, Fault, Forwarder, a_forwarder
from tests.support.oracle import Change, Oracle
from tests.support.parts import Parts, a_revision, execute, open_parts, postgres_url

OLD, NEW = a_text("old"), a_text("new")
BEGIN = b"INSERT INTO ragstore.run "
"""Of the statement that begins a run, which is a transaction of its own."""


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Forwarder]:
    with a_forwarder(postgres_url(settings)) as proxy:
        yield proxy


@pytest.fixture
def parts(settings: Settings, proxy: Forwarder) -> Iterator[Parts]:
    with open_parts(settings, url=proxy.url) as parts:
        parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
        yield parts


def publish_new(parts: Parts) -> None:
    parts.publisher.publish(parts.collection, [a_revision("a", NEW, planned_from=1, action="updated")])


def test_a_commit_that_never_arrived_leaves_the_old_revision_and_no_garbage(proxy: Forwarder, parts: Parts) -> None:
    proxy.arm("lost on its way")
    with pytest.raises(StoreUnavailableError):
        publish_new(parts)
    assert proxy.met.is_set()
    parts.recoverer.recover()
    parts.oracle.assert_settled({"a": OLD})


def test_a_commit_whose_answer_was_lost_leaves_the_new_revision_with_all_its_bodies(
    proxy: Forwarder, parts: Parts
) -> None:
    proxy.arm("answer lost")
    with pytest.raises(StoreUnavailableError):
        publish_new(parts)
    assert proxy.met.is_set()
    parts.recoverer.recover()
    parts.oracle.assert_settled({"a": NEW})


def test_a_commit_that_arrives_after_the_worker_gave_up_is_waited_for(
    settings: Settings, proxy: Forwarder, parts: Parts
) -> None:
    proxy.arm("arrives late")
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(publish_new, parts)
        assert proxy.met.wait(30)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        until(lambda: execute(settings, waiting), what="the worker that gives up waits for the outcome")
        parts.recoverer.recover()
        parts.oracle.assert_visible([Change({"a": OLD}, {"a": OLD})])
        proxy.let_through.set()
        with pytest.raises(StoreUnavailableError):
            published.result(30)
    parts.recoverer.recover()
    parts.oracle.assert_settled({"a": NEW})


@pytest.mark.parametrize("how", ["lost on its way", "answer lost"])
@pytest.mark.parametrize(("mark", "at_least"), [(COMMIT, 4), (BEGIN, 2)], ids=["commits", "begins"])
def test_an_ingest_survives_a_break_at_each_of_its_commits_and_begins(
    how: Fault,
    mark: bytes,
    at_least: int,
    settings: Settings,
    mongo_database: Database[dict[str, Any]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "docs"
    with (
        a_forwarder(postgres_url(settings), mark=mark) as proxy,
        ragstore.open(settings.model_copy(update={"postgres_url": SecretStr(proxy.url), "batch_chunks": 10})) as rs,
    ):
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
        # The first one recovers what others left before it begins.
        rs.ingest(next(iter(write_documents(folder, {"0.txt": a_text("old", 12)}))), collection="docs")
        for nth in itertools.count():
            state = write_documents(folder, {f"{i}.txt": a_text(f"{nth} {i}", 12) for i in range(4)})
            proxy.arm(how, after=nth)
            report = rs.ingest(folder, collection="docs")
            was_broken = proxy.disarm()
            assert report.added + report.updated + report.unchanged == len(state)
            rs.ingest(folder, collection="docs")
            Oracle(postgres_url(settings), mongo_database).assert_settled(state)
            # How many there are depends on how the documents fell into batches.
            if not was_broken:
                break
    assert nth >= at_least


def test_a_backend_that_is_terminated_while_it_publishes_publishes_nothing(settings: Settings, parts: Parts) -> None:
    blocker = psycopg2.connect(postgres_url(settings))
    with blocker, blocker.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("LOCK TABLE ragstore.event IN ACCESS EXCLUSIVE MODE")
        published = pool.submit(publish_new, parts)
        terminate = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        until(lambda: execute(settings, terminate), what="the publishing backend waits")
        with pytest.raises(StoreUnavailableError):
            # Giving up the run writes an event too.
            blocker.commit()
            published.result(30)
    blocker.close()
    parts.recoverer.recover()
    parts.oracle.assert_settled({"a": OLD})


def test_an_ingest_goes_on_while_its_connections_are_ended_again_and_again(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    state = write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i) for i in range(20)})
    impatient = Settings(
        postgres_url=settings.postgres_url,
        mongo_url=settings.mongo_url,
        mongo_database=settings.mongo_database,
        grace_s=0,
        batch_chunks=20,
    )
    over = threading.Event()
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'ragstore'"
    )

    def end_connections() -> int:
        n_ended = 0
        while not over.wait(0.1) and n_ended < 20:
            n_ended += len(execute(settings, terminate))
        return n_ended

    with ragstore.open(impatient) as rs, ThreadPoolExecutor(1) as pool:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
        rs.ingest(tmp_path / "docs" / "0.txt", collection="docs")
        ended = pool.submit(end_connections)
        try:
            rs.ingest(tmp_path / "docs", collection="docs")
        finally:
            over.set()
        assert ended.result() > 0
        # A run that could not even be given up stays until its lease has run out.
        execute(settings, "UPDATE ragstore.run SET lease_until = now() - interval '1 second'")
        assert rs.ingest(tmp_path / "docs", collection="docs").unchanged == len(state)
    Oracle(postgres_url(settings), mongo_database).assert_settled(state)
