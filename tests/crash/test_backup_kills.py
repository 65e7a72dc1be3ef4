"""backup create and restore, killed at every failpoint that they pass, then run again; and backups while three write."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ragstore.app import backups
from ragstore.app.backups import Wanted
from ragstore.app.servers import status
from ragstore.errors import RestoredStoreError
from ragstore.ingest import parse_process
from ragstore.settings import Settings
from tests.crash.cells import alone, in_one_batch
from tests.crash.forked import InThisProcess, Order, run, started
from tests.support import children
from tests.support.backups import Other, another_pair
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.drift import COLLECTION, Scene, a_scene
from tests.support.internals import in_small_steps_of_backups
from tests.support.kills import Tally
from tests.support.parts import execute
from tests.support.servers import Servers

PASSES: dict[str, dict[str, int]] = {
    "backup": {
        "backup_claimed": 1,
        "backup_pack_stored": 3,
        "backup_ledger_stored": 1,
        "backup_stored": 1,
    },
    "restore": {
        "restore_table_made": 1,
        "restore_pack_loaded": 3,
        "restore_indexed": 1,
        "restore_switching": 1,
        "restore_switched": 1,
        "restore_filled": 1,
        "epoch_begun": 1,
        "epoch_told": 1,
    },
}
"""Operation → failpoint → how often it passes that at least."""

LIVE_FROM = ("restore_switched", "restore_filled", "epoch_begun", "epoch_told")
"""Failpoints at which what was restored is live."""


@pytest.fixture
def scene(
    settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setattr(parse_process, "ParseProcess", InThisProcess)
    with (
        in_small_steps_of_backups(),
        a_scene(settings, mongo_database, tmp_path / "docs", n_documents=4, n_sentences=8) as made,
    ):
        yield made


@pytest.fixture
def other(test_servers: Servers, template_database: str, settings: Settings) -> Iterator[Other]:
    with another_pair(test_servers, template_database, settings) as made:
        yield made


def an_order(work: str, settings: Settings, *arguments: object, **options: object) -> Order:
    return Order(work, arguments, children.environment(settings, **options))


def test_backup_and_restore_pass_these_failpoints(scene: Scene, other: Other, tmp_path: Path) -> None:
    target = str(tmp_path / "t")
    for order in (
        an_order("backup", scene.settings, target),
        an_order("restore", other.settings, target, False),
    ):
        hits = run(replace(order, watched=True))[0].hits
        assert hits.keys() >= PASSES[order.work].keys()
        assert hits >= Counter(PASSES[order.work])


@pytest.mark.parametrize(("work", "failpoint", "n"), [cell for cell in alone(PASSES) if cell[0] == "backup"])
def test_a_backup_killed_there_is_none_or_whole(
    work: str, failpoint: str, n: int, scene: Scene, other: Other, tally: Tally, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    tally.cells += 1
    before = backups.create(scene.settings, target)
    state = dict(scene.state)
    changed = write_documents(scene.folder, {f"{i}.txt": an_edited(a_text(i, 8), f"later {i}") for i in range(4)})
    scene.rs.ingest(scene.folder, collection=COLLECTION)
    scene.state.update(changed)
    assert run(an_order("backup", scene.settings, target, failpoint=f"{failpoint}:{n}"))[0].killed
    tally.kills += 1
    report = backups.verify(target)
    assert report.ok
    assert len(report.whole) == (2 if failpoint == "backup_stored" else 1)
    assert backups.restore(other.settings, target, Wanted(before.id)).ok
    other.assert_ok(COLLECTION, state)
    again = backups.create(scene.settings, target)
    assert backups.verify(target).ok
    assert backups.restore(other.settings, target, Wanted(again.id, replace=True)).ok
    other.assert_ok(COLLECTION, scene.state)


@pytest.mark.parametrize(("work", "failpoint", "n"), [cell for cell in alone(PASSES) if cell[0] == "restore"])
def test_a_restore_killed_there_shows_nothing_or_all_and_goes_on(
    work: str, failpoint: str, n: int, scene: Scene, other: Other, tally: Tally, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    tally.cells += 1
    backups.create(scene.settings, target)
    assert run(an_order("restore", other.settings, target, False, failpoint=f"{failpoint}:{n}"))[0].killed
    tally.kills += 1
    if failpoint not in LIVE_FROM:
        assert other.names() == []
        with other.open() as rs:
            assert rs.verify(deep=True).ok
    else:
        assert other.names() == [COLLECTION]
        if failpoint != "epoch_told":
            assert not status(other.settings).stores["ok"]
            with other.open() as rs, pytest.raises(RestoredStoreError):
                rs.delete("anything", collection=COLLECTION)
    assert backups.restore(other.settings, target, Wanted(replace=failpoint == "epoch_told")).ok
    assert other.leftovers() == []
    other.assert_ok(COLLECTION, scene.state)


@pytest.mark.parametrize(("work", "failpoint", "n"), [c for c in in_one_batch(PASSES) if c[0] == "restore"])
def test_a_replacing_restore_killed_there_leaves_the_old_state_or_the_new_one(
    work: str, failpoint: str, n: int, scene: Scene, tally: Tally, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    tally.cells += 1
    backups.create(scene.settings, target)
    old = dict(scene.state)
    new = write_documents(scene.folder, {"0.txt": an_edited(a_text(0, 8), "later"), "new.txt": a_text("new", 5)})
    scene.rs.ingest(scene.folder, collection=COLLECTION)
    scene.rs.close()
    assert run(an_order("restore", scene.settings, target, True, failpoint=f"{failpoint}:{n}"))[0].killed
    tally.kills += 1
    texts = {row[0] for row in execute(scene.settings, "SELECT DISTINCT document_id FROM ragstore.data_docs")}
    assert texts == set(old if failpoint in LIVE_FROM else old | new)
    assert backups.restore(scene.settings, target, Wanted(replace=True)).ok
    scene.oracle.assert_settled(old)


@pytest.mark.parametrize("seed", range(6))
def test_a_backup_killed_after_any_number_of_objects_never_hides_a_loss(
    seed: int, scene: Scene, other: Other, tally: Tally, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    root = tmp_path / "t"
    for _ in range(2):
        n = chance.randrange(1, 12) + len(_objects(root))
        with started([an_order("backup", scene.settings, str(root))]) as (child,):
            children.until(lambda n=n: len(_objects(root)) >= n or not child.is_running(), what=f"{n} objects")  # type: ignore[misc]
        tally.kills += 1
        assert backups.verify(str(root)).ok
    for backup in backups.verify(str(root)).whole or [backups.create(scene.settings, str(root)).id]:
        assert backups.restore(other.settings, str(root), Wanted(backup, replace=True)).ok
        other.assert_ok(COLLECTION, scene.state)


def _objects(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_what_is_backed_up_while_three_write_is_a_state_that_existed(
    scene: Scene, other: Other, tmp_path: Path
) -> None:
    target = str(tmp_path / "t")
    texts = {who: [(_version(who, "a", k), _version(who, "b", k)) for k in range(1, 13)] for who in range(3)}
    orders = [an_order("write versions", scene.settings, str(scene.folder), w, texts[w]) for w in range(3)]
    made: list[str] = []
    with started(orders) as writers:
        children.until(
            lambda: execute(scene.settings, "SELECT 1 FROM ragstore.event HAVING count(*) > 8"), what="writes"
        )
        while any(writer.is_running() for writer in writers) and len(made) < 5:
            made.append(backups.create(scene.settings, target).id)
        for writer in writers:
            writer.end()
    assert backups.verify(target).ok
    for backup in made:
        assert backups.restore(other.settings, target, Wanted(backup, replace=True)).ok
        state = dict(scene.state)
        for who, pairs in texts.items():
            versions = {}
            for place, name in enumerate("ab"):
                path = str(scene.folder / f"{who}-{name}.txt")
                found = {
                    row[0]
                    for row in execute(
                        other.settings, "SELECT text FROM ragstore.data_docs WHERE document_id = %s", [path]
                    )
                }
                (versions[name],) = {
                    k for k, pair in enumerate(pairs, start=1) if found and all(text in pair[place] for text in found)
                } or {0}
                if versions[name]:
                    state[path] = pairs[versions[name] - 1][place]
            assert versions["a"] - versions["b"] in (0, 1), (backup, who, versions)
        other.assert_ok(COLLECTION, state)


def _version(who: int, name: str, k: int) -> str:
    return an_edited(a_text(f"{who} {name}", 6), f"version {k} of {name} by {who}")
