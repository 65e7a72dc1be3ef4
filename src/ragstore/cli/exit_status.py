"""Where errors become an exit status and one or two lines."""

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

from ragstore.cli.entry import INTERRUPTED, STOP_SIGNALS
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
"""Documents that are named in text; ``--json`` names all."""

_HINT_UNEXPECTED = "this is a defect of ragstore; run the same command with --debug and report what it prints"


class InterruptedBySignal(BaseException):
    """SIGINT or SIGTERM arrived. No Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def raise_interrupted(signum: int, _frame: FrameType | None) -> NoReturn:
    """Signal handler: unwind and close everything; the next signal, if it is another one, ends the process at once."""
    begun = time.monotonic()

    def end_at_once(again: int, _frame: FrameType | None) -> None:
        # `timeout`, `uv run` and the like pass on a signal that has reached us by the process group as well.
        if time.monotonic() - begun >= SAME_SIGNAL_S:
            signal.signal(again, signal.SIG_DFL)
            os.kill(os.getpid(), again)

    for each in STOP_SIGNALS:
        signal.signal(each, end_at_once)
        # The interpreter goes back to the deadly handlers when it ends, which would hide our exit status.
        atexit.register(signal.signal, each, signal.SIG_IGN)
    raise InterruptedBySignal(signum)


def leave_with(exit_status: int) -> None:
    """All is done: a signal from here on ends the process at once, with its own exit status."""

    def leave(_signum: int, _frame: FrameType | None) -> NoReturn:
        os._exit(exit_status)

    for each in STOP_SIGNALS:
        signal.signal(each, leave)


def tell_interrupted(signum: int) -> int:
    """Say that stopping is safe, and return the exit status shells use for the signal."""
    say(INTERRUPTED)
    return 128 + signum


def tell_error(error: RagstoreError, invocation: Invocation) -> int:
    """Say what went wrong and what to do, and return the exit status of its kind."""
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
    """Say what cannot be understood about the call."""
    message, hint = error.format_message(), f"run: {command} --help"
    say(f"error: {plain(message)}")
    say(f"hint: {hint}")
    if invocation.json:
        _write_error_json("usage", message, hint, "never")
    return EXIT_USAGE


def tell_unexpected(error: Exception, invocation: Invocation) -> int:
    """Say that this should not have happened, and how to report it."""
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
