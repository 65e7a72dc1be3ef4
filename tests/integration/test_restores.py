"""One store is restored to another moment than the other: nothing goes on as if nothing had been, and reconcile mends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, SummaryIndex
from llama_index.core.schema import TextNode
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.app.servers import status
from ragstore.errors import EpochEndedError, RestoredStoreError
from ragstore.model.drift import Kind
from ragstore.settings import Settings
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.drift import COLLECTION, SMALL
from tests.support.llama_faces import HashEmbedding, a_splitter
from tests.support.oracle import Oracle, State
from tests.support.parts import execute, postgres_url
from tests.support.restores import Backups, Moment, backups_of
from tests.support.servers import Servers

EXTERNAL = "notes"


@dataclass
class Scene:
    """A folder and LlamaIndex documents in both stores, at three moments of their history."""

    settings: Settings
    mongo: Database[dict[str, Any]]
    backups: Backups
    folder: Path
    moments: list[Moment] = field(default_factory=list)
    files: list[State] = field(default_factory=list)
    notes: list[dict[str, list[str]]] = field(default_factory=list)

    def open(self) -> Ragstore:
        return ragstore.open(self.settings)

    def remember(self, files: State) -> None:
        self.files.append(dict(files))
        self.notes.append(self.notes_now())
        self.moments.append(self.backups.take())

    def notes_now(self) -> dict[str, list[str]]:
        """What PostgreSQL says of LlamaIndex's documents."""
        rows = execute(self.settings, f"SELECT document_id, text FROM ragstore.data_{EXTERNAL} ORDER BY 1, 2")
        found: dict[str, list[str]] = {}
        for document_id, text in rows:
            found.setdefault(document_id, []).append(text)
        return found

    def judge(self, files: State, notes: dict[str, list[str]]) -> None:
        """Both stores hold that and nothing else."""
        Oracle(postgres_url(self.settings), self.mongo, COLLECTION).assert_settled(files)
        assert self.notes_now() == notes
        bodies = sorted(body["__data__"]["text"] for body in self.mongo[f"{EXTERNAL}/data"].find())
        assert bodies == sorted(text for texts in notes.values() for text in texts)
        named = {entry["_id"] for entry in self.mongo[f"{EXTERNAL}/ref_doc_info"].find()}
        assert named == set(notes) == {entry["_id"] for entry in self.mongo[f"{EXTERNAL}/metadata"].find()}

    def set_aside(self) -> list[dict[str, Any]]:
        """Everything that nothing reads any more."""
        names = [name for name in self.mongo.list_collection_names() if name.startswith("ragstore/set_aside/")]
        return [document for name in names for document in self.mongo[name].find()]


@pytest.fixture
def backups(test_servers: Servers, settings: Settings, mongo_database: Database[dict[str, Any]]) -> Iterator[Backups]:
    with backups_of(test_servers, settings, mongo_database) as made:
        yield made


def an_index(rs: Ragstore) -> Any:
    return rs.index(EXTERNAL, embed_model=HashEmbedding())


def a_note(name: str, version: int) -> Document:
    return Document(text=f"Note {name} begins. Version {version} of {name}. It ends.", id_=name)


def put(rs: Ragstore, *notes: Document) -> None:
    index = an_index(rs)
    index._transformations = [a_splitter()]
    index.refresh_ref_docs(list(notes))


def begin(scene: Scene) -> State:
    """Moment 0."""
    with scene.open() as rs:
        rs.create_collection(COLLECTION, **SMALL)
        rs.create_collection(EXTERNAL, model="external", dim=32)
        rs.create_collection("dropped", model="external", dim=3)
        rs.storage_context("dropped").vector_store.add([TextNode(id_="d", text="of before", embedding=[1.0, 0, 0])])
        state = write_documents(scene.folder, {f"{i}.txt": a_text(i, 8) for i in range(6)})
        rs.ingest(scene.folder, collection=COLLECTION)
        put(rs, *(a_note(f"note-{i}", 1) for i in range(4)))
    scene.remember(state)
    return state


def go_on(scene: Scene, state: State, n: int) -> State:
    """From one moment to the next: changed, deleted, new and renamed; a collection dropped and one made."""
    name = str
    with scene.open() as rs:
        state = state | write_documents(
            scene.folder, {f"{i}.txt": an_edited(a_text(i, 8), f"{n} {i}") for i in range(2)}
        )
        state |= write_documents(scene.folder, {f"new-{n}.txt": a_text(f"new {n}", 6)})
        gone, old = scene.folder / f"{1 + n}.txt", scene.folder / f"{3 + n}.txt"
        gone.unlink()
        state.pop(name(gone))
        state[name(old.with_name(f"moved-{n}.txt"))] = state.pop(name(old))
        old.rename(old.with_name(f"moved-{n}.txt"))
        rs.sync(scene.folder, collection=COLLECTION, allow_mass_delete=True)
        put(rs, a_note("note-0", 10 + n), a_note("note-1", 10 + n), a_note(f"note-new-{n}", 1))
        an_index(rs).delete_ref_doc(f"note-{1 + n}", delete_from_docstore=True)
        if n == 1:
            rs.drop_collection("dropped")
        rs.create_collection(f"made-{n}", model="external", dim=3)
        context = rs.storage_context(f"made-{n}")
        context.vector_store.add([TextNode(id_=f"m{n}", text="of later", embedding=[1.0, 0, 0])])
        SummaryIndex(nodes=[TextNode(id_=f"s{n}", text="listed")], storage_context=context).set_index_id(f"list-{n}")
    scene.remember(state)
    return state


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path, backups: Backups) -> Scene:
    made = Scene(settings, mongo_database, backups, tmp_path / "docs")
    go_on(made, go_on(made, begin(made), 1), 2)
    return made


def assert_refused(scene: Scene) -> str:
    """Whatever writes is refused with an error that names the command; returns what it says."""
    with scene.open() as rs:
        for write in (
            lambda: rs.ingest(scene.folder, collection=COLLECTION),
            lambda: rs.sync(scene.folder, collection=COLLECTION),
            lambda: rs.delete("nothing", collection=COLLECTION),
            lambda: rs.storage_context(EXTERNAL),
            lambda: rs.drop_collection(EXTERNAL),
            rs.upkeep,
            rs.repair,
            lambda: rs.repair(dry_run=True),
        ):
            with pytest.raises(RestoredStoreError) as raised:
                write()
            assert "ragstore reconcile" in raised.value.hint
        report = rs.verify()
        assert report.drift.counts[Kind.RESTORED_STORE] == 1
    return raised.value.message


@pytest.mark.parametrize(("postgres", "mongo"), [(0, 2), (1, 2), (0, 1), (2, 0), (2, 1), (1, 0)])
def test_a_mix_of_two_moments_is_refused_and_reconciled_to_postgresql(scene: Scene, postgres: int, mongo: int) -> None:
    scene.backups.restore(postgres=scene.moments[postgres], mongo=scene.moments[mongo])
    store = "PostgreSQL" if postgres < mongo else "MongoDB"
    assert assert_refused(scene).startswith(f"{store} was restored to another moment")
    shown = status(scene.settings).stores
    assert not shown["ok"]
    assert store in shown["error"] and "ragstore reconcile" in shown["error"]
    with scene.open() as rs:
        texts = {hit.text for hit in rs.query("Version", collection=EXTERNAL, embedding=[1.0] * 32, top_k=50)}
        assert texts == {text for found in scene.notes[postgres].values() for text in found}
        before = {name: list(scene.mongo[name].find()) for name in scene.mongo.list_collection_names()}
        planned = rs.reconcile(dry_run=True)
        assert (planned.ok, planned.restored is None, planned.epoch) == (False, False, 1)
        assert before == {name: list(scene.mongo[name].find()) for name in scene.mongo.list_collection_names()}
        report = rs.reconcile()
        assert report.ok, report.as_dict()
        assert report.epoch == 2
        assert planned.repair.set_aside.examples == report.repair.set_aside.examples
        verified = rs.verify(deep=True)
        assert verified.ok, verified.drift.as_dict()
        scene.judge(scene.files[postgres], scene.notes[postgres])
        assert status(scene.settings).stores == {"ok": True, "epoch": 2}
        again = rs.reconcile()
        assert (again.ok, again.restored, again.epoch) == (True, None, 2)
        rs.sync(scene.folder, collection=COLLECTION, allow_mass_delete=True)
        put(rs, a_note("note-0", 99), a_note("note-new-2", 99))
        verified = rs.verify(deep=True)
        assert verified.ok, verified.drift.as_dict()
        scene.judge(scene.files[2], scene.notes_now())


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_both_stores_at_one_moment_are_no_restore(scene: Scene, moment: int) -> None:
    scene.backups.restore(postgres=scene.moments[moment], mongo=scene.moments[moment])
    with scene.open() as rs:
        assert rs.reconcile().restored is None
        assert rs.verify(deep=True).ok
        rs.sync(scene.folder, collection=COLLECTION, allow_mass_delete=True)
        assert rs.verify(deep=True).ok
    assert status(scene.settings).stores == {"ok": True, "epoch": 1}


def test_what_is_set_aside_is_all_there_and_no_revision_comes_again(scene: Scene) -> None:
    lost = {body["__data__"]["text"] for body in scene.moments[2].mongo[f"{EXTERNAL}/data"]}
    entries = {e["_id"]: e["stamp"] for e in scene.moments[2].mongo[f"{EXTERNAL}/ref_doc_info"]}
    scene.backups.restore(postgres=scene.moments[0])
    with scene.open() as rs:
        report = rs.reconcile()
        kept = {body["__data__"]["text"] for body in scene.mongo[f"{EXTERNAL}/data"].find()}
        aside = scene.set_aside()
        assert lost <= kept | {d["__data__"]["text"] for d in aside if isinstance(d.get("__data__"), dict)}
        assert {"made-1.data", "made-2.data", "index_store.data"} <= {
            p.rpartition("/")[2] for p in report.repair.places
        }
        assert {"m1", "m2", "s1", "s2", "list-1", "list-2"} <= {d["_id"] for d in aside}
        assert not any(
            name.startswith("made-") and scene.mongo[name].count_documents({})
            for name in scene.mongo.list_collection_names()
        )
        revisions = dict(execute(scene.settings, "SELECT document_id, revision FROM ragstore.document"))
        assert all(revisions[document_id] >= stamp for document_id, stamp in entries.items())
        assert execute(scene.settings, "SELECT nextval('ragstore.stamp')")[0][0] > 1_000_000
        put(rs, a_note("note-new-2", 5))
        (entry,) = scene.mongo[f"{EXTERNAL}/ref_doc_info"].find({"_id": "note-new-2"})
        assert entry["stamp"] > entries["note-new-2"]
        assert rs.verify(deep=True).ok


def test_the_same_node_id_written_on_two_timelines_has_one_text(scene: Scene) -> None:
    def add(text: str) -> None:
        with scene.open() as rs:
            vector_store = rs.storage_context(EXTERNAL).vector_store
            vector_store.add([TextNode(id_="n1", text=text, embedding=[1.0] * 32)])

    add("AAA of the lost timeline")
    scene.backups.restore(postgres=scene.moments[2])
    with pytest.raises(RestoredStoreError):
        add("BBB of the present one")
    with scene.open() as rs:
        assert rs.reconcile().ok
    add("BBB of the present one")
    with scene.open() as rs:
        context = rs.storage_context(EXTERNAL)
        assert [n.get_content() for n in context.vector_store.get_nodes(node_ids=["n1"])] == ["BBB of the present one"]
        assert context.docstore.get_node("n1").get_content() == "BBB of the present one"
        assert rs.verify(deep=True).ok


@pytest.mark.parametrize("restored", ["postgres", "mongo"])
def test_a_store_restored_under_a_running_process_is_noticed_before_it_writes_to_mongodb(
    scene: Scene, restored: str
) -> None:
    with scene.open() as rs:
        vector_store = rs.storage_context(EXTERNAL).vector_store

        def add(node_id: str, text: str) -> None:
            vector_store.add([TextNode(id_=node_id, text=text, embedding=[1.0] * 32)])

        add("a", "before")
        moment = scene.backups.take()
        add("a", "lost")
        scene.backups.restore(**{restored: moment})
        there = {name: list(scene.mongo[name].find()) for name in scene.mongo.list_collection_names()}
        with pytest.raises(RestoredStoreError):
            add("a", "after")
        assert there == {name: list(scene.mongo[name].find()) for name in scene.mongo.list_collection_names()}
        write_documents(scene.folder, {"late.txt": a_text("late", 6)})
        with pytest.raises(RestoredStoreError):
            rs.ingest(scene.folder, collection=COLLECTION)
        assert rs.reconcile().ok
        with pytest.raises(EpochEndedError) as raised:
            add("a", "after")
        assert "open ragstore again" in raised.value.hint
        # What asks for the collection by its name each time goes on.
        rs.sync(scene.folder, collection=COLLECTION, allow_mass_delete=True)
        rs.storage_context(EXTERNAL).vector_store.add([TextNode(id_="a", text="after", embedding=[1.0] * 32)])
        assert rs.verify(deep=True).ok
