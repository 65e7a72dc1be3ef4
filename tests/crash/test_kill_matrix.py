"""Every failpoint, in every operation, the first and the second time it is passed: killed there, then run again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.settings import Settings
from ragstore.telemetry.failpoint import Failpoint
from tests.crash.child import COLLECTION, PASSED
from tests.support import children
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.oracle import Change, Oracle, State
from tests.support.parts import execute, postgres_url

NAMES = [f"{letter}.txt" for letter in "abcdef"]
SMALL = {"chunk_size": 32, "chunk_overlap": 0}
SMALL_LIMITS = {"batch_chunks": 25, "index_min_nodes": 10, "lease_ttl_s": 60}
INDEX = """
SELECT c.index_state, i.indisvalid FROM ragstore.collection c, pg_index i
WHERE i.indexrelid = 'ragstore.data_docs_embedding_idx'::regclass
"""

# Twice or more: each batch, and each outbox row, passes them again.
_PUBLISHING = dict.fromkeys(["run_begun", "nodes_half_staged", "nodes_staged", "vectors_copied", "published"], 2)
_ENTRIES = dict.fromkeys(["ref_docs_half_put", "ref_docs_put"], 2)
_RETIRING = dict.fromkeys(["nodes_half_retired", "nodes_retired"], 2)
_DELETING = dict.fromkeys(["documents_deleted", "delete_published"], 2)
_INGESTING = {"runs_recovered": 2, "index_build_begun": 1, "index_built": 1}

PASSES = {
    "add": _PUBLISHING | _ENTRIES | _INGESTING,
    "update": _PUBLISHING | _ENTRIES | _RETIRING | _INGESTING,
    "rename": _PUBLISHING | _ENTRIES | _RETIRING | _INGESTING,
    "delete": _DELETING | _ENTRIES | _RETIRING | {"runs_recovered": 1},
}
"""Failpoints of each operation, and whether it passes them once or again and again."""

OF_DIRECT_WRITES = {"direct_written", "direct_committed", "direct_finished", "nodes_put"}
"""Passed only where LlamaIndex code writes nodes of its own; ``test_llama_kills.py`` kills there."""

OF_REPAIR = {failpoint for failpoint in Failpoint if failpoint.startswith("repair_")}
"""``test_repair_kills.py`` kills there."""

KILLS = [(o, f, n) for o, passed in PASSES.items() for f, most in passed.items() for n in range(1, most + 1)]


@dataclass(frozen=True)
class Scene:
    """One operation on a folder that is already ingested."""

    folder: Path
    changes: list[Change]
    untouched: State
    arguments: list[str]

    @property
    def after(self) -> State:
        return {**self.untouched, **{i: text for change in self.changes for i, text in change.after.items()}}


def a_scene(operation: str, folder: Path, rs: Ragstore) -> Scene:
    untouched = write_documents(folder, {"other.txt": a_text("other")})
    rs.create_collection(COLLECTION, **SMALL)
    texts = {name: a_text(name) for name in NAMES}
    if operation == "add":
        rs.ingest(folder, collection=COLLECTION)
        added = write_documents(folder, texts)
        changes = [Change({}, {i: text}) for i, text in added.items()]
        return Scene(folder, changes, untouched, ["ingest", str(folder)])
    before = write_documents(folder, texts)
    rs.ingest(folder, collection=COLLECTION)
    if operation == "delete":
        changes = [Change({i: text}, {}) for i, text in before.items()]
        return Scene(folder, changes, untouched, ["delete", *before])
    if operation == "update":
        after = write_documents(folder, {name: an_edited(text, name) for name, text in texts.items()})
        changes = [Change({i: before[i]}, {i: after[i]}) for i in before]
        return Scene(folder, changes, untouched, ["ingest", str(folder)])
    renamed = [Path(i).rename(folder / f"new-{Path(i).name}") for i in before]
    changes = [Change({i: text}, {str(new): text}) for (i, text), new in zip(before.items(), renamed, strict=True)]
    return Scene(folder, changes, untouched, ["ingest", str(folder)])


def an_oracle(settings: Settings, mongo: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo, COLLECTION)


def test_every_failpoint_belongs_to_an_operation() -> None:
    assert set(Failpoint) == {f for passed in PASSES.values() for f in passed} | OF_DIRECT_WRITES | OF_REPAIR


@pytest.mark.parametrize("operation", PASSES)
def test_an_operation_passes_exactly_these_failpoints(
    operation: str, settings: Settings, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    with ragstore.open(settings) as rs:
        scene = a_scene(operation, tmp_path / "docs", rs)
    record = tmp_path / "passed"
    env = children.environment(settings, **SMALL_LIMITS) | {PASSED: str(record)}
    children.result(children.start("tests.crash.child", *scene.arguments, env=env))
    passed = Counter(record.read_text().split())
    assert {failpoint: min(n, 2) for failpoint, n in passed.items()} == PASSES[operation]
    an_oracle(settings, mongo_database).assert_settled(scene.after)


@pytest.mark.parametrize(("operation", "failpoint", "time"), KILLS)
def test_killed_there_readers_see_old_or_new_and_the_next_run_ends_the_work(
    operation: str,
    failpoint: str,
    time: int,
    settings: Settings,
    mongo_database: Database[dict[str, Any]],
    tmp_path: Path,
) -> None:
    oracle = an_oracle(settings, mongo_database)
    with ragstore.open(settings) as rs:
        scene = a_scene(operation, tmp_path / "docs", rs)
    oracle.assert_visible([Change(c.before, c.before) for c in scene.changes], scene.untouched)

    env = children.environment(settings, failpoint=f"{failpoint}:{time}", **SMALL_LIMITS)
    status, _, err = children.finish(children.start("tests.crash.child", *scene.arguments, env=env))
    assert status == -9, err
    oracle.assert_visible(scene.changes, scene.untouched)

    with ragstore.open(settings.model_copy(update=SMALL_LIMITS)) as rs:
        if operation == "delete":
            rs.delete(*scene.arguments[1:], collection=COLLECTION)
        else:
            rs.ingest(scene.folder, collection=COLLECTION)
            assert execute(settings, INDEX) == [("ready", True)]
        for found in rs.query(a_text("a.txt"), collection=COLLECTION, top_k=50):
            assert scene.after[found.document_id][found.start_char : found.end_char] == found.text
    oracle.assert_settled(scene.after)
