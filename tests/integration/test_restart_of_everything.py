"""The application, the supervisor and both servers end, gracefully or by kill -9, and everything is there again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.command import CommandLine
from tests.support.embedded import a_home, kill, processes_of, remove, until
from tests.support.real_documents import write_corpus, write_sources
from tests.support.stores import Stores

N_OTHER_DOCUMENTS = 80
QUESTIONS = (
    "How do I make sure a file is closed even when an exception is raised?",
    "What does the yield expression do?",
    "How are default values of function parameters evaluated?",
    "Which package compares embeddings with cosine distance in PostgreSQL?",
    "How can I retry a function with exponential back-off?",
    "What is a metaclass?",
    "How do I format a number with two decimal places?",
    "When is a finally clause executed?",
    "What is the difference between a list and a tuple?",
    "How does the import statement find a module?",
    "How do I run tests in parallel?",
    "Which library parses command line arguments with type hints?",
    "How do I validate data with type annotations?",
    "What does the global statement do?",
    "How are attributes of an object looked up?",
    "How do I connect to a MongoDB replica set?",
    "What is a context manager?",
    "How do I send an HTTP request with a time-out?",
    "What are the rules for operator precedence?",
    "How do I render Markdown from HTML?",
)


@dataclass(frozen=True)
class Answered:
    """A home whose questions were answered before anything happened to it."""

    command: CommandLine
    home: Path
    documents: Path
    n_documents: int
    answers: list[list[dict[str, Any]]]
    history: dict[str, Any]

    @property
    def stores(self) -> Stores:
        return Stores.of_home(self.home)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answered]:
    home, folder = a_home(), tmp_path_factory.mktemp("restart")
    command = CommandLine(folder, {"home": home, "grace_s": 0})
    documents = folder / "documents"
    n_documents = write_corpus(documents)
    assert n_documents >= 150
    report = command("ingest", "documents", "--json").json
    assert (report["added"], report["failed"]) == (n_documents, 0)
    history = command("history", next((documents / "python-reference").iterdir()), "--json").json
    yield Answered(command, home, documents, n_documents, answers_of(command), history)
    remove(home)


def answers_of(command: CommandLine) -> list[list[dict[str, Any]]]:
    def hits(question: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = command("query", question, "-k", "10", "--json").json["hits"]
        assert len(found) == 10
        return found

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(hits, QUESTIONS))


def assert_same_answers(before: list[list[dict[str, Any]]], after: list[list[dict[str, Any]]]) -> None:
    for question, old, new in zip(QUESTIONS, before, after, strict=True):
        assert [hit["node_id"] for hit in new] == [hit["node_id"] for hit in old], question
        assert [hit["score"] for hit in new] == pytest.approx([hit["score"] for hit in old], abs=1e-6), question
        assert [hit["text"] for hit in new] == [hit["text"] for hit in old], question


def assert_nothing_is_done_again(answered: Answered) -> None:
    report = answered.command("ingest", "documents", "--json").json
    assert report["unchanged"] == answered.n_documents
    assert {report[name] for name in ("added", "updated", "renamed", "deleted", "failed", "chunks", "embedded")} == {0}
    document = next((answered.documents / "python-reference").iterdir())
    assert answered.command("history", document, "--json").json == answered.history
    answered.stores.assert_agree("default")


def an_ingest_in_the_middle(answered: Answered, collection: str) -> subprocess.Popen[str]:
    write_sources(answered.command.folder / collection, N_OTHER_DOCUMENTS)
    # Many small runs, so that there is a middle.
    process = answered.command.start("ingest", collection, "-c", collection, batch_chunks=40)

    def begun() -> bool:
        assert process.poll() is None, process.communicate()
        exists = answered.stores.sql("SELECT 1 FROM ragstore.collection WHERE name = %s", collection)
        return bool(exists) and answered.stores.n_documents(collection) >= 5

    until(begun, "a part of the other documents is published", timeout_s=60)
    return process


def test_after_kill_9_of_every_process_the_same_questions_get_the_same_hits(answered: Answered) -> None:
    answered.command("up")
    ingest = an_ingest_in_the_middle(answered, "other")
    everything = processes_of(answered.home)
    names = []
    for pid in everything:
        with suppress(psutil.NoSuchProcess):  # one of PostgreSQL's short-lived workers
            names.append(psutil.Process(pid).name())
    assert names.count("postgres") > 3 and names.count("mongod") == 1  # sessions of the running ingest too
    os.killpg(ingest.pid, signal.SIGKILL)
    kill(*everything)
    answered.command.finish(ingest, status=-signal.SIGKILL)
    until(lambda: not processes_of(answered.home), "nothing is left")

    assert_same_answers(answered.answers, answers_of(answered.command))
    assert_nothing_is_done_again(answered)

    rest = answered.command("ingest", "other", "-c", "other", "--json").json
    assert rest["added"] + rest["unchanged"] == N_OTHER_DOCUMENTS
    assert rest["added"] > 0 and rest["unchanged"] >= 5
    assert answered.stores.n_documents("other") == N_OTHER_DOCUMENTS
    answered.stores.assert_agree("other")


def test_after_down_and_up_the_same_questions_get_the_same_hits(answered: Answered) -> None:
    answered.command("up")
    answered.command("down")
    assert processes_of(answered.home) == set()
    answered.command("up")
    assert_same_answers(answered.answers, answers_of(answered.command))
    assert_nothing_is_done_again(answered)


def test_killed_again_while_the_servers_come_back_nothing_is_lost(answered: Answered) -> None:
    answered.command("up")
    for _ in range(3):
        kill(*processes_of(answered.home))
        starting = answered.command.start("up")
        until(lambda: bool(processes_of(answered.home)), "something of it runs again")
        os.killpg(starting.pid, signal.SIGKILL)
        answered.command.finish(starting, status=-signal.SIGKILL)
    kill(*processes_of(answered.home))
    assert_nothing_is_done_again(answered)
    after = answered.command("query", QUESTIONS[0], "-k", "10", "--json").json["hits"]
    assert [hit["node_id"] for hit in after] == [hit["node_id"] for hit in answered.answers[0]]
