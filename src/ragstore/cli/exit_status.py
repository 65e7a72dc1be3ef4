"""Exit statuses, and the one or two lines that the user sees of an error or an interrupt."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Any, NoReturn

import typer

from ragstore.cli import INTERRUPTED, STOP_SIGNALS
from ragstore.cli.invocation import Invocation
from ragstore.cli.output import first_of, plain, say
from ragstore.errors import RagstoreError
from ragstore.model.report import IngestReport

EXIT_USAGE = 2
EXIT_PARTLY = 3
EXIT_REFUSED = 4
EXIT_DRIFT = 5
EXIT_NOT_FOUND = 6
EXIT_OUTPUT_CLOSED = 141

SAME_SIGNAL_S = 1.0

MAX_NAMES = 20
"""Most documents that are named in text; ``--json`` names all."""

_HINT_UNEXPECTED = "this is a defect of ragstore; run the same command with --debug and report what it prints"


class InterruptedBySignal(BaseException):
    """SIGINT or SIGTERM arrived. Not an Exception, so that no ``except Exception`` treats it as a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def raise_interrupted(signum: int, _frame: FrameType | None) -> NoReturn:
    """Signal handler that unwinds and closes everything.

    A further signal, at least ``SAME_SIGNAL_S`` later, ends the process at once; an earlier one is a copy of this one.
    """
    begun = time.monotonic()

    def end_at_once(again: int, _frame: FrameType | None) -> None:
        # `timeout`, `uv run` and the like send a signal on that this process already got through its process group.
        if time.monotonic() - begun >= SAME_SIGNAL_S:
            signal.signal(again, signal.SIG_DFL)
            os.kill(os.getpid(), again)

    for each in STOP_SIGNALS:
        signal.signal(each, end_at_once)
        # At its end the interpreter restores the default handlers; a signal would then hide the exit status.
        atexit.register(signal.signal, each, signal.SIG_IGN)
    raise InterruptedBySignal(signum)


def leave_with(exit_status: int) -> None:
    """Make a signal from now on end the process at once with this status: all work is done."""

    def leave(_signum: int, _frame: FrameType | None) -> NoReturn:
        os._exit(exit_status)

    for each in STOP_SIGNALS:
        signal.signal(each, leave)


def tell_interrupted(signum: int) -> int:
    """Report that stopping was safe; returns the exit status that shells use for the signal."""
    say(INTERRUPTED)
    return 128 + signum


def tell_error(error: RagstoreError, invocation: Invocation) -> int:
    """Report an error and its hint; returns its exit status."""
    if invocation.debug:
        traceback.print_exception(error)
    say(f"error: {plain(error.message)}")
    if error.hint:
        say(f"hint: {plain(error.hint)}")
    lost = list(error.facts.get("lost_documents", ()))
    for line in first_of("gone", lost, MAX_NAMES):
        say(line)
    report = error.facts.get("report")
    more = {"lost_documents": lost, "report": report.as_dict()} if isinstance(report, IngestReport) else {}
    if invocation.json:
        _write_error_json(error.code, error.message, error.hint, str(error.retry), **more)
    return error.exit_status


def tell_usage(error: typer.TyperException, command: str, invocation: Invocation) -> int:
    """Report a command line that cannot be parsed; returns the exit status."""
    message, hint = error.format_message(), f"run: {command} --help"
    say(f"error: {plain(message)}")
    say(f"hint: {hint}")
    if invocation.json:
        _write_error_json("usage", message, hint, "never")
    return EXIT_USAGE


def tell_unexpected(error: Exception, invocation: Invocation) -> int:
    """Report an unexpected error, and how to report it as a defect; returns the exit status."""
    if invocation.debug:
        traceback.print_exception(error)
    message = " ".join(f"unexpected {type(error).__name__}: {error}".split())
    say(f"error: {plain(message)}")
    say(f"hint: {_HINT_UNEXPECTED}")
    if invocation.json:
        _write_error_json("unexpected", message, _HINT_UNEXPECTED, "never")
    return 1


def _write_error_json(code: str, message: str, hint: str, retry: str, **more: Any) -> None:
    document = {"error": {"code": code, "message": message, "hint": hint, "retry": retry}, **more}
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
