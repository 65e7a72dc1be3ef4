"""reconcile, killed at every failpoint that it passes, in its first, a middle and its last step, then run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import TextNode
from pymongo.database import Database

import ragstore
from ragstore.app.servers import status
from ragstore.errors import RestoredStoreError
from ragstore.ingest import parse_process
from ragstore.settings import Settings
from tests.crash.cells import alone
from tests.crash.forked import InThisProcess, Order, run
from tests.support import children
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.drift import COLLECTION, Scene, a_scene
from tests.support.kills import Tally
from tests.support.restores import Backups, Moment, backups_of
from tests.support.servers import Servers

PASSES: dict[str, dict[str, int]] = {
    "postgres": {
        "epoch_begun": 1,
        "set_aside_copied": 4,
        "set_aside_removed": 4,
        "revisions_raised": 2,
        "repair_written": 4,
        "repair_committed": 4,
        "repair_replaced": 2,
        "nodes_put": 2,
        "ref_docs_half_put": 2,
        "ref_docs_put": 2,
        "epoch_told": 1,
        "mark_advanced": 1,
        "runs_recovered": 1,
    },
}
PASSES["mongo"] = {name: n for name, n in PASSES["postgres"].items() if name != "revisions_raised"}
"""Store that was restored → failpoint → how often a reconcile passes that at least."""


@dataclass
class Restored:
    """Two moments of a pair of databases, to be mixed."""

    scene: Scene
    backups: Backups
    old: Moment
    new: Moment
    states: dict[str, dict[str, str]]

    def mix(self, restored: str) -> None:
        postgres, mongo = (self.old, self.new) if restored == "postgres" else (self.new, self.old)
        self.backups.restore(postgres=postgres, mongo=mongo)
        self.scene.state.clear()
        self.scene.state.update(self.states[restored])


@pytest.fixture
def restored(
    test_servers: Servers,
    settings: Settings,
    mongo_database: Database[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Restored]:
    monkeypatch.setattr(parse_process, "ParseProcess", InThisProcess)
    small = settings.model_copy(update={"lease_ttl_s": 60})
    with (
        backups_of(test_servers, settings, mongo_database) as backups,
        a_scene(small, mongo_database, tmp_path / "docs", n_documents=5, n_sentences=6) as scene,
    ):
        before, old = dict(scene.state), backups.take()
        changed = {f"{i}.txt": an_edited(a_text(i, 6), "later") for i in range(2)}
        after = before | write_documents(scene.folder, {**changed, "new.txt": a_text("new", 4)})
        after.pop(str(scene.folder / "4.txt"))
        (scene.folder / "4.txt").unlink()
        with ragstore.open(small) as rs:
            rs.sync(scene.folder, collection=COLLECTION)
            rs.create_collection("made", model="external", dim=3)
            rs.storage_context("made").vector_store.add([TextNode(id_="m", text="m", embedding=[1.0, 0, 0])])
        yield Restored(scene, backups, old, backups.take(), {"postgres": before, "mongo": after})


def an_order(scene: Scene, **options: object) -> Order:
    return Order("reconcile", (), children.environment(scene.settings, **options))


@pytest.mark.parametrize("store", PASSES)
def test_reconcile_passes_these_failpoints(store: str, restored: Restored) -> None:
    restored.mix(store)
    hits = run(replace(an_order(restored.scene), watched=True))[0].hits
    assert hits.keys() == PASSES[store].keys()
    assert hits >= Counter(PASSES[store])


@pytest.mark.parametrize(("store", "failpoint", "n"), alone(PASSES))
def test_killed_there_the_stores_stay_refused_and_the_next_reconcile_ends_the_work(
    store: str, failpoint: str, n: int, restored: Restored, tally: Tally
) -> None:
    scene = restored.scene
    tally.cells += 1
    restored.mix(store)
    assert run(an_order(scene, failpoint=f"{failpoint}:{n}"))[0].killed
    tally.kills += 1
    with ragstore.open(scene.settings) as rs:
        if failpoint not in ("epoch_told", "mark_advanced", "runs_recovered"):
            assert not status(scene.settings).stores["ok"]
            with pytest.raises(RestoredStoreError):
                rs.storage_context(COLLECTION)
        report = rs.reconcile()
        assert report.ok, report.as_dict()
        rs.upkeep().go_round()
    scene.assert_ok()
    assert status(scene.settings).stores["ok"]
    assert rs.settings is scene.settings
