"""A process dies while its last command is on its way to MongoDB, others do its work and more, and then it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.crash.test_killed_in_flight import deliver
from tests.support import children
from tests.support.children import until
from tests.support.corpus import a_text, write_documents
from tests.support.forwarder import Forwarder, a_forwarder
from tests.support.internals import writer_of
from tests.support.llama_children import Place
from tests.support.llama_faces import DIM, a_document
from tests.support.parts import execute, mongo_url, postgres_url

COLLECTION = "docs"
DUE = "UPDATE ragstore.outbox SET not_before = now()"
NOT_YET = "SELECT count(*) FROM ragstore.outbox WHERE not_before <= now()"


def mark(command: str, place: str) -> bytes:
    """The beginning of a command, as BSON."""
    return command.encode() + b"\0" + (len(place) + 1).to_bytes(4, "little") + place.encode() + b"\0"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"grace_s": 3600.0})


@pytest.fixture
def rs(settings: Settings) -> Iterator[Ragstore]:
    with ragstore.open(settings) as store:
        yield store


@pytest.fixture
def external(rs: Ragstore) -> None:
    rs.create_collection(COLLECTION, model="external", dim=DIM)


def recovered(rs: Ragstore, settings: Settings) -> None:
    """Others do what is due, also where PostgreSQL has not noticed yet that the dead process is gone."""

    def is_done() -> bool:
        writer_of(rs).recoverer.recover()
        return execute(settings, NOT_YET) == [(0,)]

    until(is_done, what="what is due is done")


def killed_while_sending(settings: Settings, proxy: Forwarder, *order: object) -> None:
    proxy.arm("arrives late", cut=False)
    child = Place(postgres_url(settings), proxy.url, settings.mongo_database).start(*order)  # type: ignore[arg-type]
    until(lambda: proxy.met.is_set() or not child.is_alive(), what="the child sends its command")
    assert proxy.met.is_set()
    child.kill()
    child.join()


def held(mongo: Database[dict[str, Any]]) -> dict[str, list[Any]]:
    """Ids of all that MongoDB holds, but its registry."""
    names = [name for name in mongo.list_collection_names() if name.startswith((f"{COLLECTION}/", "index_store/"))]
    return {name: ids for name in names if (ids := [each["_id"] for each in mongo[name].find()])}


def delete(rs: Ragstore) -> None:
    rs.storage_context(COLLECTION).docstore.delete_document("x")


def drop(rs: Ragstore) -> None:
    rs.drop_collection(COLLECTION)


def drop_and_make(rs: Ragstore) -> None:
    rs.drop_collection(COLLECTION)
    rs.create_collection(COLLECTION, model="external", dim=DIM)


@pytest.mark.usefixtures("external")
@pytest.mark.parametrize("meanwhile", [delete, drop, drop_and_make])
@pytest.mark.parametrize("kind", ["data", "ref_doc_info", "metadata"])
def test_what_an_insert_sent_is_gone_after_the_grace_period(
    rs: Ragstore,
    settings: Settings,
    mongo_database: Database[dict[str, Any]],
    kind: str,
    meanwhile: Callable[[Ragstore], None],
) -> None:
    with a_forwarder(mongo_url(settings), mark=mark("insert", f"{COLLECTION}/{kind}")) as proxy:
        killed_while_sending(settings, proxy, "insert", [a_document("x", 1, 4)])
        recovered(rs, settings)
        meanwhile(rs)
        recovered(rs, settings)
        deliver(proxy)
    assert f"{COLLECTION}/{kind}" in held(mongo_database), "nothing came late"
    assert rs.verify(deep=True).ok, "what the outbox still looks after is no drift"
    execute(settings, DUE)
    recovered(rs, settings)
    assert held(mongo_database) == {}
    report = rs.verify(deep=True)
    assert report.ok and not report.pending


@pytest.mark.usefixtures("external")
def test_what_was_sent_by_the_one_who_did_the_work_of_a_dead_one_is_gone_too(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    place = Place(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database)  # type: ignore[union-attr]
    assert not place.run("insert", [a_document("x", 1, 4)], failpoint="direct_committed")
    with a_forwarder(mongo_url(settings), mark=mark("insert", f"{COLLECTION}/data")) as proxy:
        killed_while_sending(settings, proxy, "recover")
        recovered(rs, settings)
        delete(rs)
        recovered(rs, settings)
        deliver(proxy)
    assert len(held(mongo_database)[f"{COLLECTION}/data"]) == 4
    execute(settings, DUE)
    recovered(rs, settings)
    assert held(mongo_database) == {}


@pytest.mark.parametrize("command", ["insert", "update"])
def test_what_an_ingest_sent_is_gone_after_the_grace_period(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path, command: str
) -> None:
    path = tmp_path / "docs" / "a.txt"
    if command == "update":
        write_documents(tmp_path / "docs", {"a.txt": a_text("former")})
        rs.ingest(tmp_path / "docs", collection=COLLECTION)
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    with a_forwarder(mongo_url(settings), mark=mark(command, f"{COLLECTION}/ref_doc_info")) as proxy:
        proxy.arm("arrives late", cut=False)
        env = children.environment(settings, mongo_url=proxy.url)
        child = children.start("tests.crash.child", "ingest", str(tmp_path / "docs"), env=env)
        with children.running([child]):
            until(lambda: proxy.met.is_set() or child.poll() is not None, what="the child sends its entries")
            assert proxy.met.is_set(), children.finish(child)
            children.kill(child)
        recovered(rs, settings)
        assert rs.delete(str(path), collection=COLLECTION)
        recovered(rs, settings)
        deliver(proxy)
    assert f"{COLLECTION}/ref_doc_info" in held(mongo_database), "nothing came late"
    execute(settings, DUE)
    recovered(rs, settings)
    assert held(mongo_database) == {}
    assert rs.verify(deep=True).ok


def delete_structs(rs: Ragstore) -> None:
    store = rs.storage_context(COLLECTION).index_store
    for struct in store.index_structs():
        store.delete_index_struct(struct.index_id)


@pytest.mark.usefixtures("external")
@pytest.mark.parametrize("meanwhile", [delete_structs, drop_and_make])
def test_an_index_struct_that_was_deleted_does_not_come_back(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]], meanwhile: Callable[[Ragstore], None]
) -> None:
    with a_forwarder(mongo_url(settings), mark=mark("update", "index_store/data")) as proxy:
        killed_while_sending(settings, proxy, "build_index", "SummaryIndex", [a_document("x", 1, 4)])
        recovered(rs, settings)
        assert len(held(mongo_database)["index_store/data"]) == 1, "others bring it to MongoDB"
        meanwhile(rs)
        recovered(rs, settings)
        deliver(proxy)
    assert len(held(mongo_database)["index_store/data"]) == 1, "nothing came late"
    execute(settings, DUE)
    recovered(rs, settings)
    assert "index_store/data" not in held(mongo_database)
    assert [each.index_id for each in rs.storage_context(COLLECTION).index_store.index_structs()] == [COLLECTION]
    assert rs.verify(deep=True).ok


@pytest.mark.usefixtures("external")
@pytest.mark.parametrize("kind", ["data", "ref_doc_info", "metadata"])
def test_a_late_delete_takes_nothing_that_was_written_since(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]], kind: str
) -> None:
    node = TextNode(id_="n", text="again", embedding=[1.0] * DIM)
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="x", hash="h")
    store = rs.storage_context(COLLECTION).vector_store
    store.add([node])
    with a_forwarder(mongo_url(settings), mark=mark("delete", f"{COLLECTION}/{kind}")) as proxy:
        killed_while_sending(settings, proxy, "again_and_again", "delete", "x", [1])
        recovered(rs, settings)
        store.add([node])
        before = held(mongo_database)
        deliver(proxy)
    assert held(mongo_database) == before
    execute(settings, DUE)
    recovered(rs, settings)
    assert held(mongo_database) == before
    assert rs.verify(deep=True).ok


@pytest.mark.usefixtures("external")
def test_what_comes_later_than_the_grace_period_to_a_dropped_collection_is_found_and_repaired(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    rs.storage_context(COLLECTION).vector_store.add([TextNode(id_="n", text="text", embedding=[1.0] * DIM)])
    rs.drop_collection(COLLECTION)
    execute(settings, DUE)
    recovered(rs, settings)
    foreign = {"_id": "theirs", "__data__": {}, "__type__": "1"}
    mongo_database[f"{COLLECTION}/data"].insert_many([{"_id": "late", "stamp": 3}, foreign])
    mongo_database[f"{COLLECTION}/ref_doc_info"].insert_one({"_id": "x", "stamp": 1, "node_ids": ["late"]})
    mongo_database[f"{COLLECTION}/metadata"].insert_one({"_id": "x", "stamp": 1, "doc_hash": "h"})
    mongo_database["index_store/data"].insert_one({"_id": "s", "stamp": 2, "collection": COLLECTION})
    mongo_database["lost/data"].insert_one({"_id": "kept", "stamp": 4})
    report = rs.verify()
    assert not report.ok and report.drift.total == 5, report.drift
    assert rs.repair(dry_run=True).repaired.total == 4
    assert report.drift.total == rs.verify().drift.total
    repaired = rs.repair()
    assert repaired.repaired.total == 4 and repaired.kept.total == 1 and not repaired.ok
    assert held(mongo_database) == {f"{COLLECTION}/data": ["theirs"]}
    assert mongo_database["lost/data"].count_documents({}) == 1, "PostgreSQL may have lost that collection"
