"""What is no restore is never taken for one: kills at any moment, many workers, lost volumes, servers stopped and started."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import Document, TextNode
from pymongo.database import Database

import ragstore
from ragstore import embedded
from ragstore.app import Ragstore
from ragstore.app.servers import down, status
from ragstore.errors import EmptyStoreError, RestoredStoreError
from ragstore.settings import Settings
from tests.crash.forked import Order, llama_insert, run
from tests.support import children
from tests.support.drift import COLLECTION
from tests.support.embedded import a_home, remove
from tests.support.llama_faces import DIM
from tests.support.parts import execute

NODE = {"embedding": [1.0, 0.0, 0.0]}


def a_node(node_id: str, text: str) -> TextNode:
    return TextNode(id_=node_id, text=text, **NODE)


def add(rs: Ragstore, node_id: str, text: str) -> None:
    rs.storage_context("notes").vector_store.add([a_node(node_id, text)])


def of(store: Ragstore, node_id: str) -> tuple[str, str]:
    """Its text in both stores."""
    context = store.storage_context("notes")
    (node,) = context.vector_store.get_nodes(node_ids=[node_id])
    return node.get_content(), context.docstore.get_node(node_id).get_content()


@pytest.mark.parametrize("failpoint", ["direct_committed", "mark_advanced", "nodes_put", "ref_docs_put"])
def test_a_kill_between_the_two_stores_is_no_restore(settings: Settings, failpoint: str) -> None:
    with ragstore.open(settings) as rs:
        rs.create_collection(COLLECTION, model="external", dim=DIM)
    env = children.environment(settings, failpoint=failpoint)
    for n in range(4):
        assert run(Order("llama insert", [(f"note {n}", 1)], env))[0].killed
        assert status(settings).stores["ok"]
    with ragstore.open(settings) as rs:
        assert rs.reconcile().restored is None
        llama_insert(rs, ("another", 1))
        assert rs.verify(deep=True).ok


def test_many_workers_at_once_are_no_restore(store: Ragstore, settings: Settings) -> None:
    store.create_collection("notes", model="external", dim=3)
    stop = threading.Event()

    def work(name: int) -> int:
        with ragstore.open(settings) as rs:
            vector_store = rs.storage_context("notes").vector_store
            for n in range(15):
                vector_store.add([a_node(f"{name}-{n % 3}", f"{n}")])
        return 15

    def look() -> int:
        looks = 0
        while not stop.is_set():
            shown = status(settings).stores
            assert shown["ok"], shown
            looks += 1
        return looks

    with ThreadPoolExecutor(7) as pool:
        looking = pool.submit(look)
        try:
            assert sum(pool.map(work, range(6))) == 90
        finally:
            stop.set()
        assert looking.result() > 3
    assert store.verify(deep=True).ok


def test_a_lost_mongodb_is_repaired_and_then_no_restore(
    store: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    store.create_collection("notes", model="external", dim=3)
    for n in range(5):
        add(store, f"n{n}", "of before")
    store.storage_context("notes").docstore.add_documents([Document(text="whole", id_="d")])
    mongo_database.client.drop_database(mongo_database.name)
    shown = status(settings).stores
    assert not shown["ok"]
    assert "ragstore repair" in shown["error"]
    with pytest.raises(EmptyStoreError):
        add(store, "n0", "into an empty database")
    assert store.repair().ok
    assert status(settings).stores == {"ok": True, "epoch": 1}
    add(store, "n0", "of after")
    with ragstore.open(settings) as another:
        assert of(another, "n0") == ("of after", "of after")
        assert of(another, "n1") == ("of before", "of before")
        assert another.verify(deep=True).ok


def test_a_mongodb_lost_in_a_later_epoch_is_repaired_into_that_epoch(
    store: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    store.create_collection("notes", model="external", dim=3)
    add(store, "n0", "of before")
    mongo_database["ragstore/registry"].update_one({"_id": "deployment"}, {"$set": {"epoch": 7}})
    assert store.reconcile().epoch == 8
    mongo_database.client.drop_database(mongo_database.name)
    with ragstore.open(settings) as rs:
        assert rs.repair().ok
        add(rs, "n0", "of after")
    assert status(settings).stores == {"ok": True, "epoch": 8}


def test_entries_of_before_there_were_epochs_are_taken_for_the_first(
    store: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    registry = mongo_database["ragstore/registry"]
    registry.update_one({"_id": "deployment"}, {"$unset": {"epoch": 1, "mark": 1}})
    store.create_collection("notes", model="external", dim=3)
    add(store, "n0", "text")
    (entry,) = registry.find({"_id": "deployment"})
    assert (entry["epoch"], entry["mark"]["number"]) == (
        1,
        execute(settings, "SELECT max(mark) FROM ragstore.mark")[0][0],
    )
    assert status(settings).stores["ok"]


@pytest.fixture
def home() -> Iterator[Path]:
    made = a_home()
    yield made
    remove(made)


def test_embedded_servers_by_their_folders(home: Path) -> None:
    """Stopped, started and copied together they are no restore; each put back alone is one."""
    settings = Settings(home=home, env="test", grace_s=0)

    def put(text: str) -> None:
        with ragstore.open(settings) as rs:
            rs.create_collection("notes", model="external", dim=3)
            add(rs, "n1", text)

    def copy(source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
        _like(source, target)

    put("of before")
    down(settings)
    folders = {"postgres": home / "postgres", "mongo": home / "mongo"}
    assert all(folder.is_dir() for folder in folders.values()), sorted(home.iterdir())
    olds = {name: folder.with_name(f"{name}.old") for name, folder in folders.items()}
    news = {name: folder.with_name(f"{name}.new") for name, folder in folders.items()}
    for name, folder in folders.items():
        copy(folder, olds[name])
    put("of the lost timeline")
    put("of the lost timeline, again")
    down(settings)
    for name, folder in folders.items():
        copy(folder, news[name])
    for name, folder in folders.items():  # both: a moment that was
        copy(olds[name], folder)
    put("of another timeline")
    assert embedded.stop(home)
    for restored in ("postgres", "mongo"):
        for name, folder in folders.items():
            copy(olds[name] if name == restored else news[name], folder)
        with pytest.raises(RestoredStoreError, match="was restored to another moment"):
            put("of the present")
        with ragstore.open(settings) as rs:
            assert rs.reconcile().ok
        put("of the present")
        with ragstore.open(settings) as rs:
            assert of(rs, "n1") == ("of the present", "of the present")
            assert rs.verify(deep=True).ok
        down(settings)


def _like(source: Path, target: Path) -> None:
    """Give copies to the account of the servers, which is not root."""
    for path in [source, *source.rglob("*")]:
        owner = path.lstat()
        copied = target / path.relative_to(source)
        shutil.chown(copied, owner.st_uid, owner.st_gid) if not copied.is_symlink() else None
