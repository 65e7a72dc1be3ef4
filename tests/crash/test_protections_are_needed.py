"""With a protection of the protocol taken away, the judges of the kill matrix see what goes wrong; with it, nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ragstore.ingest import parse_process
from ragstore.settings import Settings
from tests.crash.forked import COLLECTION, InThisProcess, Order, run, started
from tests.crash.llama_scenes import FIRST, a_llama_scene
from tests.crash.readers import Bodies, DirectJudge, StagedJudge, everything
from tests.crash.scenes import GRACEFUL_S, Scene, Work, a_scene
from tests.support import llama_faces
from tests.support.children import until
from tests.support.corpus import an_edited, write_documents
from tests.support.oracle import Change
from tests.support.parts import execute

DIM = 256
STOPS = "stops before it publishes"


@pytest.fixture
def scene(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setattr(parse_process, "ParseProcess", InThisProcess)
    with a_scene(settings, mongo_database, tmp_path / "docs") as scene:
        yield scene


def an_update(scene: Scene, changed: Sequence[str], **options: Any) -> tuple[Work, Order]:
    """Args: changed: what is different in the process that does it."""
    work = scene.update()
    # One batch, so that no other thread of it is in the middle of something.
    order = scene.order(work.name, *work.arguments[0], **({"grace_s": GRACEFUL_S, "batch_chunks": 1_000} | options))
    return work, replace(order, changed=changed)


def found_by_the_judges(scene: Scene, work: Work) -> str:
    """What a reader and the oracle say is wrong, before and after everything has come to rest."""
    changes, untouched = work.changes, scene.untouched
    wrong = StagedJudge(changes, untouched)(everything(scene.rs, DIM))
    wrong += scene.oracle.visible_violations(changes, untouched)
    scene.settle()
    wrong += scene.oracle.visible_violations(changes, untouched)
    wrong += scene.oracle.settled_violations(scene.oracle.state_of(changes, untouched))
    return "\n".join(wrong)


def assert_found(wrong: str, expected: str, *, is_protected: bool) -> None:
    assert (wrong == "") if is_protected else (expected in wrong), wrong


protected_or_not = pytest.mark.parametrize("is_protected", [True, False], ids=["protected", "unprotected"])


@protected_or_not
def test_a_worker_that_lost_its_run_publishes_nodes_without_bodies_unless_the_run_row_stops_it(
    is_protected: bool, scene: Scene
) -> None:
    work, order = an_update(scene, [STOPS] if is_protected else [STOPS, "publishes without a fence"])
    with started([order]) as (worker,):
        until(worker.is_stopped, what="the worker stands still")
        execute(scene.settings, "UPDATE ragstore.run SET lease_until = now() - interval '1 second'")
        scene.settle()
        worker.send_signal(signal.SIGCONT)
        worker.end()
    assert_found(found_by_the_judges(scene, work), "live node has no body", is_protected=is_protected)


@protected_or_not
def test_a_slow_worker_brings_old_text_back_unless_it_looks_at_the_source_again(
    is_protected: bool, scene: Scene
) -> None:
    work, order = an_update(scene, [STOPS] if is_protected else [STOPS, "publishes what was overtaken"])
    with started([order]) as (worker,):
        until(worker.is_stopped, what="the worker stands still")
        newer: dict[str, str] = {}
        for document_id, text in (each for change in work.changes for each in change.after.items()):
            path = Path(document_id)
            newer |= write_documents(path.parent, {path.name: an_edited(text, "newer")})
        scene.ingest()
        worker.send_signal(signal.SIGCONT)
        worker.end()
    moved_on = replace(work, changes=[Change({i: text}, {i: text}) for i, text in newer.items()])
    assert_found(found_by_the_judges(scene, moved_on), "a reader sees neither old nor new", is_protected=is_protected)


@protected_or_not
def test_a_kill_between_two_transactions_loses_documents_unless_there_is_only_one(
    is_protected: bool, scene: Scene
) -> None:
    changed = [] if is_protected else ["publishes in two transactions"]
    work, order = an_update(scene, changed, failpoint="vectors_copied")
    assert run(order)[0].killed
    assert_found(found_by_the_judges(scene, work), "a reader sees neither old nor new", is_protected=is_protected)


@protected_or_not
def test_a_kill_before_the_commit_leaves_live_nodes_without_bodies_unless_old_ones_go_afterwards(
    is_protected: bool, scene: Scene
) -> None:
    changed = [] if is_protected else ["retires before it publishes"]
    work, order = an_update(scene, changed, failpoint="vectors_copied")
    assert run(order)[0].killed
    assert_found(found_by_the_judges(scene, work), "live node has no body", is_protected=is_protected)


@protected_or_not
def test_a_reader_that_takes_its_time_finds_no_bodies_unless_old_ones_stay_for_the_grace_period(
    is_protected: bool, scene: Scene
) -> None:
    bodies = Bodies(scene.mongo[f"{COLLECTION}/data"])
    assert bodies(everything(scene.rs, DIM)) == []
    _, order = an_update(scene, [] if is_protected else ["retires without grace"])
    assert not run(order)[0].killed
    wrong = "\n".join(bodies(everything(scene.rs, DIM)))
    assert_found(wrong, "a reader that found a node finds no body of it", is_protected=is_protected)


@protected_or_not
def test_a_kill_after_staging_leaves_orphans_unless_the_run_was_noted_before(is_protected: bool, scene: Scene) -> None:
    changed = [] if is_protected else ["begins after staging"]
    work, order = an_update(scene, changed, failpoint="nodes_staged")
    assert run(order)[0].killed
    assert_found(found_by_the_judges(scene, work), "orphans in MongoDB", is_protected=is_protected)


@protected_or_not
def test_a_kill_during_a_write_of_llamaindex_code_loses_a_document_unless_it_is_one_transaction(
    is_protected: bool, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    with a_llama_scene(settings) as scene:
        after = scene.next("llama refresh")
        order = scene.order("llama refresh", FIRST, failpoint="direct_written:3")
        changed = [] if is_protected else ["writes directly in two transactions"]
        assert run(replace(order, changed=changed))[0].killed
        wrong = DirectJudge(scene.live, after, at_once=True)(everything(scene.rs, llama_faces.DIM))
    assert_found("\n".join(wrong), "a reader sees no whole version", is_protected=is_protected)
