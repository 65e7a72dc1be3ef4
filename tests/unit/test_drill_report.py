"""The report of a drill: it passes only where every required check was made and passed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragstore.backup.drill import compare_own, compare_questions, markdown, write_metrics, write_report
from ragstore.errors import UsageError
from ragstore.model.backup import CollectionBackup, Head, Manifest, SampleQuestion
from ragstore.model.drill import REQUIRED, DrillReport


def a_report(**outcomes: str) -> DrillReport:
    report = DrillReport("/t", "2026-11-30T10:00:00+00:00", "b1", "2026-11-30T09:00:00+00:00", 3600.0, 8.0)
    for name in REQUIRED:
        if outcomes.get(name) != "left out":
            report.add(name, outcomes.get(name, "passed"), f"detail | of {name}")  # type: ignore[arg-type]
    return report


def a_manifest(*questions: SampleQuestion) -> Manifest:
    head = Head("b1", "", "", "0009", "0002", "18", "d", 1, 1, None, "c", 0, 0, 0, ())
    return Manifest(head, (CollectionBackup("docs", 1, {}, 0, 0, (), (), (), {}, questions),))


def test_a_drill_passes_only_with_every_required_check() -> None:
    assert a_report().outcome == "passed"
    for name in REQUIRED:
        assert a_report(**{name: "failed"}).outcome == "failed"
        assert a_report(**{name: "could_not_run"}).outcome == "could_not_run"
        missing = a_report(**{name: "left out"})
        assert (missing.ok, missing.outcome) == (False, "could_not_run")
        missing.complete()
        assert {check.name for check in missing.checks} == set(REQUIRED)
        assert not missing.ok
    assert DrillReport("/t", "now").outcome == "could_not_run"


def test_hits_are_compared_and_equal_ones_may_change_places() -> None:
    question = SampleQuestion([1.0], ["a", "b", "c"], [0.0, 0.1, 0.2])

    def search(found: list[tuple[str, float]]) -> str:
        return compare_questions(a_manifest(question), lambda *_: found).outcome

    assert search([("a", 1.0), ("b", 0.9), ("c", 0.8)]) == "passed"
    assert search([("b", 0.9), ("a", 1.0), ("other of the same text", 0.8)]) == "passed"
    assert search([("a", 1.0), ("x", 0.7), ("y", 0.6)]) == "failed"
    assert search([]) == "failed"
    assert compare_questions(a_manifest(), lambda *_: []).outcome == "could_not_run"


def test_nodes_must_be_found_by_their_own_vectors() -> None:
    sample = [("docs", "a", [1.0]), ("docs", "b", [2.0])]
    assert compare_own(sample, lambda _, vector, __: [("a" if vector == [1.0] else "b", 0.5)]).outcome == "passed"
    lost = compare_own(sample, lambda *_: [("a", 0.5)])
    assert lost.outcome == "failed" and "docs/b" in lost.detail
    assert compare_own(sample, lambda *_: [("twin", 1.0)]).outcome == "passed"
    assert compare_own([], lambda *_: []).outcome == "could_not_run"


def test_report_and_metrics_are_files(tmp_path: Path) -> None:
    paths = write_report(a_report(), tmp_path / "drill", b"{}")
    assert [path.name for path in paths] == ["drill.json", "drill.md"]
    page = paths[1].read_text()
    assert "passed" in page and "1 h" not in page and "60 min" in page and "detail \\| of verify" in page
    assert "FAILED" in "\n".join(markdown(a_report(verify="failed")))
    metrics = tmp_path / "drill.prom"
    write_metrics(a_report(), metrics, 1000.0)
    assert "ragstore_drill_success 1.0" in metrics.read_text()
    write_metrics(a_report(verify="failed"), metrics, 2000.0)
    said = metrics.read_text()
    assert "ragstore_drill_success 0.0" in said
    assert "ragstore_drill_last_success_timestamp_seconds 1000.0" in said
    assert "ragstore_drill_last_run_timestamp_seconds 2000.0" in said
    assert 'ragstore_drill_checks{outcome="failed"} 1.0' in said
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(a_report(), tmp_path / "nowhere" / "drill", b"{}")
