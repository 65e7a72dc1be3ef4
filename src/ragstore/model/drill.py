"""Report of a restore drill: which checks were made, which could not be, and what it took."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["passed", "failed", "could_not_run"]

REQUIRED = ("manifest", "restore", "counts", "verify", "questions", "own_vectors")
"""Checks without which a drill has not passed."""


@dataclass(frozen=True, slots=True)
class DrillCheck:
    """One check, with a line that says what was seen."""

    name: str
    outcome: Outcome
    detail: str


@dataclass(slots=True)
class DrillReport:
    """Result of ``drill``.

    Args:
        at: when it began, ISO 8601.
        data_age_s: age of the data that would have been recovered, when it began.
        recovery_s: from the first byte read until both stores and the indexes were ready, servers included.
    """

    target: str
    at: str
    backup: str | None = None
    made_at: str | None = None
    data_age_s: float | None = None
    recovery_s: float | None = None
    documents: int = 0
    nodes: int = 0
    checks: list[DrillCheck] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, name: str, outcome: Outcome, detail: str) -> None:
        self.checks.append(DrillCheck(name, outcome, detail))

    @property
    def outcome(self) -> Outcome:
        """``passed`` only if every required check was made and none failed."""
        outcomes = {check.name: check.outcome for check in self.checks}
        if "failed" in outcomes.values():
            return "failed"
        return "passed" if all(outcomes.get(name) == "passed" for name in REQUIRED) else "could_not_run"

    @property
    def ok(self) -> bool:
        return self.outcome == "passed"

    def count(self) -> dict[Outcome, int]:
        """Number of checks by outcome; required ones that were not reached could not run."""
        found = Counter(check.outcome for check in self.checks)
        names = {check.name for check in self.checks}
        found["could_not_run"] += sum(name not in names for name in REQUIRED)
        return {"passed": found["passed"], "failed": found["failed"], "could_not_run": found["could_not_run"]}

    def complete(self) -> None:
        """Add the required checks that were not reached."""
        names = {check.name for check in self.checks}
        for name in REQUIRED:
            if name not in names:
                self.add(name, "could_not_run", "an earlier step did not succeed")

    def as_dict(self) -> dict[str, Any]:
        """The shape ``drill --json`` prints."""
        return {"ok": self.ok, "outcome": self.outcome, **asdict(self)}
