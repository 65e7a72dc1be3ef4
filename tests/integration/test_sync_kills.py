"""A sync killed at each step of its deletions, and at random: readers see old or new, and the next sync ends it."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.settings import Settings
from tests.support import children
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.oracle import Change, Oracle, State
from tests.support.parts import postgres_url

N_GONE = 110
"""More than are deleted at once."""

KILLS = [
    ("vectors_copied", 1),
    ("published", 1),
    ("documents_deleted", 1),
    ("documents_deleted", 2),
    ("delete_published", 1),
    ("delete_published", 2),
    ("ref_docs_put", 1),
    ("nodes_half_retired", 2),
    ("nodes_retired", 3),
]


@dataclass(frozen=True)
class Scene:
    """A folder that changed after it was ingested."""

    folder: Path
    changes: list[Change]
    after: State


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo_database)


@pytest.fixture
def scene(settings: Settings, oracle: Oracle, tmp_path: Path) -> Scene:
    folder = tmp_path / "docs"
    gone = write_documents(folder, {f"gone-{i:03}.txt": a_text(i, 4) for i in range(N_GONE)})
    kept = write_documents(folder, {f"{name}.txt": a_text(name, 8) for name in "abcd"})
    with ragstore.open(settings) as rs:
        rs.create_collection("docs", chunk_size=32, chunk_overlap=0)
        rs.ingest(folder, collection="docs")
    for path in gone:
        Path(path).unlink()
    old, moved = str(folder / "a.txt"), str(folder / "moved.txt")
    Path(old).rename(moved)
    edited = write_documents(folder, {"b.txt": an_edited(kept[str(folder / "b.txt")], 1)})
    new = write_documents(folder, {"new.txt": a_text("new", 8)})
    changes = [Change({i: text}, {}) for i, text in gone.items()]
    changes.append(Change({old: kept[old]}, {moved: kept[old]}))
    changes += [Change({i: kept[i]}, {i: text}) for i, text in edited.items()]
    changes += [Change({}, {i: text}) for i, text in new.items()]
    after = {i: text for i, text in kept.items() if i != old} | {moved: kept[old]} | edited | new
    changes += [Change({i: kept[i]}, {i: kept[i]}) for i in after if i in kept and i not in edited]
    return Scene(folder, changes, after)


def start(settings: Settings, scene: Scene, **options: object) -> Any:
    env = children.environment(settings, **options)
    return children.start("ragstore", "sync", str(scene.folder), "-c", "docs", "--allow-mass-delete", "--json", env=env)


def synced(settings: Settings, scene: Scene) -> dict[str, Any]:
    status, out, err = children.finish(start(settings, scene))
    assert status == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.mark.parametrize(("failpoint", "n"), KILLS)
def test_killed_there_the_next_sync_ends_the_work(
    failpoint: str, n: int, settings: Settings, oracle: Oracle, scene: Scene
) -> None:
    status, _, err = children.finish(start(settings, scene, failpoint=f"{failpoint}:{n}"))
    assert status == -signal.SIGKILL, err
    oracle.assert_visible(scene.changes)
    assert synced(settings, scene)["failed"] == 0
    oracle.assert_settled(scene.after)
    assert synced(settings, scene)["unchanged"] == len(scene.after)


CHAIN = [
    ("vectors_copied", 1),
    ("published", 1),
    ("documents_deleted", 1),
    ("delete_published", 1),
    ("documents_deleted", 1),
    ("delete_published", 1),
]
"""Each is passed whatever those before it have left: 110 are deleted in two batches."""


def test_killed_again_and_again_with_no_whole_sync_between_it_gets_there(
    settings: Settings, oracle: Oracle, scene: Scene
) -> None:
    for failpoint, n in CHAIN:
        status, _, err = children.finish(start(settings, scene, failpoint=f"{failpoint}:{n}"))
        assert status == -signal.SIGKILL, f"{failpoint}: {err}"
        oracle.assert_visible(scene.changes)
    synced(settings, scene)
    oracle.assert_settled(scene.after)
