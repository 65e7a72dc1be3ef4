"""The soak in a form short enough for every run; ``make soak`` is the long one."""

from __future__ import annotations

import pytest

from tests.crash.soak import soak


@pytest.mark.alone  # so that there is a number of kills and operations in its 45 s
def test_nothing_is_lost_doubled_or_torn_while_all_is_killed_at_random() -> None:
    report = soak(45, seed=20)
    print(report)
    assert not report.violations, str(report)
    assert report.rounds >= 2
    assert report.kills["kill worker"]
    assert report.kills.keys() & {"cut network", "silence network"}
    assert report.operations.keys() >= {"add", "change", "rename", "delete", "ingest"}
    assert min(report.looks["by sql"], report.looks["by query"]) > 0
