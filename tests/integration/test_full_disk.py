"""The disk of a database fills up under an ingest: it is said, nothing is half there, and it goes on when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pymongo import MongoClient

import ragstore
from ragstore.app import migrations
from ragstore.errors import StoreError, StoreFullError, StoreUnavailableError
from ragstore.ingest import retry
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.corpus import a_text, write_documents
from tests.support.disks import Disk, a_disk
from tests.support.fleet import Fleet, a_fleet
from tests.support.oracle import Change, Oracle
from tests.support.servers import Kind

N_MB = {"postgres": 192, "mongo": 400}
N_FIRST, N_MORE, MOST_INGESTS = 5, 400, 20


@contextmanager
def a_fleet_with_little_room(kind: Kind, name: str) -> Iterator[tuple[Fleet, Disk]]:
    with a_disk(kind, N_MB[name]) as disk, a_fleet(kind, {name: disk}) as fleet:
        yield fleet, disk


@pytest.mark.parametrize("name", ["postgres", "mongo"])
def test_an_ingest_that_fills_the_disk_says_so_and_goes_on_when_there_is_room(
    name: str, fleet_kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "WAIT_FOR_STORES_S", 3.0)
    first = write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 6) for i in range(N_FIRST)})
    with a_fleet_with_little_room(fleet_kind, name) as (fleet, disk):
        options: dict[str, Any] = {"grace_s": 0, "lease_ttl_s": 5, "batch_chunks": 200, "connect_timeout_s": 1}
        settings = Settings(postgres_url=fleet.postgres.url, mongo_url=fleet.mongo.url, **options)
        migrations.apply(settings)
        with ragstore.open(settings) as rs, MongoClient[dict[str, Any]](fleet.mongo.url, tz_aware=True) as client:
            rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
            rs.ingest(tmp_path / "docs", collection="docs")
            oracle = Oracle(fleet.postgres.url, client[settings.mongo_database], "docs")
            oracle.assert_settled(first)
            disk.fill(but_kb=512)
            more, error = fill_with_documents(rs, tmp_path / "docs", first)
            if name == "postgres" and answers(fleet.postgres.url):
                assert isinstance(error, StoreFullError)
            disk.make_room()
            if isinstance(error, StoreUnavailableError):
                # The server ended itself, which is its way of keeping its data whole.
                controlled = fleet.postgres if name == "postgres" else fleet.mongo
                controlled.kill()
                controlled.start()
            oracle.assert_visible([Change({}, {i: text}) for i, text in more.items()], first)
            report = rs.ingest(tmp_path / "docs", collection="docs")
            assert (report.added + report.unchanged, report.failed) == (len(first) + len(more), 0)
            until(
                lambda: (
                    rs.ingest(tmp_path / "docs", collection="docs") and not oracle.settled_violations({**first, **more})
                ),
                what="nothing is left to do",
            )


def answers(url: str) -> bool:
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return False
    return True


def fill_with_documents(rs: Any, folder: Path, stored: dict[str, str]) -> tuple[dict[str, str], StoreError]:
    """Ingest until there is no more room: what the last ingest was about, and what it said. ``stored`` grows before."""
    for n in range(MOST_INGESTS):
        more = write_documents(folder, {f"more-{n}-{i}.txt": a_text(f"more {n} {i}") for i in range(N_MORE)})
        try:
            rs.ingest(folder, collection="docs")
        except StoreError as error:
            return more, checked(error)
        # A database may have set room aside before.
        stored |= more
    pytest.fail("the disk was never full")


def checked(error: StoreError) -> StoreError:
    """PostgreSQL refuses what does not fit, MongoDB ends itself."""
    if isinstance(error, StoreFullError):
        assert "free disk space" in error.hint
    else:
        assert isinstance(error, StoreUnavailableError) and "ragstore status" in error.hint
    return error
