"""The command line as a Typer application: each command is a module of this package."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Annotated

import typer

from ragstore.cli import STOP_SIGNALS
from ragstore.cli.exit_status import (
    EXIT_OUTPUT_CLOSED,
    EXIT_USAGE,
    InterruptedBySignal,
    leave_with,
    raise_interrupted,
    tell_error,
    tell_interrupted,
    tell_unexpected,
    tell_usage,
)
from ragstore.cli.invocation import Invocation, split_off
from ragstore.cli.output import OutputClosedError, flush
from ragstore.errors import RagstoreError

PROGRAM = "ragstore"
VERBS = (
    "up",
    "down",
    "status",
    "migrate",
    "ingest",
    "sync",
    "worker",
    "maintain",
    "query",
    "ask",
    "documents",
    "history",
    "show",
    "delete",
    "move",
    "drop",
    "quarantine",
    "verify",
    "repair",
    "reconcile",
    "import",
    "export",
    "adopt",
    "compare",
    "backup",
    "restore",
    "drill",
)
"""Each is a function in a module of this package, both of that name, with ``_`` after Python's keywords."""

_EPILOG = (
    "Exit status: 0 done, 1 failed, 2 usage, 3 partly done, 4 refused, 5 drift found, 6 not found. "
    "Options come from RAGSTORE_* variables, .env, ragstore.toml and secret files: see `ragstore status --settings`."
)


def _version_wanted(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version_wanted, is_eager=True, help="Show the version and leave.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and every log line; may stand after the verb too.")
    ] = False,
) -> None:
    """Two databases, one atomic index: production storage for LlamaIndex."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(EXIT_USAGE)


def app(verbs: Sequence[str] = VERBS) -> typer.Typer:
    """The command line as a Typer application.

    Args:
        verbs: only these commands are loaded; a process that runs one need not wait for the others.
    """
    # No rich in the help and the errors: it costs 0.15 s, and its tracebacks print local variables, passwords included.
    application = typer.Typer(
        name=PROGRAM,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    application.callback(invoke_without_command=True, epilog=_EPILOG)(_root)
    for verb in verbs:
        application.command(verb)(_function(verb))
    return application


def _function(verb: str) -> Callable[..., None]:
    name = f"{verb}_" if iskeyword(verb) else verb
    found: Callable[..., None] = getattr(import_module(f"ragstore.cli.{name}"), name)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:  # a shell asks for completions
        app()(prog_name=PROGRAM)
    # To find plugins, pydantic reads the metadata of every installed package; ragstore has none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may have characters that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    invocation, rest = split_off(list(sys.argv[1:] if arguments is None else arguments))
    try:
        try:
            for signum in STOP_SIGNALS:
                signal.signal(signum, raise_interrupted)
            exit_status = _run(rest, invocation)
            flush()
            leave_with(exit_status)
        except InterruptedBySignal as interrupted:
            exit_status = tell_interrupted(interrupted.signum)
            flush()
    except OutputClosedError:
        # The interpreter flushes both streams again at its end; they must have somewhere to flush to.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return EXIT_OUTPUT_CLOSED
    return exit_status


def _run(arguments: list[str], invocation: Invocation) -> int:
    """Parse and run, and report every error; returns the exit status."""
    asked = next((argument for argument in arguments if not argument.startswith("-")), "")
    verb = asked if asked in VERBS else ""
    command = typer.main.get_command(app([verb] if verb else VERBS))
    try:
        with command.make_context(PROGRAM, arguments, obj=invocation) as ctx:
            command.invoke(ctx)
    except typer.Exit as done:
        return done.exit_code
    except RagstoreError as error:
        return tell_error(error, invocation)
    except typer.TyperException as error:
        return tell_usage(error, f"{PROGRAM} {verb}".rstrip(), invocation)
    except OutputClosedError:
        raise
    except Exception as error:
        return tell_unexpected(error, invocation)
    return 0
