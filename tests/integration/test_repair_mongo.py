"""repair: what MongoDB lost or has wrong, brought back from PostgreSQL without embedding anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database

import ragstore
from ragstore.errors import EmptyStoreError
from ragstore.model.drift import Kind, RepairReport
from ragstore.model.run import new_node_id
from ragstore.settings import Settings
from tests.support.corpus import a_text, write_documents
from tests.support.drift import (
    COLLECTION,
    MUCH_WRITTEN,
    Scene,
    a_scene,
    a_struct_with_nodes,
    an_old_node_id,
    workers_busy,
)


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path) -> Iterator[Scene]:
    with a_scene(settings, mongo_database, tmp_path / "docs") as made:
        yield made


def a_staged_body(scene: Scene, node_id: str, document_id: str) -> dict[str, Any]:
    """What a run leaves behind that was paused in the middle of an insert for longer than its lease."""
    body: dict[str, Any] = scene.data().find_one({})
    data = body["__data__"] | {"id_": node_id}
    data["relationships"] = data["relationships"] | {"1": data["relationships"]["1"] | {"node_id": document_id}}
    return body | {"_id": node_id, "__data__": data, "stamp": 0}


def test_there_is_nothing_to_repair_where_all_is_well(scene: Scene) -> None:
    before = scene.contents()
    report = scene.repair()
    assert report.ok
    assert report.repaired.counts == report.kept.counts == {}
    assert scene.contents() == before


def test_a_lost_database_is_rebuilt_without_embedding(scene: Scene) -> None:
    hits, nodes = scene.hits(), {body["_id"]: body["__data__"] for body in scene.data().find()}
    scene.mongo.client.drop_database(scene.mongo.name)
    report = scene.repair()
    assert report.ok
    assert report.embedded == 0
    assert report.repaired.counts[Kind.MISSING_IN_MONGO] == len(nodes)
    assert {body["_id"]: body["__data__"] for body in scene.data().find()} == nodes
    assert scene.hits() == hits
    scene.assert_ok()
    with ragstore.open(scene.settings) as rs:
        docstore = rs.storage_context(COLLECTION).docstore
        assert set(docstore.docs) == set(nodes)
        assert rs.ingest(scene.folder, collection=COLLECTION).unchanged == len(scene.state)


def test_other_work_on_an_emptied_database_is_refused_and_told_of_repair(scene: Scene) -> None:
    scene.mongo.client.drop_database(scene.mongo.name)
    with ragstore.open(scene.settings) as rs:
        with pytest.raises(EmptyStoreError) as refused:
            rs.ingest(scene.folder, collection=COLLECTION)
        assert "ragstore repair" in refused.value.hint
        assert rs.repair().ok
        write_documents(scene.folder, {"0.txt": a_text("changed")})
        assert rs.ingest(scene.folder, collection=COLLECTION).updated == 1


def test_a_database_of_another_deployment_is_not_touched(scene: Scene) -> None:
    scene.mongo["ragstore/registry"].update_one({"_id": "deployment"}, {"$set": {"deployment_id": str(uuid4())}})
    scene.data().delete_many({})
    before = scene.contents()
    with pytest.raises(EmptyStoreError):
        scene.rs.repair()
    assert scene.contents() == before


def test_nodes_that_are_missing_come_back(scene: Scene) -> None:
    scene.data().delete_many({"_id": {"$in": scene.node_ids()[::3]}})
    assert scene.repair().ok
    scene.assert_ok()


@pytest.mark.parametrize("stamp", [0, None, 10**15, "text"])
def test_altered_nodes_become_what_they_were_whatever_their_stamp(stamp: object, scene: Scene) -> None:
    altered = {"__data__.text": "altered", "stamp": stamp}
    scene.data().update_many({"_id": {"$in": scene.node_ids()[:3]}}, {"$set": altered})
    report = scene.repair()
    assert report.ok
    assert report.repaired.counts == {Kind.ALTERED_IN_MONGO: 3}
    scene.assert_ok()


def test_a_node_altered_a_second_time_is_repaired_a_second_time(scene: Scene) -> None:
    for text in ("once", "twice"):
        scene.data().update_one({"_id": scene.node_ids()[0]}, {"$set": {"__data__.text": text}})
        assert scene.repair().ok
    scene.assert_ok()


@pytest.mark.parametrize("document", ["never published", "0.txt"])
def test_what_a_dead_run_left_is_deleted(document: str, scene: Scene) -> None:
    staged = an_old_node_id(time.time() - 3600)
    scene.data().insert_one(a_staged_body(scene, staged, scene.id_of(document)))
    report = scene.repair()
    assert report.ok
    assert report.repaired.counts == {Kind.ORPHAN_IN_MONGO: 1}
    scene.assert_ok()


@pytest.mark.parametrize("document", ["never published", "0.txt"])
def test_what_is_newer_than_all_that_the_ledger_has_seen_is_kept(document: str, scene: Scene) -> None:
    """PostgreSQL may have lost its latest transactions to a failover."""
    staged = an_old_node_id(time.time() + 3600)
    scene.data().insert_one(a_staged_body(scene, staged, scene.id_of(document)))
    report = scene.repair()
    assert report.kept.counts == {Kind.ORPHAN_IN_MONGO: 1}
    assert scene.data().find_one({"_id": staged})


def test_what_a_deleted_document_left_is_deleted(scene: Scene) -> None:
    body = scene.data().find_one({"__data__.relationships.1.node_id": scene.id_of("0.txt")})
    scene.rs.delete(scene.id_of("0.txt"), collection=COLLECTION)
    scene.data().insert_one(body)
    assert scene.repair().ok
    del scene.state[scene.id_of("0.txt")]
    scene.assert_ok()


def test_what_may_still_be_published_is_left_alone(scene: Scene) -> None:
    staged = new_node_id()
    scene.sql(
        "INSERT INTO ragstore.run (run_id, collection_id, worker, node_ids, lease_until) "
        "SELECT gen_random_uuid(), collection_id, 'elsewhere', %s, now() + interval '1 hour' FROM ragstore.collection",
        [staged],
    )
    scene.data().insert_one(a_staged_body(scene, staged, "new"))
    assert scene.repair().ok
    assert scene.data().find_one({"_id": staged})


@pytest.mark.parametrize(
    "body",
    [
        {"_id": "foreign", "__data__": {"id_": "foreign", "text": "the only copy"}, "__type__": "1"},
        {"_id": "foreign", "__data__": "not even a node"},
        {"_id": "foreign", "__data__": {"id_": "foreign", "text": "?"}, "__type__": "1", "stamp": 0},
    ],
)
def test_what_nobody_can_prove_garbage_is_kept_and_reported(body: dict[str, Any], scene: Scene) -> None:
    scene.data().insert_one(body)
    report = scene.repair()
    assert not report.ok
    assert report.kept.counts == {Kind.ORPHAN_IN_MONGO: 1}
    assert scene.data().find_one({"_id": "foreign"}) == body


def test_a_newer_revision_that_only_mongo_has_is_kept(scene: Scene) -> None:
    """As after PostgreSQL came back from a backup that is older than MongoDB."""
    newer = an_old_node_id(time.time() - 3600)
    scene.data().insert_one(a_staged_body(scene, newer, scene.id_of("0.txt")))
    scene.entries("ref_doc_info").update_one({"_id": scene.id_of("0.txt")}, {"$set": {"stamp": 7, "node_ids": [newer]}})
    report = scene.repair()
    assert report.kept.counts[Kind.ORPHAN_IN_MONGO] == 1
    assert scene.data().find_one({"_id": newer})
    assert scene.entries("ref_doc_info").find_one({"_id": scene.id_of("0.txt")})["node_ids"] == [newer]


@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"stamp": 0}},
        {"$set": {"node_ids": ["x"], "doc_hash": "x"}},
        {"$set": {"stamp": 99, "node_ids": [], "doc_hash": "x"}},
        {"$unset": {"stamp": 1}},
        {"$set": {"metadata": {"file_path": "elsewhere"}}},
    ],
)
def test_wrong_entries_become_what_the_ledger_says(change: dict[str, Any], scene: Scene) -> None:
    for kind in ("ref_doc_info", "metadata"):
        scene.entries(kind).update_one({"_id": scene.id_of("1.txt")}, change)
    assert scene.repair().ok
    scene.assert_ok()


def test_missing_entries_are_put_and_those_of_nobody_removed(scene: Scene) -> None:
    for kind in ("ref_doc_info", "metadata"):
        scene.entries(kind).delete_one({"_id": scene.id_of("1.txt")})
        scene.entries(kind).insert_one({"_id": "nobody", "stamp": 3, "node_ids": ["gone"], "metadata": {}})
    assert scene.repair().ok
    scene.assert_ok()


def struct_of(scene: Scene, name: str) -> str:
    (entry,) = scene.mongo["index_store/data"].find({"_id": name})
    return str(entry["__data__"])


def test_a_struct_that_holds_node_ids_is_emptied_and_can_be_loaded(scene: Scene) -> None:
    scene.mongo["index_store/data"].insert_one(a_struct_with_nodes(COLLECTION, scene.node_ids()))
    scene.mongo["index_store/data"].insert_one(a_struct_with_nodes("elsewhere", scene.node_ids()) | {"collection": "x"})
    assert scene.repair().ok
    assert len(struct_of(scene, COLLECTION)) < 200
    assert len(struct_of(scene, "elsewhere")) > 1_000
    scene.assert_ok()
    struct = scene.rs.storage_context(COLLECTION).index_store.get_index_struct(COLLECTION)
    assert struct is not None and struct.index_id == COLLECTION


def test_while_workers_write_repair_mends_what_is_wrong_and_nothing_else(scene: Scene) -> None:
    scene.state |= write_documents(scene.folder, {f"{i}.txt": a_text(i, 12) for i in range(12)})
    scene.rs.ingest(scene.folder, collection=COLLECTION)
    scene.rs.create_collection("quiet", chunk_size=32, chunk_overlap=0)
    scene.rs.ingest(scene.folder / "0.txt", collection="quiet")
    quiet = scene.mongo["quiet/data"]
    reports: list[RepairReport] = []
    with workers_busy(scene):
        while len(reports) < 10 or not scene.sql(MUCH_WRITTEN):
            quiet.delete_one({})
            reports.append(scene.rs.repair())
    for report in reports:
        assert report.ok, report.as_dict()
        assert report.repaired.counts == {Kind.MISSING_IN_MONGO: 1}, report.as_dict()
    assert scene.rs.verify(deep=True).ok
