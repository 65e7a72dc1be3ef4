"""A database loses its volume and comes back empty: it is said, nothing is taken for an empty index, and it can be mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

import ragstore
from ragstore.app import Ragstore, migrations
from ragstore.errors import CollectionNotFoundError, EmptyStoreError, SchemaVersionError
from ragstore.settings import Settings
from tests.support.command import CommandLine
from tests.support.corpus import a_sentence, a_text, write_documents
from tests.support.fleet import Fleet, a_fleet
from tests.support.oracle import Oracle, State
from tests.support.servers import Kind

QUESTION = a_sentence("0 1")


@dataclass
class Scene:
    """A pair of servers with a collection, and the command line on it."""

    fleet: Fleet
    settings: Settings
    folder: Path
    command: CommandLine
    state: State

    def assert_settled(self) -> None:
        with MongoClient[dict[str, Any]](self.fleet.mongo.url, tz_aware=True) as client:
            database = client[self.settings.mongo_database]
            Oracle(self.fleet.postgres.url, database, "default").assert_settled(self.state)


@pytest.fixture(scope="module")
def fleet(fleet_kind: Kind) -> Iterator[Fleet]:
    with a_fleet(fleet_kind) as made:
        yield made


@pytest.fixture
def scene(fleet: Fleet, tmp_path: Path) -> Iterator[Scene]:
    options: dict[str, Any] = {"grace_s": 0, "connect_timeout_s": 2, "chunk_size": 32, "chunk_overlap": 0}
    addresses = {"postgres_url": fleet.postgres.url, "mongo_url": fleet.mongo.url}
    settings = Settings(**addresses, **options)
    migrations.apply(settings)
    state = write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 6) for i in range(4)})
    with ragstore.open(settings) as rs:
        assert rs.ingest(tmp_path / "docs").added == len(state)
    yield Scene(fleet, settings, tmp_path / "docs", CommandLine(tmp_path, {**addresses, **options}), state)
    fleet.postgres.wipe()
    fleet.mongo.wipe()


def answers(rs: Ragstore) -> list[tuple[str, str]]:
    return [(hit.node_id, hit.text) for hit in rs.query(QUESTION)]


def test_a_mongo_that_lost_its_volume_is_refused_by_writers_until_repair_has_brought_it_back(scene: Scene) -> None:
    with ragstore.open(scene.settings) as rs:
        before = answers(rs)
    scene.fleet.mongo.wipe()
    with ragstore.open(scene.settings) as rs:
        assert answers(rs) == before
        with pytest.raises(EmptyStoreError, match="is empty, but PostgreSQL knows 4 documents") as raised:
            rs.ingest(scene.folder)
        assert "ragstore repair" in raised.value.hint
        with pytest.raises(EmptyStoreError):
            rs.storage_context()
        report = rs.repair()
        assert (report.ok, report.embedded) == (True, 0)
        assert answers(rs) == before
        assert rs.ingest(scene.folder).unchanged == len(scene.state)
    scene.assert_settled()


def test_the_command_line_names_repair_when_mongo_lost_its_volume(scene: Scene) -> None:
    scene.fleet.mongo.wipe()
    refused = scene.command("ingest", "docs", status=4)
    assert "is empty" in refused.error and "ragstore repair" in refused.hint
    scene.command("repair")
    assert scene.command("ingest", "docs", "--json").json["unchanged"] == len(scene.state)
    scene.assert_settled()


def test_a_process_that_had_mongo_open_when_it_lost_its_volume_brings_nothing_half_back(scene: Scene) -> None:
    with ragstore.open(scene.settings) as rs:
        rs.ingest(scene.folder)
        scene.fleet.mongo.wipe()
        (scene.folder / "new.txt").write_text("Written to a MongoDB that is not the one that was.")
        scene.state |= {str(scene.folder / "new.txt"): "Written to a MongoDB that is not the one that was."}
        with pytest.raises(EmptyStoreError, match="was emptied"):
            rs.ingest(scene.folder)
    with ragstore.open(scene.settings) as rs:
        with pytest.raises(EmptyStoreError, match="ragstore repair"):
            rs.ingest(scene.folder)
        assert rs.repair().ok
        assert rs.ingest(scene.folder).unchanged == len(scene.state)
    scene.assert_settled()


def test_a_postgres_that_lost_its_volume_is_no_empty_index(scene: Scene) -> None:
    scene.fleet.postgres.wipe()
    for verb in (("query", QUESTION), ("documents",), ("ingest", "docs"), ("verify",)):
        refused = scene.command(*verb, status=4)
        assert "PostgreSQL has no schema" in refused.error and "ragstore migrate apply" in refused.hint
    with pytest.raises(SchemaVersionError):
        ragstore.open(scene.settings)


def test_a_postgres_that_was_migrated_anew_is_not_joined_to_the_mongo_of_the_old_one(scene: Scene) -> None:
    with MongoClient[dict[str, Any]](scene.fleet.mongo.url) as client:
        data = client[scene.settings.mongo_database]["default/data"]
        n_nodes = data.count_documents({})
        scene.fleet.postgres.wipe()
        migrations.apply(scene.settings)
        with ragstore.open(scene.settings) as rs, pytest.raises(EmptyStoreError, match="another PostgreSQL database"):
            rs.ingest(scene.folder)
        assert data.count_documents({}) == n_nodes > 0
    refused = scene.command("ingest", "docs", status=4)
    assert "another PostgreSQL database" in refused.error and "belong together" in refused.hint
    missing = scene.command("query", QUESTION, status=6)
    assert "default" in missing.error


def test_when_both_lost_their_volumes_a_question_says_that_there_is_no_such_collection(scene: Scene) -> None:
    scene.fleet.postgres.wipe()
    scene.fleet.mongo.wipe()
    assert "no schema" in scene.command("query", QUESTION, status=4).error
    scene.command("migrate")
    missing = scene.command("query", QUESTION, status=6)
    assert missing.stdout == "" and "no collection" in missing.error
    with ragstore.open(scene.settings) as rs:
        with pytest.raises(CollectionNotFoundError):
            rs.query(QUESTION)
        assert rs.ingest(scene.folder).added == len(scene.state)
    scene.assert_settled()
