"""Two workers at the same moment, brought into the worst order on purpose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from ragstore.errors import LeaseLostError
from ragstore.model.node import Node
from ragstore.model.run import RefDoc
from ragstore.mongo.nodes import NodeStore
from ragstore.protocol.publish import Timing
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.corpus import a_text
from tests.support.oracle import Change
from tests.support.parts import Parts, a_revision, execute, open_parts, postgres_url

pytestmark = pytest.mark.on_both

OLD, NEW = a_text("old"), a_text("new")


class HeldNodes(NodeStore):
    """Stops before it writes, until somebody lets it go on."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def _hold(self) -> None:
        self.arrived.set()
        assert self.go_on.wait(30)

    def stage(self, namespace: str, nodes: Sequence[Node], *, between: Callable[[], None]) -> None:
        self._hold()
        super().stage(namespace, nodes, between=between)

    def put_ref_docs(self, namespace: str, entries: Sequence[RefDoc], *, between: Callable[[], None]) -> None:
        self._hold()
        super().put_ref_docs(namespace, entries, between=between)


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    with open_parts(settings) as parts:
        yield parts


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


def a_waiting_session(settings: Settings) -> bool:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(execute(settings, waiting))


def test_an_entry_never_says_of_a_new_revision_that_it_has_the_old_nodes(settings: Settings, parts: Parts) -> None:
    parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
    blocker = psycopg2.connect(postgres_url(settings))
    with blocker, blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE ragstore.document IN ACCESS EXCLUSIVE MODE")
        with in_thread(parts.recoverer.retire) as retired:
            until(lambda: a_waiting_session(settings), what="the retiring worker waits for the ledger")
            # The next revision is published while that worker stands between two statements.
            cursor.execute("UPDATE ragstore.data_docs SET node_id = node_id || '-new'")
            cursor.execute("UPDATE ragstore.document SET revision = 2")
            cursor.execute(
                "INSERT INTO ragstore.outbox (namespace, collection_id, action, ids) "
                "SELECT 'docs', collection_id, 'put_ref_docs', ARRAY['a'] FROM ragstore.collection"
            )
            blocker.commit()
            retired.result(30)
    blocker.close()
    parts.recoverer.retire()
    wrong = [v for v in parts.oracle.settled_violations({"a": OLD}) if v.startswith(("ref_doc_info", "metadata"))]
    assert not wrong


def test_the_entry_of_a_deleted_document_does_not_come_back(settings: Settings, parts: Parts) -> None:
    with open_parts(settings, nodes_class=HeldNodes) as slow:
        assert isinstance(slow.nodes, HeldNodes)
        parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
        with in_thread(slow.recoverer.retire) as retired:
            assert slow.nodes.arrived.wait(30)
            parts.publisher.delete(parts.collection, ["a"])
            parts.recoverer.retire()
            slow.nodes.go_on.set()
            retired.result(30)
    parts.recoverer.retire()
    parts.oracle.assert_settled({})


def test_of_two_workers_that_planned_the_same_document_the_slower_one_changes_nothing(parts: Parts) -> None:
    slower = a_revision("a", NEW)
    parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
    result = parts.publisher.publish(parts.collection, [slower, a_revision("b", NEW)])
    assert (result.published, result.moved_on) == (["b"], ["a"])
    parts.recoverer.retire()
    parts.oracle.assert_settled({"a": OLD, "b": NEW})


def test_of_two_workers_that_saw_the_same_rename_only_one_moves_the_document(parts: Parts) -> None:
    parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
    moves = [a_revision(name, OLD, action="renamed", replaces=("a", 1)) for name in ("b", "c")]
    assert parts.publisher.publish(parts.collection, moves[:1]).published == ["b"]
    assert parts.publisher.publish(parts.collection, moves[1:]).moved_on == ["c"]
    parts.recoverer.retire()
    parts.oracle.assert_settled({"b": OLD})


def test_a_worker_whose_run_was_recovered_publishes_nothing(settings: Settings, parts: Parts) -> None:
    timing = Timing(lease_ttl_s=30, grace_s=0)
    with open_parts(settings, nodes_class=HeldNodes, timing=timing) as slow:
        assert isinstance(slow.nodes, HeldNodes)
        parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
        work = lambda: slow.publisher.publish(slow.collection, [a_revision("a", NEW, planned_from=1)])  # noqa: E731
        with in_thread(work) as published:
            assert slow.nodes.arrived.wait(30)
            execute(settings, "UPDATE ragstore.run SET lease_until = now() - interval '1 second'")
            assert parts.recoverer.recover().runs_abandoned == 1
            parts.oracle.assert_settled({"a": OLD})
            slow.nodes.go_on.set()
            with pytest.raises(LeaseLostError):
                published.result(30)
    parts.recoverer.recover()
    parts.oracle.assert_settled({"a": OLD})


def test_nodes_that_are_live_after_all_are_never_taken_for_garbage(settings: Settings, parts: Parts) -> None:
    parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
    execute(
        settings,
        "INSERT INTO ragstore.outbox (namespace, collection_id, action, ids, stamp) "
        "SELECT 'docs', c.collection_id, 'delete_nodes', array_agg(node_id), nextval('ragstore.stamp') "
        "FROM ragstore.data_docs, ragstore.collection c GROUP BY c.collection_id",
    )
    parts.recoverer.retire()
    parts.oracle.assert_settled({"a": OLD})


def test_a_run_is_published_as_a_whole_while_others_read(parts: Parts) -> None:
    names = [f"d{i}" for i in range(10)]
    revision = 0
    stop = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not stop.is_set():
            seen = parts.oracle.snapshot()
            revisions = {shown.revision for shown in seen.documents.values()}
            texts = {len(seen.of(i)) for i in seen.documents}
            if len(seen.documents) not in (0, len(names)) or len(revisions) > 1 or len(texts) > 1:
                wrong.append(f"{len(seen.documents)} documents, revisions {revisions}, nodes {texts}")

    with in_thread(read):
        try:
            for n_sentences in (8, 16, 24, 8, 16, 24):
                text = a_text(n_sentences, n_sentences)
                parts.publisher.publish(
                    parts.collection, [a_revision(name, text, planned_from=revision) for name in names]
                )
                revision += 1
        finally:
            stop.set()
    assert not wrong
    parts.recoverer.retire()
    parts.oracle.assert_settled(dict.fromkeys(names, text))


def test_replaced_nodes_stay_for_readers_until_the_grace_period_is_over(settings: Settings) -> None:
    with open_parts(settings, timing=Timing(grace_s=3600)) as parts:
        parts.publisher.publish(parts.collection, [a_revision("a", OLD)])
        before = {row.node_id for row in parts.oracle.snapshot().rows}
        parts.publisher.publish(parts.collection, [a_revision("a", NEW, planned_from=1, action="updated")])
        parts.recoverer.recover()
        parts.oracle.assert_visible([Change({}, {"a": NEW})])
        assert {body["_id"] for body in parts.nodes.get_nodes("docs", list(before))} == before
        execute(settings, "UPDATE ragstore.outbox SET not_before = now()")
        parts.recoverer.recover()
        parts.oracle.assert_settled({"a": NEW})
