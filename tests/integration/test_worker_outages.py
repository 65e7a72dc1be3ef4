"""A worker lives through the end and the return of both databases, whole servers that are stopped and killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pymongo.errors
import pytest

from ragstore.embedded import ensure_running, remembered_urls, stop
from tests.support.children import PYTHONPATH, until
from tests.support.corpus import a_text, write_documents
from tests.support.embedded import a_home, kill, remove, server_pid
from tests.support.stores import Stores
from tests.support.workers import HERE, Living, living, no_options


@pytest.fixture
def home() -> Iterator[Path]:
    home = a_home()
    yield home
    remove(home)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    write_documents(folder, {"a.txt": a_text("a")})
    return folder


@pytest.fixture
def worker(home: Path, folder: Path, tmp_path: Path) -> Iterator[Living]:
    """On servers of its own that are not there when it starts."""
    ensure_running(home)
    with living("migrate", env={**no_options(), **PYTHONPATH, "RAGSTORE_HOME": str(home)}, folder=tmp_path) as migrate:
        assert migrate.ended(timeout_s=60) == 0, migrate.text
    urls = remembered_urls(home)
    assert urls is not None
    assert stop(home)
    env = {
        **no_options(),
        **PYTHONPATH,
        "RAGSTORE_POSTGRES_URL": urls.postgres_url,
        "RAGSTORE_MONGO_URL": urls.mongo_url,
        "RAGSTORE_CONNECT_TIMEOUT_S": "1",
        "RAGSTORE_GRACE_S": "0",
    }
    with living("worker", folder, "--every", 0.2, "--metrics", HERE, env=env, folder=tmp_path) as worker:
        yield worker


def until_stored(home: Path, n: int) -> None:
    stores = Stores.of_home(home)

    def agree() -> bool:
        try:
            if stores.n_documents("default") != n:
                return False
            stores.assert_agree("default")
        except (AssertionError, psycopg2.OperationalError, pymongo.errors.ConnectionFailure):
            return False
        return True

    until(agree, what=f"{n} documents are in both stores", timeout_s=60)


def test_it_waits_for_both_at_its_start_and_goes_on_when_they_are_killed(
    worker: Living, home: Path, folder: Path
) -> None:
    worker.until_logged("failed")
    now = worker.metrics()
    assert now["ragstore_store_up", "postgres"] == now["ragstore_store_up", "mongo"] == 0
    before = remembered_urls(home)
    ensure_running(home)
    assert remembered_urls(home) == before
    until_stored(home, 1)
    for i, name in enumerate(("postgres", "mongo", "postgres", "mongo")):
        write_documents(folder, {f"{i}.txt": a_text(i)})
        main = psutil.Process(server_pid(home, name))
        kill(main.pid, *[child.pid for child in main.children(recursive=True)])
        until_stored(home, i + 2)
    worker.until_metric("ragstore_store_up", "mongo", 1)
    assert worker.metrics()["ragstore_working", ""] == 1
    assert worker.ended(signal.SIGTERM) == 0
