"""Sealing and merging in the background of a process, and the processes that merge for it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import psutil
import pytest

from ragstore.errors import RagstoreError
from ragstore.postgres import segments
from ragstore.protocol import indexing
from ragstore.protocol.indexing import Indexer, merge_all, merge_in_child
from ragstore.settings import Settings
from tests.integration.test_index_build import (
    COPYING,
    NODES_OF_A_TREE,
    SEGMENT_TABLES,
    WAITING,
    a_locked_table,
    are_there,
    now,
    publish,
    sizes,
)
from tests.support import children
from tests.support.children import until
from tests.support.internals import indexers_rest_after, seals_replaced, trees_above
from tests.support.parts import DIM, Parts, execute, open_parts, postgres_url
from tests.support.segments import AT_REST, ROOM, SEGMENTS, seal

pytestmark = pytest.mark.on_both


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    """A collection of 8 fresh nodes; of more than 12, a segment is a tree."""
    with open_parts(settings) as parts, trees_above(NODES_OF_A_TREE * DIM):
        publish(parts, "a", 8)
        yield parts


def an_indexer(parts: Parts, min_nodes: int = 4) -> Indexer:
    return Indexer(parts.pool.another(size=2), min_nodes=min_nodes, memory_mb=64)


def test_nobody_waits_for_what_is_sealed_in_the_background(settings: Settings, parts: Parts) -> None:
    indexer = an_indexer(parts)
    with a_locked_table(settings):
        indexer.added(parts.collection, 4)
    until(lambda: sizes(settings) == [8], what="it is sealed")
    publish(parts, "b", 3)
    indexer.added(parts.collection, 3)
    indexer.close()
    assert are_there(settings) == [True]
    # What others may have left before is looked for once, then only what was added counts.
    assert sizes(settings) == [8]


def test_who_waits_for_a_seal_gets_its_error_whatever_it_is_and_the_next_is_done(
    settings: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bool:
        raise ZeroDivisionError

    indexer = an_indexer(parts)
    with seals_replaced(indexer, fail), pytest.raises(ZeroDivisionError):
        indexer.finish(parts.collection)
    assert indexer.finish(parts.collection)
    indexer.close()
    assert are_there(settings) == [True]


def children_of_merges() -> list[psutil.Process]:
    """Processes that merge, below this one."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "ragstore.protocol.merge_child" in child.cmdline()
    ]


@pytest.fixture
def many_trees(settings: Settings, parts: Parts) -> Parts:
    """Eight trees, which are to be merged by whoever looks at them."""
    for n in range(8):
        publish(parts, f"{n}", 13)
        seal(parts.pool, parts.collection)
    assert len(sizes(settings)) == 8
    return parts


def test_closing_waits_for_no_merge_and_leaves_no_process(settings: Settings, many_trees: Parts) -> None:
    parts = many_trees
    publish(parts, "more", 4)
    first = execute(settings, SEGMENTS)[0][0]
    indexer = an_indexer(parts)
    with a_locked_table(settings, first):
        assert indexer.finish(parts.collection)
        until(lambda: execute(settings, WAITING, [COPYING, 0]), what="the merge waits for the table")
        assert len(children_of_merges()) == 1
        indexer.close()
        assert children_of_merges() == []
    until(lambda: not execute(settings, WAITING, [COPYING, 0]), what="PostgreSQL has noticed it")
    assert sizes(settings)[:8] == [21, *[13] * 7]
    until(lambda: segments.merge_once(parts.pool, parts.collection, ROOM), what="it is merged by another")


_PARENT = """
import sys, time
from ragstore.postgres.collections import get_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.indexing import Build, Merge
merge = Merge(Build(sys.argv[1], "ragstore", "docs", 64, True))
print(merge._process.pid, flush=True)
time.sleep(600)
"""


def test_a_merge_ends_with_the_process_that_began_it(settings: Settings, many_trees: Parts) -> None:
    parts = many_trees
    first = execute(settings, SEGMENTS)[0][0]
    before = execute(settings, SEGMENT_TABLES)
    with a_locked_table(settings, first):
        parent = children.start_code(_PARENT, postgres_url(settings), env=children.environment(settings))
        try:
            assert parent.stdout
            merging = psutil.Process(int(parent.stdout.readline()))
            until(lambda: execute(settings, WAITING, [COPYING, 0]), what="the merge waits for the table")
        finally:
            os.kill(parent.pid, signal.SIGKILL)
            parent.communicate()
        until(lambda: not merging.is_running() or merging.status() == psutil.STATUS_ZOMBIE, what="the merge ended")
    until(lambda: not execute(settings, WAITING, [COPYING, 0]), what="PostgreSQL has noticed it")
    assert execute(settings, SEGMENT_TABLES) == before
    until(lambda: segments.merge_once(parts.pool, parts.collection, AT_REST), what="it is merged by another")
    assert sizes(settings) == [8 + 8 * 13]


def test_a_merge_in_a_process_of_its_own_is_waited_for_and_its_failure_is_told(
    settings: Settings, many_trees: Parts
) -> None:
    parts, lives = many_trees, Counter[str]()
    alive = partial(lives.update, ["alive"])
    merge_in_child(parts.pool, parts.collection, memory_mb=64, at_rest=True, alive=alive)
    assert sizes(settings) == [8 + 8 * 13]
    publish(parts, "more", 8)
    seal(parts.pool, parts.collection)
    execute(settings, "ALTER TABLE ragstore.collection RENAME COLUMN retired_segments TO gone")
    with pytest.raises(RagstoreError, match="status 1") as raised:
        merge_in_child(parts.pool, parts.collection, memory_mb=64, at_rest=True, alive=alive)
    assert "ragstore maintain" in raised.value.hint


def test_at_rest_a_process_merges_what_it_met(
    settings: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexers_rest_after(monkeypatch, 0.2)
    seal(parts.pool, parts.collection)
    publish(parts, "b", 9)
    indexer = an_indexer(parts, min_nodes=9)
    with trees_above(1_000 * DIM):
        indexer.added(parts.collection, 9)
        until(lambda: sizes(settings) == [17], what="nothing is added: it is merged")
    indexer.close()


def test_after_the_last_merge_it_is_measured_how_far_searches_must_look(many_trees: Parts) -> None:
    parts = many_trees
    merge_all(parts.pool, parts.collection, memory_mb=64, at_rest=False)
    assert now(parts).collection.effort is None
    merge_all(parts.pool, parts.collection, memory_mb=64, at_rest=True)
    effort = now(parts).collection.effort
    assert effort is not None and effort.n_nodes == 8 + 8 * 13
    assert effort.found is not None and effort.found.recall > 0.98 and effort.found.self_recall == 1.0
    assert not indexing.wants_merge(parts.pool, parts.collection, memory_mb=64, at_rest=True)
