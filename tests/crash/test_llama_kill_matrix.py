"""The kill matrix of what LlamaIndex code writes itself: insert, refresh and delete, as ``test_kill_matrix.py``.

Alone, a worker is killed at each failpoint of each operation in one of the three batches, by the same seed, because
``test_llama_kills.py`` goes through every batch, without readers; ``RAGSTORE_TEST_CELLS=all`` runs all here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pymongo.database import Database

from ragstore.settings import Settings
from tests.crash.cells import beside_others, in_one_batch
from tests.crash.forked import Order, run
from tests.crash.llama_scenes import FIRST, NAMES, SECOND, THIRD, LlamaScene, a_llama_scene
from tests.crash.readers import DirectJudge, everything, reading
from tests.support.kills import Tally
from tests.support.llama_faces import DIM, a_document

_DELETING = {
    "direct_written": 5,
    "direct_committed": 5,
    "direct_finished": 5,
    "mark_advanced": 5,
    "ref_docs_half_put": 5,
    "ref_docs_put": 5,
}
_RETIRING = {"nodes_half_retired": 10, "nodes_retired": 10}
_RECOVERING = {"runs_recovered": 1}
# A changed document is begun and closed, each a write.
_WRITING = {name: 2 * n for name, n in _DELETING.items()} | _RETIRING | _RECOVERING | {"nodes_put": 10}

PASSES: dict[str, dict[str, int]] = {
    "llama insert": _WRITING,
    "llama refresh": _WRITING,
    "llama delete": _DELETING | _RETIRING | _RECOVERING,
}
MOST_TRIES = 8


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Iterator[LlamaScene]:
    with a_llama_scene(settings) as scene:
        yield scene


@pytest.mark.parametrize("operation", PASSES)
def test_an_operation_passes_exactly_these_failpoints(operation: str, scene: LlamaScene) -> None:
    scene.next(operation)
    order = scene.order(operation, FIRST)
    (outcome,) = run(Order(order.work, order.arguments, order.env, watched=True))
    assert outcome.hits == PASSES[operation]


@pytest.mark.parametrize(("operation", "failpoint", "n"), in_one_batch(PASSES))
def test_killed_there_alone_readers_see_whole_versions_and_the_next_run_ends_the_work(
    operation: str, failpoint: str, n: int, scene: LlamaScene, tally: Tally
) -> None:
    tally.cells += 1
    assert kill_one(scene, operation, f"{failpoint}:{n}", (FIRST,)) is None
    tally.kills += 1


@pytest.mark.parametrize(("operation", "failpoint", "n"), beside_others(PASSES))
def test_killed_there_beside_two_others_readers_see_whole_versions_and_the_next_run_ends_the_work(
    operation: str, failpoint: str, n: int, scene: LlamaScene, tally: Tally
) -> None:
    tally.cells += 1
    nth = n
    for _ in range(MOST_TRIES):
        survived_with = kill_one(scene, operation, f"{failpoint}:{nth}", (FIRST, SECOND, THIRD))
        if survived_with is None:
            tally.kills += 1
            return
        nth = max(1, survived_with)
    pytest.fail("nothing was killed")


def kill_one(scene: LlamaScene, operation: str, failpoint: str, workers: Sequence[str]) -> int | None:
    """Let the operation happen, one worker armed; None if it was killed, else how often it was at the failpoint."""
    after = scene.next(operation)
    # LlamaIndex inserts a version beside the old one, and only then lets that go.
    at_rest = DirectJudge(scene.live, after, at_once=operation != "llama insert")
    # What several processes write of one document at the same moment is seen twice until one of them closes it.
    judge = DirectJudge(scene.live, after, at_once=at_rest.at_once and len(workers) == 1)
    orders = [scene.order(operation, names) for names in workers]
    orders[0] = scene.order(operation, workers[0], failpoint=failpoint)
    with reading(scene.rs, [judge], process=scene.order("read", "") if len(workers) > 1 else None):
        armed, *others = run(*orders)
    assert not any(outcome.killed for outcome in others)
    scene.settle()
    assert at_rest(everything(scene.rs, DIM)) == []
    scene.faces.assert_agree()
    scene.do(operation, NAMES)
    scene.settle()
    scene.live = after
    scene.faces.assert_holds(*(a_document(name, version) for name, version in after.items() if version))
    return None if armed.killed else armed.hits[failpoint.partition(":")[0]]
