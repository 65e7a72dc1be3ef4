"""Fixtures of the crash tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kills import Tally


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """For a test of a kill matrix to count in."""
    counted = Tally()
    yield counted
    counted.note(request.node)
