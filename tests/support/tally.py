"""Counts on which servers tests really ran: by what each asked for, itself or through its fixtures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

_PROPERTY = "servers"

_noted: set[str] = set()


def note(kind: str) -> None:
    """Servers of this kind are being used by the test or fixture that runs now."""
    _noted.add(kind)


class Tally:
    """A pytest plugin, in every test process; the one that shows the summary adds up the reports of all."""

    def __init__(self) -> None:
        # What the set-up of a fixture that lives for several tests used, they all use.
        self._by_fixture: dict[tuple[str, str], frozenset[str]] = {}
        self._n_tests: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        global _noted  # noqa: PLW0603 - tests run one after the other
        outside, _noted = _noted, set()
        try:
            return (yield)
        finally:
            self._by_fixture[fixturedef.argname, fixturedef.baseid] = frozenset(_noted)
            _noted |= outside

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        _noted.clear()
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.when == "call":
            names = getattr(item, "fixturenames", ())
            of_fixtures = (
                kinds
                for (name, place), kinds in self._by_fixture.items()
                if name in names and item.nodeid.startswith(place)
            )
            item.user_properties.append((_PROPERTY, " ".join(sorted(_noted.union(*of_fixtures)))))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped:
            kinds = str(dict(report.user_properties).get(_PROPERTY, ""))
            self._n_tests.update(kinds.split() or ["none"])
            self._n_tests["several"] += len(kinds.split()) > 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        n = self._n_tests
        of = {"containers": "on containers", "embedded": "on embedded servers", "url": "on servers given by URL"}
        parts = [f"{n[kind]} tests {where}" for kind, where in of.items() if n[kind] or kind != "url"]
        several = f", {n['several']} of them on both" if n["several"] else ""
        terminalreporter.write_line(f"{', '.join(parts)}{several}; {n['none']} without servers")
