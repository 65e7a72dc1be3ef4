"""A worker dies while its last command is still on its way to MongoDB, and others recover its run at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pymongo.database import Database

import ragstore
from ragstore.settings import Settings
from tests.support import children
from tests.support.corpus import a_text, write_documents
from tests.support.forwarder import Forwarder, a_forwarder
from tests.support.oracle import Oracle
from tests.support.parts import execute, mongo_url, postgres_url

INSERT = b"insert\0\x0a\0\0\0docs/data\0"
"""The beginning of an insert into the collection of node bodies, as BSON."""


def test_nodes_that_arrive_after_their_run_was_recovered_become_no_orphans(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    graceful = settings.model_copy(update={"grace_s": 3600})
    state = write_documents(tmp_path / "docs", {"a.txt": a_text("a")})
    with ragstore.open(graceful) as rs, a_forwarder(mongo_url(settings), mark=INSERT) as proxy:
        proxy.arm("arrives late", cut=False)
        env = children.environment(graceful, mongo_url=proxy.url)
        child = children.start("tests.crash.child", "ingest", str(tmp_path / "docs"), env=env)
        with children.running([child]):
            children.until(lambda: proxy.met.is_set() or child.poll() is not None, what="the child sends its nodes")
            assert proxy.met.is_set(), children.finish(child)
            children.kill(child)
        assert rs.ingest(tmp_path / "docs", collection="docs").added == 1
        assert execute(settings, "SELECT count(*) FROM ragstore.run") == [(0,)]
        n_nodes = mongo_database["docs/data"].count_documents({})
        deliver(proxy)
        assert mongo_database["docs/data"].count_documents({}) == 2 * n_nodes
        execute(settings, "UPDATE ragstore.outbox SET not_before = now()")
        rs.ingest(tmp_path / "docs", collection="docs")
    Oracle(postgres_url(settings), mongo_database).assert_settled(state)


def deliver(proxy: Forwarder) -> None:
    proxy.let_through.set()
    assert proxy.delivered.wait(30)
