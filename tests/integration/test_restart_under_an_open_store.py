"""A database is killed under a process that goes on living: it may fail once, and needs no restart itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import Retry, StoreUnavailableError
from ragstore.model.report import IngestReport
from ragstore.settings import Settings
from tests.support.embedded import a_home, kill, remove, server_pid, until
from tests.support.real_documents import write_sources
from tests.support.stores import Stores

WITHIN_S = 10.0
N_DOCUMENTS = 60


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    home = a_home()
    yield home
    remove(home)


@pytest.fixture
def opened(home: Path) -> Iterator[Ragstore]:
    """Open on servers that run, with a collection of its own."""
    settings = Settings(home=home, collection=f"c{uuid4().hex[:12]}", grace_s=0, lease_ttl_s=5, batch_chunks=20)
    with ragstore.open(settings) as store:
        yield store


@pytest.fixture
def pump(tmp_path: Path) -> Path:
    path = tmp_path / "pump.txt"
    path.write_text("The pump needs oil every week.")
    return path


def kill_server(home: Path, name: str) -> None:
    """Kill a server and all that works for it, as the kernel does that runs out of memory."""
    main = psutil.Process(server_pid(home, name))
    kill(main.pid, *[child.pid for child in main.children(recursive=True)])


def ingested(store: Ragstore, *paths: Path) -> IngestReport:
    """An outage is no fault of the documents: none of them may be set aside for it."""
    report = store.ingest(*paths)
    assert report.failed == 0, store.quarantined()
    return report


def assert_says_try_later(error: StoreUnavailableError) -> None:
    assert error.code == "store.unavailable"
    assert error.retry is Retry.LATER
    assert "ragstore status" in error.hint


def works_again(action: Callable[[], object]) -> list[StoreUnavailableError]:
    """Repeat until it works; any other error than the promised one ends the test. Returns what was raised before."""
    errors: list[StoreUnavailableError] = []

    def worked() -> bool:
        try:
            action()
        except StoreUnavailableError as error:
            assert_says_try_later(error)
            errors.append(error)
            return False
        return True

    until(worked, "it works again", timeout_s=WITHIN_S)
    return errors


def test_questions_and_writes_work_again_after_postgres_was_killed(
    home: Path, opened: Ragstore, pump: Path, tmp_path: Path
) -> None:
    ingested(opened, pump)
    before = opened.query("pump")
    kill_server(home, "postgres")
    works_again(lambda: opened.query("pump"))
    assert opened.query("pump") == before

    kill_server(home, "postgres")
    other = tmp_path / "valve.txt"
    other.write_text("The valve opens at nine bar.")
    works_again(lambda: ingested(opened, pump, other))
    assert {Path(document.document_id).name for document in opened.documents()} == {"pump.txt", "valve.txt"}
    assert ingested(opened, pump, other).unchanged == 2
    Stores.of_home(home).assert_agree(opened.settings.collection)


def test_questions_are_answered_all_the_time_while_mongo_is_killed(home: Path, opened: Ragstore, pump: Path) -> None:
    ingested(opened, pump)
    before = opened.query("pump")
    kill_server(home, "mongo")
    assert opened.query("pump") == before


def test_writes_work_again_after_mongo_was_killed(home: Path, opened: Ragstore, pump: Path) -> None:
    ingested(opened, pump)
    kill_server(home, "mongo")
    pump.write_text("The pump needs oil every day.")
    works_again(lambda: ingested(opened, pump))
    assert [hit.text for hit in opened.query("pump")] == ["The pump needs oil every day."]
    kill_server(home, "mongo")
    works_again(lambda: opened.delete(str(pump)))
    assert opened.query("pump") == []
    works_again(lambda: ingested(opened, pump))
    Stores.of_home(home).assert_agree(opened.settings.collection)


def test_questions_under_way_in_many_threads_fail_in_one_way_only(home: Path, opened: Ragstore, pump: Path) -> None:
    ingested(opened, pump)
    errors: list[StoreUnavailableError] = []
    done = threading.Event()

    def ask_all_the_time() -> int:
        n_answers = 0
        while not done.is_set():
            try:
                assert len(opened.query("pump")) == 1
                n_answers += 1
            except StoreUnavailableError as error:
                errors.append(error)
        return n_answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_all_the_time) for _ in range(4)]
        try:
            for _ in range(3):
                kill_server(home, "postgres")
                works_again(lambda: opened.query("pump"))
        finally:
            done.set()
        assert all(future.result() for future in asking)
    assert errors  # it was killed under questions, not between them
    for error in errors:
        assert_says_try_later(error)


@pytest.mark.parametrize(
    ("name", "signum"),
    [
        ("postgres", signal.SIGKILL),
        ("postgres", signal.SIGINT),  # its fast shutdown
        ("mongo", signal.SIGKILL),
        ("mongo", signal.SIGTERM),  # answers what is under way with errors of its own
    ],
)
def test_an_ingest_under_way_goes_on_or_says_try_later(
    name: str, signum: signal.Signals, home: Path, opened: Ragstore, tmp_path: Path
) -> None:
    sources, collection = tmp_path / "sources", opened.settings.collection
    write_sources(sources, N_DOCUMENTS)
    opened.create_collection(collection)
    stores = Stores.of_home(home)
    with ThreadPoolExecutor(1) as pool:
        ingest = pool.submit(ingested, opened, sources)
        until(lambda: ingest.done() or stores.n_documents(collection) >= 5, "a part is published")
        kill_server(home, name) if signum is signal.SIGKILL else os.kill(server_pid(home, name), signum)
        error = ingest.exception(timeout=90)
    if error is not None:
        assert isinstance(error, StoreUnavailableError), repr(error)
        assert_says_try_later(error)
        works_again(lambda: ingested(opened, sources))
    assert ingested(opened, sources).unchanged == N_DOCUMENTS
    until(lambda: agree_after_an_ingest(opened, sources, stores), "what the broken runs staged is gone")


def agree_after_an_ingest(opened: Ragstore, sources: Path, stores: Stores) -> bool:
    """At the latest when the lease of a broken run has run out."""
    ingested(opened, sources)
    try:
        stores.assert_agree(opened.settings.collection)
    except AssertionError:
        return False
    return True
