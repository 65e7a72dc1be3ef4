"""repair, killed at every failpoint that it passes, the first and the second time, then run again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database

from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint
from tests.support import children
from tests.support.drift import COLLECTION, Scene, a_copied_row, a_scene, a_struct_with_nodes, an_old_node_id


def lose_mongo(scene: Scene) -> None:
    scene.mongo.client.drop_database(scene.mongo.name)


def lose_the_table(scene: Scene) -> None:
    scene.sql("DROP TABLE ragstore.data_docs")


def do_some_of_everything(scene: Scene) -> None:
    ids = scene.node_ids()
    for i, node_id in enumerate([*scene.node_ids("0.txt"), *scene.node_ids("1.txt")]):
        a_copied_row(scene, node_id, str(uuid4()))
        stray = an_old_node_id(time.time() - 3600 - i)
        body = scene.data().find_one({"_id": node_id})
        scene.data().insert_one(body | {"_id": stray, "__data__": body["__data__"] | {"id_": stray}})
    scene.data().delete_many({"_id": {"$in": scene.node_ids("2.txt")}})
    scene.data().update_many({"_id": {"$in": scene.node_ids("3.txt")}}, {"$set": {"__data__.text": "altered"}})
    lost = scene.node_ids("4.txt")
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = ANY(%s)", lost)
    scene.sql("DELETE FROM ragstore.document WHERE document_id = ANY(%s)", [scene.id_of("2.txt"), scene.id_of("3.txt")])
    scene.entries("metadata").update_many({}, {"$set": {"doc_hash": "altered"}})
    scene.mongo["index_store/data"].insert_one(a_struct_with_nodes(COLLECTION, ids))
    scene.sql("UPDATE ragstore.collection SET index_state = 'none'")
    scene.sql("DROP INDEX ragstore.data_docs_embedding_idx")
    scene.sql("UPDATE ragstore.collection SET index_state = 'ready'")


DAMAGES: dict[str, Callable[[Scene], None]] = {
    "mongo": lose_mongo,
    "table": lose_the_table,
    "everything": do_some_of_everything,
}

_OUTBOX = {"repair_written", "repair_committed"}
_NODES_PUT = _OUTBOX | {"nodes_put"}
_ENTRIES_PUT = _OUTBOX | {"repair_replaced", "ref_docs_half_put", "ref_docs_put"}
_INDEX = {"repair_index_dropped", "index_build_begun", "index_built"}

REACHED_TWICE = {
    "mongo": _NODES_PUT | _ENTRIES_PUT,
    "table": _OUTBOX,
    "everything": _NODES_PUT | _ENTRIES_PUT | {"repair_deleted"},
}
REACHED_ONCE = {
    "mongo": {"runs_recovered", "repair_registered"},
    "table": {"runs_recovered", "repair_table_made"} | _INDEX,
    "everything": {"runs_recovered", "repair_table_made"} | _INDEX,
}


CASES = [
    (failpoint, damage, n)
    for damage in sorted(DAMAGES)
    for n, passed in ((1, REACHED_TWICE[damage] | REACHED_ONCE[damage]), (2, REACHED_TWICE[damage]))
    for failpoint in sorted(passed)
]


def test_every_failpoint_of_repair_is_in_the_table() -> None:
    assert {f for f in Failpoint if f.startswith("repair_")} <= {case[0] for case in CASES}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("failpoint", "damage", "n"), CASES)
def test_killed_there_the_next_repair_ends_the_work(
    failpoint: str,
    damage: str,
    n: int,
    settings: Settings,
    mongo_database: Database[dict[str, Any]],
    tmp_path: Path,
) -> None:
    small = settings.model_copy(update={"index_min_nodes": 10})
    with a_scene(small, mongo_database, tmp_path / "docs", n_documents=5) as scene:
        hits = scene.hits()
        DAMAGES[damage](scene)
        env = children.environment(small, index_min_nodes=10, failpoint=f"{failpoint}:{n}")
        status, _, err = children.finish(children.start("tests.crash.repair_child", env=env))
        assert status == -9, err
        report = scene.rs.repair()
        assert report.ok, report.as_dict()
        scene.assert_ok()
        assert scene.hits() == hits
