"""Counts what the kill matrices killed, and says so at the end of the run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pytest


@dataclass
class Tally:
    """What one test did.

    Args:
        cells: combinations of operation, failpoint, batch and number of workers.
    """

    cells: int = 0
    kills: int = 0

    def note(self, item: pytest.Item) -> None:
        """Reports carry it from the processes of xdist to the one that sums up."""
        item.user_properties += asdict(self).items()


class Kills:
    """A pytest plugin for the process that shows the summary."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reports = [report for reports in terminalreporter.stats.values() for report in reports]
        total: Counter[str] = Counter()
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                total.update({name: n for name, n in report.user_properties if name in asdict(Tally())})
        if total["cells"]:
            terminalreporter.write_line(f"kill matrix: {total['cells']} cells, {total['kills']} kills")


def passes() -> Iterator[int]:
    """At which pass of a failpoint to kill: the 1st, 2nd, 3rd, 5th, 8th …, so that a long operation is killed early and late
    within a test's time; at every one with ``RAGSTORE_TEST_CELLS=all``.
    """
    if os.environ.get("RAGSTORE_TEST_CELLS") == "all":
        yield from range(1, 100)
        return
    nth, following = 1, 2
    while nth < 100:
        yield nth
        nth, following = following, nth + following
