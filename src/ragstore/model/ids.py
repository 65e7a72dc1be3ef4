"""Time-ordered unique ids for runs and nodes."""

from __future__ import annotations

import os
import time
from typing import NewType
from uuid import UUID

DocumentId = NewType("DocumentId", str)
NodeId = NewType("NodeId", str)
RunId = NewType("RunId", str)

_RANDOM_BITS = 74
_VERSION_7 = 0x7 << 76
_VARIANT_RFC = 0b10 << 62


def _uuid7() -> str:
    """A version 7 UUID (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits."""
    millis = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big") & ((1 << _RANDOM_BITS) - 1)
    rand_a, rand_b = random >> 62, random & ((1 << 62) - 1)
    return str(UUID(int=(millis << 80) | _VERSION_7 | (rand_a << 64) | _VARIANT_RFC | rand_b))


def new_run_id() -> RunId:
    """An id that no other run has or will have."""
    return RunId(_uuid7())


def new_node_id() -> NodeId:
    """An id that no other node has or will have."""
    return NodeId(_uuid7())
