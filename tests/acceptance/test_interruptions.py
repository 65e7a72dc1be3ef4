"""An ingest that is stopped in the middle, by a person, by the system, or by another ingest."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command import CommandLine
from tests.support.embedded import until
from tests.support.real_documents import write_sources
from tests.support.stores import Stores

N_DOCUMENTS = 80
SMALL_RUNS = {"batch_chunks": 40}
"""Many small runs, so that there is a middle to stop in."""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    assert write_sources(folder, N_DOCUMENTS) == N_DOCUMENTS
    return folder


def until_some_are_published(stores: Stores, collection: str, process: subprocess.Popen[str]) -> int:
    def some_are() -> bool:
        assert process.poll() is None, f"ended before it could be stopped: {process.communicate()}"
        exists = stores.sql("SELECT 1 FROM ragstore.collection WHERE name = %s", collection)
        return bool(exists) and stores.n_documents(collection) >= 5

    until(some_are, "a part is published", timeout_s=40)
    return stores.n_documents(collection)


def stderr_without_reader(process: subprocess.Popen[str]) -> str:
    """Stop reading its standard output, as ``head`` does, and wait for its end."""
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    return process.communicate(timeout=60)[1]


def assert_completed(command: CommandLine, stores: Stores, collection: str, n_published: int) -> None:
    again = command("ingest", "sources", "--json").json
    assert again["added"] + again["unchanged"] == N_DOCUMENTS
    assert again["unchanged"] >= n_published
    assert (again["updated"], again["failed"]) == (0, 0)
    assert stores.n_documents(collection) == N_DOCUMENTS
    stores.assert_agree(collection)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_ingest_says_that_nothing_is_lost_and_goes_on_when_it_is_repeated(
    signum: signal.Signals, status: int, command: CommandLine, stores: Stores, collection: str, sources: Path
) -> None:
    process = command.start("ingest", "sources", **SMALL_RUNS)
    n_published = until_some_are_published(stores, collection, process)
    # As a terminal does it: to the command and to the child that reads for it.
    os.killpg(process.pid, signum)
    done = command.finish(process, status=status)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "interrupted; nothing is lost, run the same command again"
    assert n_published <= stores.n_documents(collection) < N_DOCUMENTS
    assert_completed(command, stores, collection, n_published)


def test_a_killed_ingest_goes_on_when_it_is_repeated(
    command: CommandLine, stores: Stores, collection: str, sources: Path
) -> None:
    # Killed where it hurts: what one run wrote to MongoDB is there, and nothing in PostgreSQL names it.
    dies = {"env": "test", "failpoint": "nodes_staged:6"}
    command("ingest", "sources", status=-signal.SIGKILL, **SMALL_RUNS, **dies)
    n_published = stores.n_documents(collection)
    assert 0 < n_published < N_DOCUMENTS
    with pytest.raises(AssertionError):
        stores.assert_agree(collection)
    assert command("query", "parse command line arguments", "--json").json["hits"]
    assert_completed(command, stores, collection, n_published)


def test_two_ingests_of_the_same_folder_at_once_store_each_document_once(
    command: CommandLine, stores: Stores, collection: str, sources: Path
) -> None:
    both = [command.start("ingest", "sources", "--json", **SMALL_RUNS) for _ in range(2)]
    reports = [command.finish(process).json for process in both]
    assert sum(report["added"] for report in reports) == N_DOCUMENTS
    assert [report["added"] + report["unchanged"] for report in reports] == [N_DOCUMENTS, N_DOCUMENTS]
    stores.assert_agree(collection)
    doubled = "SELECT document_id FROM ragstore.event WHERE collection = %s AND action = 'added' GROUP BY 1 HAVING count(*) > 1"
    assert stores.sql(doubled, collection) == []
    history = command("history", next(sources.iterdir()), "--json").json["events"]
    assert [(event["revision"], event["action"]) for event in history] == [(1, "added")]


def test_a_question_asked_during_an_ingest_is_answered(
    command: CommandLine, stores: Stores, collection: str, sources: Path
) -> None:
    process = command.start("ingest", "sources", **SMALL_RUNS)
    until_some_are_published(stores, collection, process)
    hits = command("query", "parse command line arguments", "--json").json["hits"]
    assert len(hits) == 10
    assert len({hit["node_id"] for hit in hits}) == 10
    command.finish(process)


def test_a_reader_that_stops_reading_ends_the_command_quietly(command: CommandLine, sources: Path) -> None:
    command("ingest", "sources")
    # The second prints more than a pipe holds, so that it is still writing when its reader goes.
    for verb, n_lines in ((("documents",), 0), (("query", "python", "-k", "1000", "--json"), 1)):
        process = command.start(*verb)
        assert process.stdout is not None
        for _ in range(n_lines):
            assert process.stdout.readline()
        assert stderr_without_reader(process) == "", verb
        assert process.returncode == 141, verb


def test_an_ingest_whose_report_nobody_reads_is_done_all_the_same(
    command: CommandLine, stores: Stores, collection: str, sources: Path
) -> None:
    process = command.start("ingest", "sources", "--quiet")
    assert stderr_without_reader(process) == ""
    assert process.returncode == 141
    assert stores.n_documents(collection) == N_DOCUMENTS
    stores.assert_agree(collection)
