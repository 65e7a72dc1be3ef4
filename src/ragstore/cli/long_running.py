"""Common parts of commands that run until they are stopped: option, logging and stop by a signal."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ragstore.cli import STOP_SIGNALS
from ragstore.cli.exit_status import InterruptedBySignal
from ragstore.cli.invocation import Invocation
from ragstore.telemetry.logging import get_logger

if TYPE_CHECKING:
    from ragstore.settings import Settings

STOP_WITHIN_S = 8.0
"""Seconds for a stop; less than the 10 after which container engines kill a process."""

MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics for Prometheus, and /health, there."),
]

_log = get_logger(__name__)  # log lines show this name, so it did not change with the module's


def settings_that_log(invocation: Invocation) -> Settings:
    """The settings; logs at level info, unless the settings, ``--debug`` or ``--quiet`` set another level."""
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
    """Let a signal end the block in good order: a publication that has begun is completed first.

    If a database does not answer within ``within_s`` seconds, the process still ends, as safely as if it were killed.
    """
    # The main thread may be in a long call when a signal arrives; the wake-up socket reaches another thread at once.
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
                # The read ends when the block does.
                while watched.recv(1):
                    pass
            except TimeoutError:
                _log.warning("stopped without waiting for a database", action="stop")
                os._exit(0)
            return
