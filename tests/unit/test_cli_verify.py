from __future__ import annotations

import pytest

from ragstore.cli.audits import in_words, tally_lines
from ragstore.cli.progress import lines
from ragstore.cli.repair import repair_lines
from ragstore.cli.verify import verify_lines
from ragstore.model.drift import Kind, RepairReport, VerifyReport
from ragstore.model.report import MAX_EXAMPLES, Findings, Progress


def a_tally(**counts: int) -> Findings:
    tally = Findings()
    for kind, n in counts.items():
        tally.add(Kind(kind), [f"{kind}-{i}" for i in range(n)])
    return tally


def test_the_json_of_verify_has_the_documented_keys() -> None:
    drift = a_tally(missing_in_mongo=3, orphans_in_mongo=2, missing_in_postgres=1, stale_entries=4, doubled_rows=5)
    assert VerifyReport(7, 70, 8, drift).as_dict() == {
        "ok": False,
        "documents": 7,
        "nodes": 70,
        "missing_in_mongo": 3,
        "orphans_in_mongo": 2,
        "missing_in_postgres": 1,
        "mismatched": 9,
        "pending": 8,
        "found": {},
        "seconds": 0.0,
    }


def test_without_drift_it_is_ok_whatever_is_pending() -> None:
    assert VerifyReport(7, 70, 8).ok
    assert verify_lines(VerifyReport(7, 70, 8, seconds=1.5)) == ["ok: 7 documents, 70 nodes in 1.5 s, 8 pending"]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_drift_is_drift(kind: Kind) -> None:
    report = VerifyReport(1, 1, 0, a_tally(**{kind.value: 1}))
    assert not report.ok
    assert sum(v for k, v in report.as_dict().items() if k not in ("ok", "documents", "nodes", "pending", "found")) == 1


def test_a_tally_counts_all_and_keeps_few() -> None:
    tally = a_tally(stale_entries=1_000)
    assert tally.counts == {Kind.STALE_ENTRY: 1_000}
    assert len(tally.examples[Kind.STALE_ENTRY]) == MAX_EXAMPLES
    tally.merge(a_tally(stale_entries=5, doubled_rows=1))
    assert tally.counts == {Kind.STALE_ENTRY: 1_005, Kind.DOUBLED_ROW: 1}
    assert len(tally.examples[Kind.STALE_ENTRY]) == MAX_EXAMPLES


def test_nothing_found_is_no_kind() -> None:
    assert a_tally(stale_entries=0).as_dict() == {}


def test_drift_is_shown_by_kind_with_its_first_examples() -> None:
    assert tally_lines(a_tally(stale_entries=7)) == [
        "  7 stale entries",
        *(f"    stale_entries-{i}" for i in range(5)),
        "    and 2 more",
    ]


def test_examples_cannot_steer_the_terminal() -> None:
    tally = Findings()
    tally.add(Kind.ORPHAN_IN_MONGO, ["\x1b[2J\nnode"])
    assert tally_lines(tally)[1] == r"    \x1b[2J node"


def test_repair_says_what_it_did_and_what_it_kept() -> None:
    report = RepairReport(repaired=a_tally(missing_in_postgres=2), kept=a_tally(orphans_in_mongo=1), embedded=2)
    shown = repair_lines(report)
    assert shown[0] == "repaired 2, 2 vectors computed in 0.0 s"
    assert "kept 1, which need a decision:" in shown
    assert not report.ok


def test_a_dry_run_is_ok_only_where_nothing_is_to_do() -> None:
    assert RepairReport(dry_run=True).ok
    assert repair_lines(RepairReport(dry_run=True)) == ["ok: nothing to repair"]
    planned = RepairReport(dry_run=True, repaired=a_tally(doubled_rows=1))
    assert not planned.ok
    assert repair_lines(planned)[0].startswith("would repair 1 ")
    assert RepairReport(repaired=a_tally(doubled_rows=1)).ok


def test_progress_says_how_far_and_how_fast() -> None:
    assert in_words(Progress("docs", 120_000, 500_000, 2.0)) == "docs: 120,000 of 500,000 nodes, 60,000 nodes/s"
    assert in_words(Progress("docs", 0, 5, 0.0)) == "docs: 0 of 5 nodes"


def test_progress_lines_are_seconds_apart() -> None:
    now, said = [0.0], list[str]()
    listen = lines(in_words, say=said.append, every_s=5, clock=lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        listen(Progress("docs", second, 12, 1.0))
    assert len(said) == 2
