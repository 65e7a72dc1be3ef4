"""Every failpoint in every operation, in its first, a middle and its last batch, with one worker and with three.

Readers ask all the while. A worker is killed there, the two others go on to their ends, what died is recovered, both
stores are judged; then the work is done again, and judged again.

With one worker every cell is run, always. With three workers each failpoint is run in one batch of one operation, which
``RAGSTORE_TEST_SEED`` (default 1) chooses; ``RAGSTORE_TEST_CELLS=all`` runs every batch of every operation. A worker
among others that is not killed, because they did its work, starts again, armed for the last time it got there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ragstore.ingest import parse_process
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint
from tests.crash.cells import alone, beside_others
from tests.crash.forked import COLLECTION, InThisProcess, Order, run
from tests.crash.readers import Bodies, Judge, StagedJudge, reading
from tests.crash.scenes import GRACEFUL_S, OPERATIONS, Scene, Work, a_scene
from tests.crash.test_backup_kills import PASSES as OF_BACKUP
from tests.crash.test_llama_kill_matrix import PASSES as OF_DIRECT_WRITES
from tests.crash.test_reconcile_kills import PASSES as OF_RECONCILE
from tests.crash.test_repair_kills import PASSES as OF_REPAIR
from tests.support.kills import Tally

_PUBLISHING = {"run_begun": 5, "nodes_half_staged": 10, "nodes_staged": 5, "vectors_copied": 5, "published": 5}
_ENTRIES = {"ref_docs_half_put": 5, "ref_docs_put": 5}
_RETIRING = {"nodes_half_retired": 10, "nodes_retired": 5}
_INGESTING = {"runs_recovered": 2}
# At least: of two threads that store, the one may do what the other queued.
_TRYING = {"outbox_tried": 1, "mark_advanced": 1}
_BUILDING = {"index_build_begun": 1, "index_built": 1, "index_noted": 1}

PASSES: dict[str, dict[str, int]] = {
    "add": _PUBLISHING | _TRYING | _ENTRIES | _INGESTING,
    "update": _PUBLISHING | _TRYING | _ENTRIES | _RETIRING | _INGESTING,
    "rename": _PUBLISHING | _TRYING | _ENTRIES | _RETIRING | _INGESTING,
    "move": _PUBLISHING | _TRYING | _ENTRIES | _RETIRING | {"runs_recovered": 6},
    "delete": {"documents_deleted": 5, "delete_published": 5, "runs_recovered": 1} | _TRYING | _ENTRIES | _RETIRING,
    "drop": {"documents_deleted": 5, "delete_published": 5, "runs_recovered": 1}
    | {"collection_emptied": 1, "collection_dropping": 1, "collection_dropped": 1}
    | _TRYING
    | _ENTRIES
    | {"nodes_half_retired": 13, "nodes_retired": 5},
    "seal": _BUILDING | _INGESTING,
    "merge": _BUILDING,
    "declare": {"filter_keys_declared": 1, "filter_index_built": 4},
    "recover": {
        "runs_recovered": 1,
        "outbox_tried": 1,
        "mark_advanced": 1,
        "nodes_half_retired": 8,
        "nodes_retired": 4,
        "ref_docs_half_put": 3,
        "ref_docs_put": 3,
    },
}
"""Failpoints of each operation, and how often the first worker passes each when it is alone.

Recovery may have more to do, by what those who died were at in their other thread.
"""

MOST_TRIES = 25
"""The armed one of three workers is the one that does the work in about a third of them."""


@pytest.fixture(autouse=True)
def _parse_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_process, "ParseProcess", InThisProcess)


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path) -> Iterator[Scene]:
    with a_scene(settings, mongo_database, tmp_path / "docs") as scene:
        yield scene


def test_every_failpoint_belongs_to_an_operation() -> None:
    tables = (PASSES, OF_DIRECT_WRITES, OF_REPAIR, OF_RECONCILE, OF_BACKUP)
    assert set(Failpoint) == {failpoint for table in tables for passed in table.values() for failpoint in passed}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_passes_exactly_these_failpoints(operation: str, scene: Scene) -> None:
    scene.round += 1
    work = OPERATIONS[operation](scene)
    order = scene.order(work.name, *work.arguments[0], **work.options)
    (outcome,) = run(Order(order.work, order.arguments, order.env, watched=True))
    assert outcome.hits.keys() == PASSES[operation].keys()
    assert outcome.hits >= Counter(PASSES[operation])
    more = set(outcome.hits - Counter(PASSES[operation]))
    assert more <= _TRYING.keys() or operation == "recover"


@pytest.mark.parametrize(("operation", "failpoint", "n"), alone(PASSES))
def test_killed_there_alone_readers_see_old_or_new_and_the_next_run_ends_the_work(
    operation: str, failpoint: str, n: int, scene: Scene, tally: Tally
) -> None:
    tally.cells += 1
    assert kill_one(scene, operation, f"{failpoint}:{n}", n_workers=1) is None
    tally.kills += 1


@pytest.mark.parametrize(("operation", "failpoint", "n"), beside_others(PASSES))
def test_killed_there_beside_two_others_readers_see_old_or_new_and_the_next_run_ends_the_work(
    operation: str, failpoint: str, n: int, scene: Scene, tally: Tally
) -> None:
    tally.cells += 1
    nth = n
    for _ in range(MOST_TRIES):
        survived_with = kill_one(scene, operation, f"{failpoint}:{nth}", n_workers=3)
        if survived_with is None:
            tally.kills += 1
            return
        nth = max(1, survived_with)
    pytest.fail("nothing was killed")


def kill_one(scene: Scene, operation: str, failpoint: str, *, n_workers: int) -> int | None:
    """Let the operation happen, one worker armed; None if it was killed, else how often it was at the failpoint."""
    scene.round += 1
    work = OPERATIONS[operation](scene)
    name = failpoint.partition(":")[0]
    # Where old bodies are taken away at once, a reader that holds on to their ids has no right to them.
    holds_on = name not in _RETIRING and operation != "recover"
    options = {**work.options, "grace_s": GRACEFUL_S if holds_on else 0}
    orders = [scene.order(work.name, *arguments, **options) for arguments in work.arguments[:n_workers]]
    orders[0] = scene.order(work.name, *work.arguments[0], failpoint=failpoint, **options)
    judges: list[Judge] = [StagedJudge(work.changes, scene.untouched)]
    if holds_on:
        judges.append(Bodies(scene.mongo[f"{COLLECTION}/data"]))
    process = scene.order("read") if n_workers > 1 else None
    with reading(scene.rs, judges, process=process):
        armed, *others = run(*orders)
    assert not any(outcome.killed for outcome in others)
    judge(scene, work)
    return None if armed.killed else armed.hits[name]


def judge(scene: Scene, work: Work) -> None:
    """After the workers are gone; after recovery, which leaves nothing; after the work was done again."""
    oracle, untouched = scene.oracle, scene.untouched
    oracle.assert_visible(work.changes, untouched)
    scene.settle()
    oracle.assert_settled(oracle.state_of(work.changes, untouched))
    work.again()
    scene.settle()
    scene.live = {i: text for change in work.changes for i, text in change.after.items()}
    oracle.assert_settled(scene.state)
