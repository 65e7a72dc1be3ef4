"""A network that is slow, breaks, cuts messages in two or swallows them, before each database, under each kind of work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import Retry, StoreUnavailableError
from ragstore.model.filters import Condition
from ragstore.model.report import Progress
from ragstore.mongo import client as mongo_client
from ragstore.postgres import silence
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.corpus import a_text, write_documents
from tests.support.forwarder import Forwarder, a_forwarder
from tests.support.internals import pool_of
from tests.support.oracle import Oracle, State
from tests.support.parts import execute, postgres_url

Store = Literal["postgres", "mongo"]

N_DOCUMENTS = 30
COMMIT = b"COMMIT"
COPY = b"COPY "
INSERT = b"insert\0\x0a\0\0\0docs/data\0"
MESSAGES = pytest.mark.parametrize(
    ("store", "message"),
    [("postgres", COMMIT), ("postgres", COPY), ("mongo", INSERT)],
    ids=["commit", "copy", "insert"],
)
AT_FIRST = Condition("file_name", "==", "0.txt")
END_ALL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'ragstore'"
)


@dataclass
class Scene:
    """A store behind two networks, with documents that wait to be ingested."""

    rs: Ragstore
    networks: dict[Store, Forwarder]
    folder: Path
    state: State
    oracle: Oracle
    settings: Settings

    def ingest(self, progress: Callable[[Progress], None] | None = None) -> Any:
        return self.rs.ingest(self.folder, collection="docs", progress=progress)

    def n_published(self) -> int:
        return int(execute(self.settings, "SELECT count(*) FROM ragstore.event WHERE action = 'added'")[0][0])


@pytest.fixture
def scene(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    # A test must not wait as long as a real network may be away.
    monkeypatch.setattr(silence, "LOOK_EVERY_S", 0.5)
    monkeypatch.setattr(mongo_client, "ANSWER_WITHIN_S", 2.0)
    assert settings.mongo_url is not None
    direct = postgres_url(settings)
    with a_forwarder(direct) as postgres, a_forwarder(settings.mongo_url.get_secret_value()) as mongo:
        behind = Settings(
            postgres_url=postgres.url,
            mongo_url=mongo.url,
            mongo_database=settings.mongo_database,
            grace_s=0,
            lease_ttl_s=5,
            connect_timeout_s=1,
            batch_chunks=4,
        )
        with ragstore.open(behind) as rs:
            rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
            state = write_documents(tmp_path / "docs", {"0.txt": a_text(0, 6)})
            networks: dict[Store, Forwarder] = {"postgres": postgres, "mongo": mongo}
            made = Scene(rs, networks, tmp_path / "docs", state, Oracle(direct, mongo_database), settings)
            assert made.ingest().added == 1
            state |= write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 6) for i in range(1, N_DOCUMENTS)})
            yield made
            for network in made.networks.values():
                network.mend()


def ingest_under(scene: Scene, fault: Callable[[], object], until_mended: Callable[[Future[Any]], object]) -> None:
    """Do this to the network when some of the documents are published and others not; all must be in the end.

    Args:
        until_mended: becomes true when the network may be mended; gets the ingest that is under way.
    """
    with ThreadPoolExecutor(1) as pool:
        ingest = pool.submit(scene.ingest)
        try:
            until(lambda: ingest.done() or scene.n_published() >= 4, what="a part is published")
            fault()
            assert not ingest.done()
            until(lambda: until_mended(ingest), what="the network may be mended", timeout_s=60)
        finally:
            for network in scene.networks.values():
                network.mend()
        assert ingest.result(60).failed == 0
    assert scene.ingest().unchanged == N_DOCUMENTS
    scene.oracle.assert_settled(scene.state)


def gives_up(call: Callable[[], object]) -> StoreUnavailableError:
    """It ends by itself, before the network is mended, and says that it may be tried again."""
    with pytest.raises(StoreUnavailableError) as raised:
        call()
    assert (raised.value.code, raised.value.retry) == ("store.unavailable", Retry.LATER)
    assert "ragstore status" in raised.value.hint
    return raised.value


@pytest.mark.parametrize("store", ["postgres", "mongo"])
def test_a_slow_network_delays_an_ingest_and_changes_nothing_else(scene: Scene, store: Store) -> None:
    ingest_under(scene, lambda: scene.networks[store].slow_down(0.03), Future.done)


@pytest.mark.parametrize("store", ["postgres", "mongo"])
def test_connections_that_are_reset_under_an_ingest_are_made_again(scene: Scene, store: Store) -> None:
    before = scene.networks[store].n_made
    ingest_under(scene, scene.networks[store].reset, Future.done)
    assert scene.networks[store].n_made > before


@pytest.mark.parametrize(
    ("store", "message"),
    [("postgres", COMMIT), ("postgres", COPY), ("mongo", INSERT)],
    ids=["commit", "copy", "insert"],
)
def test_a_connection_cut_in_the_middle_of_a_message_of_an_ingest_loses_and_doubles_nothing(
    scene: Scene, store: Store, message: bytes
) -> None:
    network = scene.networks[store]
    ingest_under(scene, lambda: network.cut_within(message), lambda _: network.was_cut.is_set())


@MESSAGES
def test_an_ingest_gives_up_a_connection_that_fell_silent_and_goes_on_with_others(
    scene: Scene, store: Store, message: bytes
) -> None:
    network = scene.networks[store]
    ingest_under(scene, lambda: network.fall_silent_at(message), Future.done)
    assert network.swallowed.is_set() and network.n_given_up > 0


@pytest.mark.parametrize("store", ["postgres", "mongo"])
def test_an_ingest_goes_on_after_a_network_that_was_silent_for_a_while(scene: Scene, store: Store) -> None:
    network = scene.networks[store]
    ingest_under(scene, network.fall_silent, lambda _: network.n_given_up > 0)


def test_a_question_to_a_postgres_that_fell_silent_is_given_up_and_the_next_is_answered(scene: Scene) -> None:
    before = scene.rs.query("anything", collection="docs")
    scene.networks["postgres"].fall_silent()
    gives_up(lambda: scene.rs.query("anything", collection="docs"))
    scene.networks["postgres"].mend()
    assert scene.rs.query("anything", collection="docs") == before


def test_a_question_on_a_connection_that_alone_fell_silent_is_given_up_and_the_next_is_answered(scene: Scene) -> None:
    before = scene.rs.query("anything", collection="docs")
    scene.networks["postgres"].fall_silent_at(b"SELECT")
    gives_up(lambda: scene.rs.query("anything", collection="docs"))
    assert scene.rs.query("anything", collection="docs") == before


def test_questions_are_answered_while_mongo_is_silent(scene: Scene) -> None:
    before = scene.rs.query("anything", collection="docs")
    scene.networks["mongo"].fall_silent()
    assert scene.rs.query("anything", collection="docs") == before


@pytest.mark.parametrize("store", ["postgres", "mongo"])
def test_a_deletion_in_a_store_that_fell_silent_is_given_up_and_can_be_repeated(scene: Scene, store: Store) -> None:
    (document_id,) = (document.document_id for document in scene.rs.documents("docs"))
    scene.networks[store].fall_silent()
    gives_up(lambda: scene.rs.delete(document_id, collection="docs"))
    scene.networks[store].mend()
    scene.rs.delete(document_id, collection="docs")
    assert scene.rs.query("anything", collection="docs") == []
    scene.oracle.assert_settled({})


def test_questions_and_an_ingest_go_on_while_the_server_ends_all_their_sessions_again_and_again(scene: Scene) -> None:
    over, has_begun = threading.Event(), threading.Event()
    before = scene.rs.query("anything", collection="docs", mode="vector")
    errors: list[StoreUnavailableError] = []

    def keep_asking() -> int:
        n_answers = 0
        while not over.is_set():
            try:
                assert scene.rs.query("anything", collection="docs", filters=AT_FIRST, mode="vector") == before
                n_answers += 1
            except StoreUnavailableError as error:
                errors.append(error)
        return n_answers

    with ThreadPoolExecutor(3) as pool:
        try:
            asking = [pool.submit(keep_asking) for _ in range(2)]
            ingest = pool.submit(scene.ingest, lambda _: has_begun.set())
            until(has_begun.is_set, what="the ingest is at work, and no longer refuses to begin")
            for _ in range(10):
                until(lambda: execute(scene.settings, END_ALL)[0][0] > 0, what="sessions were there, and are ended")
            assert ingest.result(60).failed == 0
        finally:
            over.set()
        assert all(asked.result() > 0 for asked in asking)
    assert errors and {(error.code, error.retry) for error in errors} == {("store.unavailable", Retry.LATER)}
    assert scene.rs.query("anything", collection="docs", filters=AT_FIRST, mode="vector") == before
    until(lambda: scene.ingest() and not scene.oracle.settled_violations(scene.state), what="nothing is left to do")


def test_a_question_cut_in_the_middle_is_told_and_the_next_is_answered(scene: Scene) -> None:
    before = scene.rs.query("anything", collection="docs")
    scene.networks["postgres"].cut_within(b"SELECT")
    gives_up(lambda: scene.rs.query("anything", collection="docs"))
    assert scene.networks["postgres"].was_cut.is_set()
    assert scene.rs.query("anything", collection="docs") == before


def test_a_statement_that_the_server_works_on_for_long_is_not_given_up(scene: Scene) -> None:
    with pool_of(scene.rs).autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(5), 'done'")
        assert cursor.fetchall() == [("", "done")]


def test_a_transaction_that_is_idle_for_long_while_its_process_does_other_things_is_not_given_up(scene: Scene) -> None:
    with pool_of(scene.rs).transaction() as cursor:
        cursor.execute("SELECT 1")
        until(lambda: execute(scene.settings, IDLE_FOR_LONG) == [(True,)], what="it has been idle for some looks")
        cursor.execute("SELECT 2")
        assert cursor.fetchall() == [(2,)]


IDLE_FOR_LONG = (
    "SELECT bool_or(state_change < clock_timestamp() - interval '4 seconds') FROM pg_stat_activity "
    "WHERE datname = current_database() AND state = 'idle in transaction'"
)
