"""Drills: a backup that restores passes, anything else does not, and what could not be tried is never a success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llama_index.core.schema import TextNode

from ragstore.app import Ragstore, backups, drills
from ragstore.cli.main import main
from ragstore.settings import Settings
from tests.support.children import environment


@pytest.fixture
def target(store: Ragstore, settings: Settings, tmp_path: Path) -> Path:
    store.create_collection("notes", model="external", dim=3)
    nodes = [TextNode(id_=f"n{i}", text=f"text {i}", embedding=[1.0, i, i * i]) for i in range(30)]
    store.storage_context("notes").vector_store.add(nodes)
    backups.create(settings, str(tmp_path / "t"))
    return tmp_path / "t"


def test_a_backup_that_restores_passes(
    settings: Settings,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    files = ["--report", str(tmp_path / "drill.json"), "--metrics", str(tmp_path / "drill.prom")]
    assert main(["drill", str(target), "--json", "-q", *files]) == 0, capsys.readouterr()
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "drill.json").read_text())
    assert (report["ok"], report["nodes"]) == (True, 30)
    assert report["recovery_s"] > 0 and report["data_age_s"] >= 0
    assert {check["outcome"] for check in report["checks"]} == {"passed"}
    assert "passed" in (tmp_path / "drill.md").read_text()
    assert "ragstore_drill_success 1.0" in (tmp_path / "drill.prom").read_text()


def test_a_damaged_backup_fails_and_other_databases_stay(store: Ragstore, settings: Settings, target: Path) -> None:
    before = [each.name for each in store.collections()]
    path = next(path for path in (target / "packs").rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    report = drills.drill(settings, str(target))
    assert (report.ok, report.outcome) == (False, "failed")
    (failed,) = [check for check in report.checks if check.outcome == "failed"]
    assert path.name in failed.detail
    assert {check.name for check in report.checks if check.outcome == "could_not_run"} >= {"questions", "verify"}
    assert [each.name for each in store.collections()] == before


def test_what_cannot_be_tried_is_no_success(
    settings: Settings, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drills.drill(settings, str(tmp_path / "empty")).outcome == "could_not_run"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    report = drills.drill(settings, str(target))
    assert report.outcome == "could_not_run" and not report.ok
