"""Entry point of the command; it handles an interrupt before anything slow is imported."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from ragstore.cli import INTERRUPTED, STOP_SIGNALS


def main() -> int:
    """Run one command and return its exit status."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, _leave)
    from ragstore.cli.main import main as run

    return run()


def _leave(signum: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(128 + signum)
