"""What repair keeps has a command that takes the decision: it is moved where nothing reads it, and is not lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.cli.repair import repair_lines
from ragstore.model.drift import Kind
from ragstore.settings import Settings
from tests.support.drift import COLLECTION, Scene, a_copied_row, a_scene, an_old_node_id
from tests.support.parts import execute


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path) -> Iterator[Scene]:
    with a_scene(settings, mongo_database, tmp_path / "docs") as scene:
        yield scene


def put_a_foreign_body(scene: Scene) -> set[str]:
    scene.data().insert_one({"_id": "foreign", "__data__": {"id_": "foreign", "text": "the only copy"}})
    return {"the only copy"}


def put_a_foreign_row(scene: Scene) -> set[str]:
    a_copied_row(scene, scene.node_ids("0.txt")[0], "foreign")
    scene.sql("UPDATE ragstore.data_docs SET text = 'the only copy' WHERE node_id = 'foreign'")
    return {"the only copy"}


def put_a_newer_revision(scene: Scene) -> set[str]:
    newer = an_old_node_id(time.time() - 3600)
    body = scene.data().find_one({"_id": scene.node_ids("0.txt")[0]})
    data = body["__data__"] | {"id_": newer, "text": "of a newer revision"}
    scene.data().insert_one(body | {"_id": newer, "__data__": data})
    scene.entries("ref_doc_info").update_one({"_id": scene.id_of("0.txt")}, {"$set": {"stamp": 7, "node_ids": [newer]}})
    return {"of a newer revision"}


def leave_half_a_document(scene: Scene) -> set[str]:
    for table in ("data_docs", "document"):
        scene.sql(f"DELETE FROM ragstore.{table} WHERE document_id = %s", scene.id_of("0.txt"))
    scene.data().delete_one({"__data__.relationships.1.node_id": scene.id_of("0.txt")})
    left = scene.data().find({"__data__.relationships.1.node_id": scene.id_of("0.txt")})
    del scene.state[scene.id_of("0.txt")]
    return {body["__data__"]["text"] for body in left}


DECISIONS: dict[str, Callable[[Scene], set[str]]] = {
    "a body of another program": put_a_foreign_body,
    "a row that holds no node": put_a_foreign_row,
    "a newer revision that only MongoDB has": put_a_newer_revision,
    "half a document": leave_half_a_document,
}


def texts_aside(scene: Scene, places: list[str]) -> set[str]:
    """Texts of bodies, and of rows as JSON."""
    found = [document for place in places for document in scene.mongo[place].find()]
    rows = {json.loads(document["row"])["text"] for document in found if "row" in document}
    return rows | {document["__data__"]["text"] for document in found if "__data__" in document}


@pytest.mark.parametrize("name", DECISIONS)
def test_what_repair_keeps_is_set_aside_on_demand(name: str, scene: Scene) -> None:
    kept = DECISIONS[name](scene)
    report = scene.rs.repair()
    assert not report.ok
    assert any("ragstore repair --set-aside" in line for line in repair_lines(report))
    before = scene.contents()
    planned = scene.rs.repair(dry_run=True, set_aside=True)
    assert scene.contents() == before
    assert planned.set_aside.counts
    report = scene.rs.repair(set_aside=True)
    assert report.ok, report.as_dict()
    assert report.set_aside.counts
    shown = "\n".join(repair_lines(report))
    assert all(place in shown for place in report.places)
    assert kept <= texts_aside(scene, report.places)
    scene.assert_ok()
    assert scene.rs.repair(set_aside=True).set_aside.counts == {}


def test_the_loss_of_nodes_that_are_in_neither_store_can_be_accepted(scene: Scene) -> None:
    gone = scene.node_ids("0.txt")[:2]
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = ANY(%s)", gone)
    scene.data().delete_many({"_id": {"$in": gone}})
    assert not scene.rs.repair().ok
    report = scene.rs.repair(set_aside=True)
    assert report.ok
    assert report.set_aside.counts == {Kind.WRONG_COUNT: 1}
    assert scene.rs.verify(deep=True).ok
    assert scene.rs.ingest(scene.folder, collection=COLLECTION).updated == 1
    scene.assert_ok()


def test_a_lost_node_whose_vector_came_from_outside_can_be_set_aside(
    store: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    store.create_collection("own", model="external", dim=3)
    context = store.storage_context("own")
    context.vector_store.add([TextNode(text=f"text {i}", id_=f"n{i}", embedding=[1.0, i, 0.0]) for i in range(3)])
    execute(settings, "DELETE FROM ragstore.data_own WHERE node_id = 'n1'")
    assert not store.repair().ok
    report = store.repair(set_aside=True)
    assert report.ok, report.as_dict()
    assert [body["__data__"]["text"] for p in report.places for body in mongo_database[p].find()] == ["text 1"]
    assert store.verify(deep=True).ok


def test_what_is_of_a_collection_that_is_gone_is_set_aside_and_other_programs_stores_stay(scene: Scene) -> None:
    ours = scene.data().find_one({})
    scene.mongo["gone/data"].insert_one(ours)
    scene.mongo["gone/data"].insert_one({"_id": "another's", "__data__": {}, "__type__": "1"})
    scene.mongo["plain/data"].insert_one({"_id": "another's", "__data__": {}, "__type__": "1"})
    report = scene.rs.repair(set_aside=True)
    assert report.set_aside.counts == {Kind.LEFT_OVER_NAMESPACE: 1}
    assert [body["_id"] for body in scene.mongo["gone/data"].find()] == ["another's"]
    assert scene.mongo["plain/data"].count_documents({}) == 1
    assert list(scene.mongo[report.places[0]].find()) == [ours]
    scene.assert_ok()


def test_nodes_of_a_former_version_of_a_document_that_is_whole_are_deleted(
    store: Ragstore, mongo_database: Database[dict[str, Any]]
) -> None:
    """As where MongoDB came back from a backup: it has them, its entry names them, and the ledger has a later version."""
    store.create_collection("own", model="external", dim=3)
    context = store.storage_context("own")
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}

    def put(version: int) -> None:
        nodes = [
            TextNode(text=f"{version} {i}", id_=f"v{version}-{i}", embedding=[1.0, i, 0.0], relationships=source)
            for i in range(3)
        ]
        context.vector_store.delete("doc")
        context.vector_store.add(nodes)

    put(1)
    old = {name: list(mongo_database[f"own/{name}"].find()) for name in ("data", "ref_doc_info", "metadata")}
    put(2)
    for name in ("ref_doc_info", "metadata"):
        mongo_database[f"own/{name}"].delete_many({})
        mongo_database[f"own/{name}"].insert_many(old[name])
    mongo_database["own/data"].insert_many(old["data"])
    assert not store.verify().ok
    report = store.repair()
    assert report.ok, report.as_dict()
    assert {body["_id"] for body in mongo_database["own/data"].find()} == {"v2-0", "v2-1", "v2-2"}
    assert store.verify(deep=True).ok
