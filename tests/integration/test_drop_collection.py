"""A collection that is dropped, beside writers, readers and one of the same name that is made right afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.schema import TextNode
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import CollectionBusyError, CollectionNotFoundError, StoreSetupError
from ragstore.model.run import Run, new_run_id
from ragstore.protocol import drop as dropping
from ragstore.protocol import publish
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint
from tests.support import servers
from tests.support.corpus import a_text, write_documents
from tests.support.internals import collection_of, pool_of, writer_of
from tests.support.oracle import Oracle, State
from tests.support.parts import a_revision, execute, open_parts, postgres_url
from tests.support.roles import a_database_with_roles
from tests.support.segments import SEGMENTS, merge_at_rest, seal
from tests.support.servers import Servers

COLLECTION = "docs"
DUE = "UPDATE ragstore.outbox SET not_before = now()"
LEFT = """
SELECT (SELECT count(*) FROM ragstore.collection), (SELECT count(*) FROM ragstore.document),
    (SELECT count(*) FROM ragstore.body), (SELECT count(*) FROM ragstore.run), (SELECT count(*) FROM ragstore.outbox),
    (SELECT count(*) FROM ragstore.index_struct), (SELECT count(*) FROM pg_class
                                                 WHERE relname ^@ 'data_docs' OR relname ^@ 'seg_')
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"grace_s": 3600.0})


@pytest.fixture
def rs(settings: Settings) -> Iterator[Ragstore]:
    with ragstore.open(settings) as store:
        store.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
        yield store


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo_database)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i) for i in range(3)})


def retire(rs: Ragstore, settings: Settings) -> None:
    execute(settings, DUE)
    writer_of(rs).recoverer.retire()


def assert_nothing_is_left(settings: Settings, mongo: Database[dict[str, Any]]) -> None:
    assert execute(settings, LEFT) == [(0,) * 7]
    names = [name for name in mongo.list_collection_names() if name.startswith(f"{COLLECTION}/")]
    assert {name: list(mongo[name].find()) for name in [*names, "index_store/data"]} == {
        name: [] for name in [*names, "index_store/data"]
    }


def test_all_that_it_has_is_gone_from_both_stores(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]], state: State, tmp_path: Path
) -> None:
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    context = rs.storage_context(COLLECTION)
    VectorStoreIndex.from_documents(
        [Document(id_="a", text="The pump needs oil.")],
        storage_context=context,
        embed_model=rs.embed_model(COLLECTION),
    )
    vector = rs.embed_model(COLLECTION).get_text_embedding("alone")
    context.vector_store.add([TextNode(id_="alone", text="A node without a document.", embedding=vector)])
    context.docstore.add_documents([TextNode(id_="body", text="A node without a vector.")])
    seal(pool_of(rs), collection_of(rs, COLLECTION), at_once=3)
    merge_at_rest(pool_of(rs), collection_of(rs, COLLECTION))
    assert len(execute(settings, SEGMENTS)) == 1
    assert rs.drop_collection(COLLECTION) == len(state) + 2
    assert COLLECTION not in {summary.name for summary in rs.collections()}
    (event,) = execute(
        settings, "SELECT collection, document_id FROM ragstore.event WHERE action = 'collection_dropped'"
    )
    assert event == (COLLECTION, None)
    retire(rs, settings)
    assert_nothing_is_left(settings, mongo_database)


def test_one_of_the_same_name_is_untouched_by_what_the_old_one_left(
    rs: Ragstore, settings: Settings, oracle: Oracle, state: State, tmp_path: Path
) -> None:
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    execute(settings, "UPDATE ragstore.outbox SET not_before = now() + interval '1 hour'")
    (tmp_path / "docs" / "0.txt").write_text(a_text("edited"))
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    assert rs.drop_collection(COLLECTION) == 3
    execute(settings, "UPDATE ragstore.outbox SET not_before = now() + interval '1 hour'")
    assert execute(settings, "SELECT count(*) > 0 FROM ragstore.outbox") == [(True,)]

    rs.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
    del state[str(tmp_path / "docs" / "2.txt")]
    (tmp_path / "docs" / "2.txt").unlink()
    state[str(tmp_path / "docs" / "0.txt")] = a_text("edited")
    assert rs.ingest(tmp_path / "docs", collection=COLLECTION).added == 2
    oracle.assert_visible([], state)
    assert rs.verify(deep=True).ok
    retire(rs, settings)
    assert rs.verify(deep=True).ok
    oracle.assert_settled(state)


def test_entries_that_are_deleted_late_are_those_of_the_old_one(
    rs: Ragstore, oracle: Oracle, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    rs.ingest(tmp_path / "docs", collection=COLLECTION)
    writer = writer_of(rs)
    write, held, go_on = writer.nodes.put_ref_docs, threading.Event(), threading.Event()

    def late(*arguments: Any, **named: Any) -> None:
        if not held.is_set():
            held.set()
            assert go_on.wait(30)
        write(*arguments, **named)

    execute(
        settings,
        "INSERT INTO ragstore.outbox (namespace, collection_id, action, ids) "
        "SELECT 'docs', collection_id, 'put_ref_docs', array_agg(document_id) "
        "FROM ragstore.document GROUP BY 1, 2",
    )
    execute(settings, "UPDATE ragstore.outbox SET not_before = now() + interval '1 hour'")
    assert rs.drop_collection(COLLECTION) == 3
    monkeypatch.setattr(writer.nodes, "put_ref_docs", late)
    with ThreadPoolExecutor(1) as pool, ragstore.open(settings) as other:
        execute(settings, DUE)
        sleeper = pool.submit(writer.recoverer.retire)
        assert held.wait(30)
        # As PostgreSQL does with a connection whose process sleeps.
        execute(
            settings,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
            "AND datname = current_database()",
        )
        other.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
        other.ingest(tmp_path / "docs", collection=COLLECTION)
        retire(other, settings)
        oracle.assert_settled(state)
        go_on.set()
        assert sleeper.exception(30) is not None
    oracle.assert_settled(state)


def test_a_run_in_flight_is_told_that_the_collection_is_gone_and_leaves_nothing(
    rs: Ragstore,
    settings: Settings,
    mongo_database: Database[dict[str, Any]],
    state: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged, go_on = threading.Event(), threading.Event()

    def reached(failpoint: Failpoint) -> None:
        if failpoint is Failpoint.NODES_STAGED:
            staged.set()
            assert go_on.wait(30)

    monkeypatch.setattr(publish, "reached", reached)
    with ThreadPoolExecutor(1) as pool, ragstore.open(settings) as other:
        ingest = pool.submit(rs.ingest, tmp_path / "docs", collection=COLLECTION)
        assert staged.wait(30)
        assert other.drop_collection(COLLECTION) == 0
        go_on.set()
        error = ingest.exception(60)
        assert isinstance(error, CollectionNotFoundError), error
        assert "dropped" in error.message
        retire(other, settings)
    assert_nothing_is_left(settings, mongo_database)


def test_what_a_run_staged_whose_worker_never_comes_back_is_gone(
    settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    with open_parts(settings) as parts, ragstore.open(settings) as rs:
        nodes = a_revision("a", a_text("a")).nodes
        run = Run(new_run_id(), "elsewhere/1/2/3", [node.node_id for node in nodes])
        parts.ledger.begin_run(run, parts.collection, lease_ttl_s=3600)
        parts.nodes.stage(COLLECTION, nodes, between=lambda: None)
        assert rs.drop_collection(COLLECTION) == 0
        retire(rs, settings)
    assert_nothing_is_left(settings, mongo_database)


def test_what_comes_in_while_it_is_emptied_goes_too(
    rs: Ragstore,
    settings: Settings,
    mongo_database: Database[dict[str, Any]],
    state: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ingest_once(failpoint: Failpoint, done: list[int] = []) -> None:  # noqa: B006
        if failpoint is Failpoint.COLLECTION_EMPTIED and not done:
            done.append(rs.ingest(tmp_path / "docs", collection=COLLECTION).added)

    monkeypatch.setattr(dropping, "reached", ingest_once)
    assert rs.drop_collection(COLLECTION) == len(state)
    retire(rs, settings)
    assert_nothing_is_left(settings, mongo_database)


def test_a_collection_that_is_filled_again_and_again_is_busy(
    rs: Ragstore, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ingest_always(failpoint: Failpoint) -> None:
        rs.ingest(tmp_path / "docs", collection=COLLECTION)

    monkeypatch.setattr(dropping, "reached", ingest_always)
    with pytest.raises(CollectionBusyError):
        rs.drop_collection(COLLECTION)
    monkeypatch.undo()
    assert rs.verify().ok


def test_a_collection_whose_table_is_lost_can_be_dropped(rs: Ragstore, settings: Settings) -> None:
    execute(settings, "DROP TABLE ragstore.data_docs")
    assert rs.drop_collection(COLLECTION) == 0


def test_it_can_be_dropped_once(rs: Ragstore) -> None:
    assert rs.drop_collection(COLLECTION) == 0
    with pytest.raises(CollectionNotFoundError):
        rs.drop_collection(COLLECTION)


Use = Callable[[Ragstore, Any], object]
USES: dict[str, Use] = {
    "vector store": lambda rs, context: context.vector_store.delete("a"),
    "document store": lambda rs, context: context.docstore.add_documents([TextNode(id_="b", text="x")]),
}


@pytest.mark.parametrize("use", USES)
def test_a_program_that_has_it_open_is_told_and_the_new_one_stays_as_it_is(use: str, rs: Ragstore) -> None:
    context = rs.storage_context(COLLECTION)
    rs.drop_collection(COLLECTION)
    rs.create_collection(COLLECTION)
    rs.storage_context(COLLECTION).docstore.add_documents([TextNode(id_="a", text="of the new one")])
    with pytest.raises(CollectionNotFoundError, match="dropped"):
        USES[use](rs, context)
    assert rs.verify(deep=True).ok


def test_a_role_that_does_not_own_the_table_is_refused_before_anything_is_deleted(
    test_servers: Servers, mongo_database: Database[dict[str, Any]], state: State, tmp_path: Path
) -> None:
    with a_database_with_roles(test_servers) as roles:
        servers.migrate_mongo(roles.owner_url, mongo_database)
        common = {"mongo_url": test_servers.mongo_url, "mongo_database": mongo_database.name, "grace_s": 0}
        with ragstore.open(Settings(postgres_url=roles.app_url, **common)) as app:
            app.create_collection(COLLECTION, chunk_size=32, chunk_overlap=0)
            app.ingest(tmp_path / "docs", collection=COLLECTION)
            with pytest.raises(StoreSetupError, match=roles.owner) as raised:
                app.drop_collection(COLLECTION)
            assert "RAGSTORE_POSTGRES_URL" in raised.value.hint
            Oracle(roles.owner_url, mongo_database).assert_settled(state)
            with ragstore.open(Settings(postgres_url=roles.owner_url, **common)) as owner:
                assert owner.drop_collection(COLLECTION) == 3
            assert app.collections() == []
