"""repair, killed at every failpoint that it passes, in its first, a middle and its last step, then run again.

With two others beside it, of which one repairs too and one ingests, as much is run as ``cells.py`` says.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database

from ragstore.ingest import parse_process
from ragstore.settings import Settings
from tests.crash.cells import alone, beside_others
from tests.crash.forked import InThisProcess, Order, run
from tests.support import children
from tests.support.children import until
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.drift import COLLECTION, Scene, a_copied_row, a_scene, a_struct_with_nodes, an_old_node_id
from tests.support.kills import Tally
from tests.support.segments import SEGMENTS


def lose_mongo(scene: Scene) -> None:
    scene.sql(
        "INSERT INTO ragstore.index_struct (index_id, collection_id, stamp, kind, body) "
        "SELECT 'a list', collection_id, nextval('ragstore.stamp'), 'list', '{}' FROM ragstore.collection "
        "ON CONFLICT DO NOTHING"
    )
    scene.mongo.client.drop_database(scene.mongo.name)


def lose_the_table(scene: Scene) -> None:
    scene.sql("DROP TABLE ragstore.data_docs")


def do_some_of_everything(scene: Scene) -> None:
    ids = scene.node_ids()
    copied = [*scene.node_ids("0.txt"), *scene.node_ids("1.txt")]
    for node_id in copied:
        a_copied_row(scene, node_id, str(uuid4()))
    strays_of(scene, copied)
    scene.data().delete_many({"_id": {"$in": scene.node_ids("2.txt")}})
    scene.data().update_many({"_id": {"$in": scene.node_ids("3.txt")}}, {"$set": {"__data__.text": "altered"}})
    lost = scene.node_ids("4.txt")
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = ANY(%s)", lost)
    scene.sql("DELETE FROM ragstore.document WHERE document_id = ANY(%s)", [scene.id_of("2.txt"), scene.id_of("3.txt")])
    scene.entries("metadata").update_many({}, {"$set": {"doc_hash": "altered"}})
    scene.mongo["index_store/data"].replace_one({"_id": COLLECTION}, a_struct_with_nodes(COLLECTION, ids), upsert=True)
    lose_the_index(scene)


def strays_of(scene: Scene, node_ids: list[str]) -> None:
    """Bodies like these, of runs that nobody remembers."""
    for i, node_id in enumerate(node_ids):
        stray = an_old_node_id(time.time() - 3600 - i)
        body = scene.data().find_one({"_id": node_id})
        scene.data().insert_one(body | {"_id": stray, "__data__": body["__data__"] | {"id_": stray}})


def lose_the_index(scene: Scene) -> None:
    for name, _ in scene.sql(SEGMENTS):
        scene.sql(f"DROP TABLE ragstore.{name}")


def do_what_workers_may_meet(scene: Scene) -> None:
    """Drift that hinders nobody else: bodies, entries, garbage, the index."""
    strays_of(scene, [*scene.node_ids("0.txt"), *scene.node_ids("1.txt")])
    scene.data().delete_many({"_id": {"$in": scene.node_ids("2.txt")}})
    scene.data().update_many({"_id": {"$in": scene.node_ids("3.txt")}}, {"$set": {"__data__.text": "altered"}})
    scene.entries("metadata").update_many({}, {"$set": {"doc_hash": "altered"}})
    lose_the_index(scene)


DAMAGES: dict[str, Callable[[Scene], None]] = {
    "mongo": lose_mongo,
    "table": lose_the_table,
    "everything": do_some_of_everything,
    "what workers may meet": do_what_workers_may_meet,
}

_REBUILT = {"index_build_begun": 1, "index_built": 1}
_BUILT = _REBUILT | {"index_noted": 1}
_SOME = {
    "runs_recovered": 1,
    "repair_table_made": 1,
    "mark_advanced": 4,
    "nodes_put": 2,
    "repair_replaced": 5,
    "repair_deleted": 2,
    "ref_docs_half_put": 3,
    "ref_docs_put": 3,
}

PASSES: dict[str, dict[str, int]] = {
    "mongo": {
        "repair_registered": 1,
        "repair_written": 8,
        "repair_committed": 8,
        "mark_advanced": 8,
        "nodes_put": 13,
        "structs_put": 1,
        "repair_replaced": 4,
        "ref_docs_half_put": 3,
        "ref_docs_put": 3,
        "runs_recovered": 1,
    },
    "table": {"repair_table_made": 1, "repair_written": 5, "repair_committed": 5, "runs_recovered": 1} | _BUILT,
    "everything": _SOME | _REBUILT | {"repair_written": 9, "repair_committed": 9},
}
"""Damage → failpoint → how often a repair of it passes that at least; which nodes go together is by chance."""

PASSES_BESIDE_OTHERS = {"what workers may meet": _SOME | _REBUILT | {"repair_written": 5, "repair_committed": 5}}
MOST_TRIES = 8


@pytest.fixture
def scene(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setattr(parse_process, "ParseProcess", InThisProcess)
    small = settings.model_copy(update={"index_min_nodes": 10, "lease_ttl_s": 60})
    with a_scene(small, mongo_database, tmp_path / "docs", n_documents=5) as scene:
        yield scene


def an_order(scene: Scene, work: str = "repair", *arguments: Any, **options: object) -> Order:
    return Order(work, arguments, children.environment(scene.settings, index_min_nodes=10, batch_chunks=20, **options))


@pytest.mark.parametrize("damage", PASSES)
def test_repair_passes_these_failpoints(damage: str, scene: Scene) -> None:
    DAMAGES[damage](scene)
    hits = run(replace(an_order(scene), watched=True))[0].hits
    assert hits.keys() == PASSES[damage].keys()
    assert hits >= Counter(PASSES[damage])


@pytest.mark.parametrize(("damage", "failpoint", "n"), alone(PASSES))
def test_killed_there_the_next_repair_ends_the_work(
    damage: str, failpoint: str, n: int, scene: Scene, tally: Tally
) -> None:
    hits = scene.hits()
    tally.cells += 1
    DAMAGES[damage](scene)
    assert run(an_order(scene, failpoint=f"{failpoint}:{n}"))[0].killed
    tally.kills += 1
    report = scene.rs.repair()
    assert report.ok, report.as_dict()
    scene.assert_ok()
    assert scene.hits() == hits


@pytest.mark.parametrize(("damage", "failpoint", "n"), beside_others(PASSES_BESIDE_OTHERS))
def test_killed_there_beside_another_repair_and_an_ingest_the_next_repair_ends_the_work(
    damage: str, failpoint: str, n: int, scene: Scene, tally: Tally
) -> None:
    tally.cells += 1
    survived_with = n
    for attempt in range(MOST_TRIES):
        do_what_workers_may_meet(scene)
        texts = {f"{i}.txt": an_edited(a_text(i, 12), attempt) for i in range(0, 5, 2)}
        scene.state |= write_documents(scene.folder, texts)
        armed = an_order(scene, failpoint=f"{failpoint}:{survived_with}")
        # One repair at a time: the armed one is to be the first, and the other waits until it is dead.
        outcome, *others = run(armed, an_order(scene), an_order(scene, "ingest", str(scene.folder)), at_once=False)
        assert not any(other.killed for other in others)
        until(lambda: scene.rs.repair().ok, what="all is repaired")
        scene.assert_ok()
        if outcome.killed:
            tally.kills += 1
            return
        survived_with = max(1, outcome.hits[failpoint])
    pytest.fail("nothing was killed")
