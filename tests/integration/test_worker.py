"""Workers: they keep a folder's collection right through kills, outages and each other."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.turn import Turn
from ragstore.settings import Settings
from ragstore.sources.listing import PASSED_OVER_LINK
from tests.support import children
from tests.support.children import until
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.forwarder import a_forwarder
from tests.support.oracle import Change, Oracle, State
from tests.support.parts import execute, postgres_url
from tests.support.workers import HERE, Living, living

Start = Callable[..., AbstractContextManager[Living]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    with ragstore.open(settings) as rs:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
    return Oracle(postgres_url(settings), mongo_database)


@pytest.fixture
def start(settings: Settings, folder: Path, tmp_path: Path) -> Start:
    """A worker on the folder; options beside ``every`` and ``metrics`` are names of settings."""

    def start(*paths: Path, every: float = 0.2, metrics: str = HERE, **options: object) -> Any:
        arguments = [*(paths or (folder,)), "-c", "docs", "--every", every, "--metrics", metrics]
        return living("worker", *arguments, env=children.environment(settings, **options), folder=tmp_path)

    return start


@pytest.fixture
def turn(settings: Settings) -> Iterator[Callable[..., Turn]]:
    opened: list[Turn] = []

    def turn(collection: str = "docs", paths: tuple[str, ...] = ("/a", "/b")) -> Turn:
        opened.append(Turn(PostgresPool(postgres_url(settings)), collection=collection, paths=paths))
        return opened[-1]

    yield turn
    for each in opened:
        each.close()


def until_settled(oracle: Oracle, state: State, timeout_s: float = 40.0) -> None:
    until(lambda: not oracle.settled_violations(state), what="the stores hold what the folder has", timeout_s=timeout_s)


def n_passes(worker: Living) -> float:
    """Each look takes seconds while a database says nothing: twice the same means that the worker waits too."""
    return sum(n for (name, _), n in worker.metrics().items() if name == "ragstore_passes_total")


def terminate_backends(settings: Settings) -> int:
    return len(
        execute(
            settings,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'ragstore%%'",
        )
    )


def test_a_worker_follows_its_folder(start: Start, oracle: Oracle, folder: Path) -> None:
    state = dict(write_documents(folder, {f"{i}.txt": a_text(i) for i in range(5)}))
    with start():
        until_settled(oracle, state)
        state |= write_documents(folder, {"0.txt": an_edited(state[str(folder / "0.txt")], 1), "new.txt": a_text("n")})
        until_settled(oracle, state)
        (folder / "1.txt").unlink()
        (folder / "2.txt").rename(folder / "moved.txt")
        state[str(folder / "moved.txt")] = state.pop(str(folder / "2.txt"))
        del state[str(folder / "1.txt")]
        until_settled(oracle, state)


def test_a_pass_that_did_something_is_one_line_and_an_idle_one_is_none(
    start: Start, oracle: Oracle, folder: Path, tmp_path: Path
) -> None:
    write_documents(folder, {"a.txt": a_text("a")})
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    with start() as worker:
        line = worker.until_logged("sync")
        assert (line["level"], line["n_added"], line["n_failed"], line["collection"]) == ("info", 1, 1, "docs")
        passed_over = worker.until_logged("passed_over")
        assert passed_over["message"] == f"passed over: 1 ({PASSED_OVER_LINK})"
        assert passed_over["examples"] == str(folder / "link.txt")
        n_lines = len(worker.lines())
        n_idle = worker.metrics()["ragstore_passes_total", "idle"]
        until(lambda: worker.metrics()["ragstore_passes_total", "idle"] >= n_idle + 5, what="five idle passes")
        assert len(worker.lines()) == n_lines, worker.text
        assert worker.metrics()["ragstore_documents_total", "failed"] == 1


def test_what_is_served_says_what_the_worker_does(start: Start, oracle: Oracle, folder: Path) -> None:
    write_documents(folder, {f"{i}.txt": a_text(i) for i in range(3)})
    with start() as worker:
        worker.until_logged("sync")
        now = worker.metrics()
        assert now["ragstore_documents", "docs"] == now["ragstore_documents_total", "added"] == 3
        assert now["ragstore_nodes", "docs"] == now["ragstore_chunks_total", "embedded"] == len(oracle.snapshot().rows)
        assert now["ragstore_store_up", "postgres"] == now["ragstore_store_up", "mongo"] == 1
        assert now["ragstore_working", ""] == 1
        assert now["ragstore_build_info", ragstore.__version__] == 1
        assert worker.fetched("/health") == (200, "ok\n")


def test_of_two_workers_one_works_and_the_other_takes_over_when_it_is_killed(
    start: Start, oracle: Oracle, folder: Path
) -> None:
    state = dict(write_documents(folder, {"a.txt": a_text("a")}))
    with start(every=600) as first:
        first.until_logged("sync")
        with start(every=600) as second:
            second.until_stood_by(2)
            assert second.turns() == ["standing by"]
            assert second.metrics()["ragstore_working", ""] == 0
            assert second.fetched("/health") == (200, "ok\n")
            state |= write_documents(folder, {"b.txt": a_text("b")})
            assert first.ended(signal.SIGKILL) == -signal.SIGKILL
            until_settled(oracle, state, timeout_s=15)
            assert second.turns() == ["standing by", "at work"]


@pytest.mark.parametrize("failpoint", ["nodes_staged", "vectors_copied", "published", "documents_deleted"])
def test_what_a_worker_died_over_the_other_one_ends(failpoint: str, start: Start, oracle: Oracle, folder: Path) -> None:
    before = dict(write_documents(folder, {"a.txt": a_text("a"), "b.txt": a_text("b"), "gone.txt": a_text("gone")}))
    with start() as first:
        first.until_logged("sync")
        assert first.ended(signal.SIGTERM) == 0
    after = dict(write_documents(folder, {"a.txt": a_text("a2"), "b.txt": a_text("b2")}))
    (folder / "gone.txt").unlink()
    with start(failpoint=failpoint) as dies:
        assert dies.ended() == -signal.SIGKILL
    changes = [Change({i: before[i]}, {i: after[i]}) for i in after]
    changes.append(Change({str(folder / "gone.txt"): before[str(folder / "gone.txt")]}, {}))
    oracle.assert_visible(changes)
    with start():
        until_settled(oracle, after)


def test_a_worker_whose_connections_are_all_ended_goes_on(
    start: Start, oracle: Oracle, settings: Settings, folder: Path
) -> None:
    state = dict(write_documents(folder, {"a.txt": a_text("a")}))
    with start() as worker:
        until_settled(oracle, state)
        for i in range(3):
            assert terminate_backends(settings) >= 2
            state |= write_documents(folder, {f"{i}.txt": a_text(i)})
            until_settled(oracle, state)
        assert worker.process.poll() is None


def test_a_worker_that_lost_its_turn_lets_the_other_one_work(
    start: Start, oracle: Oracle, settings: Settings, folder: Path, tmp_path: Path
) -> None:
    state = dict(write_documents(folder, {"a.txt": a_text("a")}))
    with a_forwarder(postgres_url(settings)) as gate:
        env = children.environment(settings, postgres_url=gate.url, connect_timeout_s=1)
        arguments = ["worker", folder, "-c", "docs", "--every", 600]
        with living(*arguments, env=env, folder=tmp_path) as cut_off:
            cut_off.until_logged("sync")
            with start(every=600) as other:
                other.until_stood_by(1)
                gate.shut()
                state |= write_documents(folder, {"b.txt": a_text("b")})
                until_settled(oracle, state, timeout_s=15)
                assert other.turns()[-1] == "at work"


def test_a_worker_waits_for_a_database_that_is_away_at_its_start_and_later(
    oracle: Oracle, settings: Settings, folder: Path, tmp_path: Path
) -> None:
    state = dict(write_documents(folder, {"a.txt": a_text("a")}))
    with a_forwarder(postgres_url(settings)) as gate:
        gate.shut()
        env = children.environment(settings, postgres_url=gate.url, connect_timeout_s=1)
        arguments = ["worker", folder, "-c", "docs", "--every", 0.2, "--metrics", HERE]
        with living(*arguments, env=env, folder=tmp_path) as worker:
            failed = worker.until_logged("failed")
            assert (failed["level"], failed["code"]) == ("warning", "store.unavailable")
            assert worker.metrics()["ragstore_store_up", "postgres"] == 0
            assert ("ragstore_documents", "docs") not in worker.metrics()
            assert worker.fetched("/health") == (200, "ok\n")
            gate.open()
            until_settled(oracle, state)
            worker.until_metric("ragstore_store_up", "postgres", 1)
            gate.shut()
            worker.until_metric("ragstore_store_up", "postgres", 0)
            state |= write_documents(folder, {"b.txt": a_text("b")})
            gate.open()
            until_settled(oracle, state)
            assert worker.metrics()["ragstore_passes_total", "failed"] >= 1


def test_a_mass_deletion_is_told_and_the_worker_goes_on_adding(start: Start, oracle: Oracle, folder: Path) -> None:
    state = dict(write_documents(folder, {f"{i}.txt": a_text(i, 4) for i in range(20)}))
    with start() as worker:
        until_settled(oracle, state)
        for i in range(15):
            (folder / f"{i}.txt").unlink()
        refused = worker.until_logged("sync_refused")
        assert refused["level"] == "warning"
        assert "--allow-mass-delete" in refused["hint"]
        state |= write_documents(folder, {"new.txt": a_text("new")})
        until_settled(oracle, state)
        assert worker.metrics()["ragstore_passes_total", "refused"] >= 1
        assert worker.metrics()["ragstore_documents_total", "deleted"] == 0
        assert worker.fetched("/health")[0] == 200
        assert worker.ended(signal.SIGTERM) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_worker_well(signum: signal.Signals, start: Start, oracle: Oracle, folder: Path) -> None:
    write_documents(folder, {"a.txt": a_text("a")})
    with start(every=600) as worker:
        worker.until_logged("sync")
        assert worker.ended(signum) == 0, worker.text
        assert worker.lines("stop")[-1]["signal"] == signum.name


def test_a_signal_ends_a_worker_in_the_middle_of_a_pass_and_the_next_goes_on(
    start: Start, oracle: Oracle, folder: Path
) -> None:
    state = dict(write_documents(folder, {f"{i:03}.txt": a_text(i, 40) for i in range(200)}))
    with start(every=600, batch_chunks=40) as worker:
        until(lambda: len(oracle.snapshot().documents) >= 5, what="a part is published")
        assert worker.ended(signal.SIGTERM) == 0, worker.text
    n_published = len(oracle.snapshot().documents)
    assert 5 <= n_published < 200
    oracle.assert_visible([Change({}, {i: text}) for i, text in state.items()])
    with start() as worker:
        until_settled(oracle, state)


def test_a_signal_ends_a_worker_whose_database_says_nothing(
    oracle: Oracle, settings: Settings, folder: Path, tmp_path: Path
) -> None:
    write_documents(folder, {"a.txt": a_text("a")})
    with a_forwarder(postgres_url(settings)) as gate:
        env = children.environment(settings, postgres_url=gate.url, connect_timeout_s=60)
        arguments = ["worker", folder, "-c", "docs", "--every", 0.1, "--metrics", HERE]
        with living(*arguments, env=env, folder=tmp_path) as worker:
            worker.until_logged("sync")
            worker.until_metric("ragstore_store_up", "postgres", 1)
            gate.hold()
            # The second scrape shows that the first one's question, still open, holds up nobody.
            for _ in range(2):
                assert worker.metrics()["ragstore_store_up", "postgres"] == 0
            until(lambda: n_passes(worker) == n_passes(worker), what="it waits for an answer")
            assert worker.ended(signal.SIGTERM) == 0, worker.text
            assert "without waiting" in worker.text


def test_what_can_never_work_ends_the_worker(start: Start, folder: Path, settings: Settings, tmp_path: Path) -> None:
    with start(tmp_path / "no such folder") as worker:
        assert worker.ended() == 6
        assert "does not exist" in worker.text
    with start(metrics="nowhere") as worker:
        assert worker.ended() == 2
        assert "HOST:PORT" in worker.text
    with start() as first:
        port = first.until_logged("serving")["port"]
        with start(metrics=f"127.0.0.1:{port}") as second:
            assert second.ended() == 2
            assert "cannot listen" in second.text


def test_a_turn_is_one_process_s_at_a_time(turn: Callable[..., Turn]) -> None:
    first, second = turn(), turn(paths=("/b", "/a", "/a"))
    assert first.mine() and first.mine()
    assert not second.mine()
    assert turn(collection="others").mine()
    assert turn(paths=("/a",)).mine()
    first.close()
    assert until(second.mine, what="the other one has it")
    assert not first.mine()


def test_a_turn_is_lost_with_its_connection_and_can_be_had_again(turn: Callable[..., Turn], settings: Settings) -> None:
    first, second = turn(), turn()
    assert first.mine()
    terminate_backends(settings)
    assert until(second.mine, what="the other one has it")
    assert not first.mine(), "it asks on a new connection"
    second.close()
    assert until(first.mine, what="it is free again")
