"""The one door to what ragstore keeps to itself: its private names, and what tests put in the place of its parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ragstore.telemetry import failpoint
from ragstore.telemetry.failpoint import Failpoint


def replace(owner: object, name: str, value: Any) -> None:
    """Put another value in the place of one that is there, for good."""
    assert hasattr(owner, name), f"{owner} has no {name} that could be replaced"
    setattr(owner, name, value)


@contextmanager
def replaced(owner: object, name: str, value: Any) -> Iterator[None]:
    """The same for the length of the block."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, value)
        yield


# Failpoints


def replace_reached(reached: Callable[[Failpoint], None]) -> None:
    """Have this called wherever the program passes a failpoint."""
    for module in _modules_with_failpoints():
        replace(module, "reached", reached)


@contextmanager
def failpoints_watched(reached: Callable[[Failpoint], None]) -> Iterator[None]:
    """The same for the length of the block."""
    with ExitStack() as stack:
        for module in _modules_with_failpoints():
            stack.enter_context(replaced(module, "reached", reached))
        yield


def _modules_with_failpoints() -> list[Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith("ragstore.")]
    found = [module for module in modules if vars(module).get("reached") is failpoint.reached]
    assert len(found) > 1, "no module passes failpoints"
    return found
