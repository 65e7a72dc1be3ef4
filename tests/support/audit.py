"""What this process does that the interpreter announces: programs that it starts, addresses that it connects to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_listening: list[tuple[frozenset[str], list[str]]] = []


@contextmanager
def audited(*events: str) -> Iterator[list[str]]:
    """Names of those of these audit events that happen in the block."""
    _install()
    listener = (frozenset(events), list[str]())
    _listening.append(listener)
    try:
        yield listener[1]
    finally:
        _listening.remove(listener)


@cache
def _install() -> None:
    # A hook cannot be taken away again: so there is one.
    sys.addaudithook(_hear)


def _hear(event: str, _: tuple[Any, ...]) -> None:
    for events, heard in _listening:
        if event in events:
            heard.append(event)
