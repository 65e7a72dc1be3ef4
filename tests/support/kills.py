"""Counts what the kill matrices killed, and says so at the end of the run."""

from __future__ import annotations

from collections import Counter
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
