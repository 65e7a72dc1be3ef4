"""What verbs that never end by themselves have in common: their options, their log, and how they stop."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli.entry import STOP_SIGNALS
from ragstore.cli.exit_status import InterruptedBySignal
from ragstore.cli.invocation import Invocation
from ragstore.telemetry.logging import get_logger

if TYPE_CHECKING:
    from ragstore.settings import Settings

STOP_WITHIN_S = 8.0
"""Less than the 10 seconds after which container engines kill."""

MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics for Prometheus, and /health, there."),
]

_log = get_logger(__name__)


def settings_that_log(invocation: Invocation) -> Settings:
    """The settings; what is done is logged, unless they or ``--quiet`` ask for less, or for more."""
    settings = invocation.settings()
    if invocation.quiet and not invocation.debug:
        from ragstore.telemetry.logging import configure_logging

        configure_logging("warning", settings.log_format)
    elif settings.origin("log_level") == "default" and not invocation.debug:
        from ragstore.telemetry.logging import configure_logging

        configure_logging("info", settings.log_format)
    return settings


@contextmanager
def ended_by_signal(within_s: float = STOP_WITHIN_S) -> Iterator[None]:
    """A signal to stop ends the block well: what is being published is published first.

    Where a database does not answer meanwhile, the process ends all the same, as safely as when it is killed.
    """
    # What the main thread is doing when a signal arrives may take long; the kernel's word reaches another at once.
    watched, written = socket.socketpair()
    written.setblocking(False)
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(watched, within_s), name="ragstore-stop", daemon=True).start()
    try:
        yield
    except InterruptedBySignal as interrupted:
        _log.info("stopped", action="stop", signal=signal.Signals(interrupted.signum).name)
    finally:
        signal.set_wakeup_fd(before)
        written.close()


def _end_in_time(watched: socket.socket, within_s: float) -> None:
    with watched:
        while received := watched.recv(1):
            if received[0] not in STOP_SIGNALS:
                continue
            watched.settimeout(within_s)
            try:
                # Ends with the block.
                while watched.recv(1):
                    pass
            except TimeoutError:
                _log.warning("stopped without waiting for a database", action="stop")
                os._exit(0)
            return
