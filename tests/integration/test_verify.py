"""verify: sees every kind of drift, and none where there is only work under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database

import ragstore
from ragstore.audit.nodes import prefetched
from ragstore.errors import CollectionNotFoundError, EmptyStoreError
from ragstore.model.drift import Kind, VerifyReport
from ragstore.model.report import Progress
from ragstore.model.run import new_node_id
from ragstore.settings import Settings
from tests.support.corpus import a_text
from tests.support.drift import (
    COLLECTION,
    MUCH_WRITTEN,
    Scene,
    a_copied_row,
    a_scene,
    a_struct_with_nodes,
    workers_busy,
)
from tests.support.llama_faces import DIM, HashEmbedding, a_document
from tests.support.parts import a_revision, open_parts
from tests.support.plain_stack import Ours, counted
from tests.support.segments import SEGMENTS

NOTHING = {"missing_in_mongo": 0, "orphans_in_mongo": 0, "missing_in_postgres": 0, "mismatched": 0}


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path) -> Iterator[Scene]:
    with a_scene(settings, mongo_database, tmp_path / "docs") as made:
        yield made


def counts(scene: Scene, *, deep: bool = False) -> dict[str, int]:
    found = scene.rs.verify(deep=deep).as_dict()
    return {name: int(found[name]) for name in NOTHING if found[name]}


def test_a_sound_collection_is_ok_and_counted(scene: Scene) -> None:
    for deep in (False, True):
        report = scene.rs.verify(deep=deep)
        sound = {"ok": True, "documents": 4, "nodes": len(scene.node_ids()), **NOTHING, "pending": 0, "found": {}}
        assert report.as_dict() == {**sound, "seconds": round(report.seconds, 3)}


def test_an_empty_database_is_ok(store: ragstore.Ragstore) -> None:
    report = store.verify(deep=True)
    sound = {"ok": True, "documents": 0, "nodes": 0, **NOTHING, "pending": 0, "found": {}}
    assert report.as_dict() == {**sound, "seconds": round(report.seconds, 3)}


def test_verify_changes_nothing(scene: Scene) -> None:
    scene.data().delete_one({})
    before = scene.contents()
    scene.rs.verify(deep=True)
    assert scene.contents() == before


def test_bodies_that_are_gone_are_missing_in_mongo(scene: Scene) -> None:
    scene.data().delete_many({"_id": {"$in": scene.node_ids()[:3]}})
    assert counts(scene) == counts(scene, deep=True) == {"missing_in_mongo": 3}


def test_rows_that_are_gone_are_missing_in_postgres(scene: Scene) -> None:
    scene.sql("DELETE FROM ragstore.data_docs WHERE node_id = ANY(%s)", scene.node_ids()[:3])
    assert counts(scene) == counts(scene, deep=True) == {"missing_in_postgres": 3}


def test_a_dropped_table_leaves_every_node_missing_in_postgres(scene: Scene) -> None:
    n_nodes = len(scene.node_ids())
    scene.sql("DROP TABLE ragstore.data_docs")
    assert counts(scene) == counts(scene, deep=True) == {"missing_in_postgres": n_nodes, "mismatched": 1}


def test_a_dropped_mongo_database_leaves_every_node_missing_there(scene: Scene) -> None:
    scene.mongo.client.drop_database(scene.mongo.name)
    found = scene.rs.verify()
    assert found.drift.counts[Kind.MISSING_IN_MONGO] == len(scene.node_ids())
    assert found.drift.counts[Kind.MISSING_REGISTRY] == 1


def test_a_body_that_no_revision_names_is_an_orphan(scene: Scene) -> None:
    scene.data().insert_one({"_id": "stray", "__data__": {"id_": "stray", "text": "?"}, "__type__": "1"})
    assert counts(scene) == counts(scene, deep=True) == {"orphans_in_mongo": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"__data__.text": "altered"},
        {"__data__.metadata.file_name": "altered"},
        {"__data__.relationships.1.node_id": "altered"},
        {"__type__": "4"},
        {"stamp": 2**40},
    ],
)
def test_an_altered_body_is_found_by_looking_deep(change: dict[str, object], scene: Scene) -> None:
    scene.data().update_one({"_id": scene.node_ids()[0]}, {"$set": change})
    assert counts(scene, deep=True) == {"mismatched": 1}


def test_a_vector_that_no_search_can_find_is_seen_by_looking_deep(scene: Scene) -> None:
    zero = f"[{','.join(['0'] * 256)}]"
    scene.sql("UPDATE ragstore.data_docs SET embedding = %s WHERE node_id = %s", zero, scene.node_ids()[0])
    assert counts(scene) == {}
    assert counts(scene, deep=True) == {"mismatched": 1}


@pytest.mark.parametrize("statement", ["n_nodes = n_nodes + 1", "n_nodes = n_nodes - 1"])
def test_a_ledger_that_counts_other_rows_is_mismatched(statement: str, scene: Scene) -> None:
    scene.sql(f"UPDATE ragstore.document SET {statement} WHERE document_id = %s", scene.id_of("0.txt"))
    assert counts(scene) == {"mismatched": 1}


@pytest.mark.parametrize(
    "statement", ["DELETE FROM ragstore.document", "UPDATE ragstore.document SET deleted_at = now()"]
)
def test_rows_without_a_live_document_are_mismatched(statement: str, scene: Scene) -> None:
    scene.sql(f"{statement} WHERE document_id = %s", scene.id_of("0.txt"))
    assert scene.rs.verify().drift.counts[Kind.MISSING_IN_LEDGER] == 1


@pytest.mark.parametrize("kind", ["ref_doc_info", "metadata"])
def test_entries_that_are_missing_stale_or_too_many_are_mismatched(kind: str, scene: Scene) -> None:
    entries = scene.entries(kind)
    entries.delete_one({"_id": scene.id_of("0.txt")})
    entries.update_one({"_id": scene.id_of("1.txt")}, {"$set": {"stamp": 0}})
    entries.insert_one({"_id": "nobody", "stamp": 1, "node_ids": [], "metadata": {}, "doc_hash": "x"})
    assert counts(scene) == {"mismatched": 3}


def test_an_entry_that_names_other_nodes_is_found_by_looking_deep(scene: Scene) -> None:
    scene.entries("ref_doc_info").update_one({"_id": scene.id_of("0.txt")}, {"$set": {"node_ids": ["x"]}})
    assert counts(scene, deep=True) == {"mismatched": 1}


def test_a_row_that_a_foreign_writer_copied_is_mismatched_not_missing(scene: Scene) -> None:
    a_copied_row(scene, scene.node_ids()[0], str(uuid4()))
    assert scene.rs.verify().drift.counts == {Kind.DOUBLED_ROW: 1, Kind.WRONG_COUNT: 1}


def test_an_index_that_queries_rely_on_and_that_is_not_there_is_mismatched(scene: Scene) -> None:
    scene.sql("UPDATE ragstore.collection SET segments = '[[9, 0, 255, 9, 0]]'")
    ((of_segment, _),) = scene.sql(SEGMENTS)
    scene.sql("DROP INDEX ragstore.data_docs_text_idx")
    found = scene.rs.verify().drift
    assert sorted(found.examples[Kind.INVALID_INDEX]) == [
        "data_docs_text_idx is missing",
        f"{of_segment} is missing",
    ]


def test_a_struct_that_holds_node_ids_is_mismatched(scene: Scene) -> None:
    scene.mongo["index_store/data"].insert_one(a_struct_with_nodes(COLLECTION, scene.node_ids()))
    assert counts(scene) == {"mismatched": 1}


def test_a_mongo_database_of_another_deployment_is_refused(scene: Scene) -> None:
    scene.mongo["ragstore/registry"].update_one({"_id": "deployment"}, {"$set": {"deployment_id": str(uuid4())}})
    with pytest.raises(EmptyStoreError):
        scene.rs.verify()


def test_one_collection_can_be_asked_for(scene: Scene) -> None:
    scene.rs.create_collection("other", model="external", dim=3)
    scene.data().delete_one({})
    assert scene.rs.verify("other").ok
    assert not scene.rs.verify(COLLECTION).ok
    with pytest.raises(CollectionNotFoundError):
        scene.rs.verify("absent")


def test_progress_is_told(scene: Scene) -> None:
    told: list[Progress] = []
    scene.rs.verify(progress=told.append)
    assert (told[-1].done, told[-1].expected) == (len(scene.node_ids()), len(scene.node_ids()))


def test_staged_nodes_of_a_run_in_flight_are_pending(scene: Scene) -> None:
    staged = [new_node_id() for _ in range(3)]
    scene.sql(
        "INSERT INTO ragstore.run (run_id, collection_id, worker, node_ids, lease_until) "
        "SELECT gen_random_uuid(), collection_id, 'elsewhere', %s, now() + interval '1 hour' FROM ragstore.collection",
        staged,
    )
    scene.data().insert_many([{"_id": i, "__data__": {}, "__type__": "1", "stamp": 0} for i in staged])
    report = scene.rs.verify(deep=True)
    assert report.ok
    assert report.pending == 1


def test_replaced_nodes_that_wait_in_the_outbox_are_pending(settings: Settings) -> None:
    with open_parts(settings) as parts:
        parts.publisher.publish(parts.collection, [a_revision("a", a_text("one"))])
        parts.publisher.publish(parts.collection, [a_revision("a", a_text("two"), planned_from=1, action="updated")])
    with ragstore.open(settings) as rs:
        report = rs.verify(deep=True)
        assert report.ok
        assert report.pending > 0


def test_there_is_no_false_drift_while_workers_write(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    with a_scene(settings, mongo_database, tmp_path / "docs", n_documents=12) as scene:
        reports: list[VerifyReport] = []
        with workers_busy(scene):
            # As often as it takes to have looked while somebody wrote.
            while len(reports) < 20 or not any(report.pending for report in reports) or not scene.sql(MUCH_WRITTEN):
                reports.append(scene.rs.verify(deep=len(reports) % 2 == 1))
        assert [report.drift.as_dict() for report in reports if not report.ok] == []
        assert scene.rs.verify(deep=True).ok


def test_a_collection_with_little_in_it_costs_a_few_questions_and_no_thread(settings: Settings) -> None:
    """Programs with a collection for each of many customers have many that are empty, or nearly."""
    assert settings.postgres_url is not None and settings.mongo_url is not None
    ours = Ours(
        settings.postgres_url.get_secret_value(), settings.mongo_url.get_secret_value(), settings.mongo_database
    )
    with counted(ours) as (stack, trips):
        store = stack.store()
        index = store.index("docs", embed_model=HashEmbedding())
        index.insert(a_document("a", n_sentences=1))

        def cost(n_collections: int) -> int:
            for i in range(n_collections):
                store.create_collection(f"c{i}", model="external", dim=DIM)
            store.verify(deep=True)
            trips.reset()
            assert store.verify(deep=True).ok
            return trips.all

        few = cost(2)
        assert cost(12) - few <= 10 * 25
    before = set(threading.enumerate())
    assert [threading.active_count() - len(before) for _ in prefetched(iter([[1], [2]]))] == [0, 0]
