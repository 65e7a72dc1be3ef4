"""``ragstore maintain``: what it does in a round, and how it lives."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support import children
from tests.support.children import until
from tests.support.corpus import a_text, write_documents
from tests.support.forwarder import a_forwarder
from tests.support.oracle import Oracle
from tests.support.parts import execute, postgres_url
from tests.support.segments import OTHERS, SEGMENTS
from tests.support.workers import HERE, living


@pytest.fixture
def rs(settings: Settings) -> Iterator[Ragstore]:
    """A store that leaves the index to others."""
    with ragstore.open(settings) as store:
        store.create_collection("docs", chunk_size=32, chunk_overlap=0)
        yield store


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo_database)


def test_a_round_builds_the_index_that_is_wanted(settings: Settings, rs: Ragstore, tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    rs.ingest(tmp_path / "docs", collection="docs")
    rs.create_collection("empty")
    assert execute(settings, SEGMENTS) == []
    env = children.environment(settings, index_min_nodes=5)
    status, out, err = children.finish(children.start("ragstore", "maintain", "--once", env=env))
    assert (status, out) == (0, "done\n"), err
    assert "built=docs" in err
    assert [is_there for _, is_there in execute(settings, SEGMENTS)] == [True]
    assert {c.name: c.indexed == c.nodes for c in rs.collections()} == {"docs": True, "empty": True}


@pytest.mark.parametrize("failpoint", ["index_build_begun", "index_built", "index_noted"])
def test_what_a_maintain_died_over_the_next_one_ends(
    failpoint: str, settings: Settings, rs: Ragstore, tmp_path: Path
) -> None:
    write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    rs.ingest(tmp_path / "docs", collection="docs")
    env = children.environment(settings, index_min_nodes=5)
    dies = children.start("ragstore", "maintain", "--once", env={**env, "RAGSTORE_FAILPOINT": failpoint})
    assert children.finish(dies)[0] == -signal.SIGKILL
    assert rs.query(a_text("a")[:80], collection="docs")
    assert children.finish(children.start("ragstore", "maintain", "--once", env=env))[0] == 0
    assert [is_there for _, is_there in execute(settings, SEGMENTS)] == [True]
    assert execute(settings, OTHERS) == []


def test_it_recovers_what_died_and_empties_the_outbox(
    settings: Settings, oracle: Oracle, rs: Ragstore, tmp_path: Path
) -> None:
    state = write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    rs.ingest(tmp_path / "docs", collection="docs")
    write_documents(tmp_path / "docs", {"a.txt": a_text("changed")})
    env = children.environment(settings, failpoint="nodes_staged")
    assert children.finish(children.start("ragstore", "ingest", str(tmp_path / "docs"), "-c", "docs", env=env))[0] == -9
    assert oracle.settled_violations(state)
    env = children.environment(settings)
    with living("maintain", "--every", 0.2, "--metrics", HERE, env=env, folder=tmp_path) as maintain:
        until(lambda: not oracle.settled_violations(state), what="what the dead ingest staged is gone")
        assert maintain.metrics()["ragstore_runs", ""] == maintain.metrics()["ragstore_outbox_rows", ""] == 0
        assert maintain.metrics()["ragstore_working", ""] == 1
        assert maintain.fetched("/health") == (200, "ok\n")


def test_the_planner_is_told_of_a_table_that_changed_much(settings: Settings, rs: Ragstore) -> None:
    execute(settings, "ALTER TABLE ragstore.event SET (autovacuum_enabled = off)")
    analyzed = "SELECT analyze_count FROM pg_stat_user_tables WHERE schemaname = 'ragstore' AND relname = 'event'"
    upkeep = rs.upkeep()
    upkeep.go_round()
    assert execute(settings, analyzed) == [(0,)]
    execute(
        settings,
        "INSERT INTO ragstore.event (worker, collection, action) SELECT 'w', 'docs', 'x' FROM generate_series(1, 2000)",
    )
    # PostgreSQL's counts follow by moments.
    until(lambda: upkeep.go_round() and execute(settings, analyzed) == [(1,)], what="the table is analyzed")
    until(lambda: not upkeep.go_round(), what="there is nothing more to do")
    assert execute(settings, analyzed) == [(1,)]


def test_it_waits_for_a_database_that_is_away_and_ends_well(settings: Settings, rs: Ragstore, tmp_path: Path) -> None:
    with a_forwarder(postgres_url(settings)) as gate:
        gate.shut()
        env = children.environment(settings, postgres_url=gate.url, connect_timeout_s=1)
        with living("maintain", "--every", 0.2, "--metrics", HERE, env=env, folder=tmp_path) as maintain:
            maintain.until_logged("failed")
            gate.open()
            maintain.until_metric("ragstore_store_up", "postgres", 1)
            until(lambda: maintain.metrics()["ragstore_passes_total", "idle"] >= 2, what="it goes round", timeout_s=40)
            assert maintain.ended(signal.SIGTERM) == 0, maintain.text


def test_once_says_what_is_wrong(settings: Settings, rs: Ragstore) -> None:
    with a_forwarder(postgres_url(settings)) as gate:
        gate.shut()
        env = children.environment(settings, postgres_url=gate.url, connect_timeout_s=1)
        status, out, err = children.finish(children.start("ragstore", "maintain", "--once", env=env))
    assert (status, out) == (1, "")
    assert "error: PostgreSQL" in err
