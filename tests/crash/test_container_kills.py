"""An ingest of an archive that has changed, killed at every failpoint, each time it gets there.

After each kill every member is as it was or as it has become, and a member that the archive no longer has is there
until the archive itself is at its new revision. The next ingest goes on, and nothing is lost, doubled or left over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint
from tests.crash.forked import run
from tests.crash.scenes import Scene, a_scene
from tests.support.containers_made import a_zip
from tests.support.corpus import a_text, an_edited
from tests.support.oracle import Change

FAILPOINTS = (
    Failpoint.RUN_BEGUN,
    Failpoint.NODES_HALF_STAGED,
    Failpoint.NODES_STAGED,
    Failpoint.VECTORS_COPIED,
    Failpoint.PUBLISHED,
    Failpoint.NODES_HALF_RETIRED,
    Failpoint.NODES_RETIRED,
    Failpoint.REF_DOCS_HALF_PUT,
    Failpoint.REF_DOCS_PUT,
    Failpoint.OUTBOX_TRIED,
    Failpoint.RUNS_RECOVERED,
)
MOST_TIMES = 4
N_MEMBERS = 6


@pytest.fixture
def scene(settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path) -> Iterator[Scene]:
    with a_scene(settings, mongo_database, tmp_path / "docs") as made:
        yield made


class Archive:
    """A zip file of texts, and what has been made of it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.path = scene.folder / "box.zip"
        self.members = {f"{i}.txt": a_text(f"{i}", 6) for i in range(N_MEMBERS)}
        self._round = 0
        self._write()
        scene.ingest()

    def _write(self) -> None:
        self._round += 1
        self.path.write_bytes(a_zip(self.members))
        os.utime(self.path, (10**9 + self._round, 10**9 + self._round))

    def _state(self) -> dict[str, str]:
        return {f"{self.path}!//{name}": text for name, text in self.members.items()}

    def change(self) -> list[Change]:
        """Edit the first member, let the last go, and put a new one in; returns what must come of it."""
        before = self._state()
        first, *_, last = self.members
        del self.members[last]
        self.members = {f"new {self._round}.txt": a_text(f"new {self._round}", 6)} | self.members
        self.members[first] = an_edited(self.members[first], self._round)
        self._write()
        after = self._state()
        return [
            Change(*({i: state[i]} if i in state else {} for state in (before, after)))
            for i in sorted(before.keys() | after.keys())
        ]

    def wrong_now(self, changes: list[Change]) -> list[str]:
        """What readers see that is neither old nor new, or gone before its time."""
        wrong = self._scene.oracle.visible_violations(changes, self._scene.state)
        seen = self._scene.oracle.snapshot().documents
        gone = [i for change in changes for i in change.before.keys() - change.after.keys() if i not in seen]
        added = [i for change in changes for i in change.after.keys() - change.before.keys() if i in seen]
        if gone and not added:
            wrong.append(f"deleted before the others came: {gone}")
        return [each for each in wrong if not each.endswith(str(self.path))]

    def wrong_at_the_end(self) -> list[str]:
        wrong = self._scene.oracle.settled_violations({**self._scene.state, **self._state(), str(self.path): ""})
        # The archive has no text, and the hash of its own bytes.
        return [each for each in wrong if not each.endswith(str(self.path))]


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_an_archive_is_whole_after_a_kill_and_the_next_ingest(scene: Scene, failpoint: Failpoint) -> None:
    archive = Archive(scene)
    n_killed = 0
    for time in range(1, MOST_TIMES + 1):
        changes = archive.change()
        (outcome,) = run(scene.order("ingest", str(scene.folder), failpoint=f"{failpoint}:{time}"))
        n_killed += outcome.killed
        assert archive.wrong_now(changes) == []
        scene.settle()
        assert archive.wrong_now(changes) == []
        scene.ingest()
        scene.settle()
        assert archive.wrong_at_the_end() == []
        report = scene.rs.ingest(scene.folder, collection="docs")
        assert (report.added, report.updated, report.deleted, report.failed) == (0, 0, 0, 0)
        if not outcome.killed:
            break
    assert n_killed >= 1
