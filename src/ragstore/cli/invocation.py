"""One call of the command line: its global flags, and access to settings and stores for a command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from ragstore.cli.output import say

if TYPE_CHECKING:
    from ragstore.app import Ragstore
    from ragstore.settings import Settings


@dataclass(slots=True)
class Invocation:
    """One call of the command line, with the flags that hold for every command.

    Args:
        debug: show tracebacks and every log line; ``RAGSTORE_LOG_LEVEL=debug`` does the same.
        json: a program reads standard output.
        quiet: only errors and warnings on standard error.
    """

    debug: bool = False
    json: bool = False
    quiet: bool = False

    def note(self, *lines: str) -> None:
        """Print remarks about the results, unless ``quiet`` is set."""
        for line in () if self.quiet else lines:
            say(line)

    def settings(self) -> Settings:
        """Read the settings, and configure logging by them."""
        from ragstore.settings import Settings
        from ragstore.telemetry.logging import configure_logging

        settings = Settings()
        self.debug = self.debug or settings.log_level == "debug"
        configure_logging("debug" if self.debug else settings.log_level, settings.log_format)
        return settings

    @contextmanager
    def store(self) -> Iterator[Ragstore]:
        """The opened stores, for the length of the block."""
        import logging

        from ragstore.app import open_ragstore
        from ragstore.app.store import NOTES

        # Commands print the notes of an answer themselves.
        logging.getLogger(NOTES).setLevel(logging.ERROR)
        with open_ragstore(self.settings(), starting=self.starting) as store:
            yield store

    def starting(self) -> None:
        """Report that the embedded servers are being started, which takes seconds."""
        self.note("starting PostgreSQL and MongoDB …")


def invocation_of(ctx: typer.Context) -> Invocation:
    """The call that this context of a command belongs to."""
    found = ctx.find_object(Invocation)
    return found or Invocation()


def split_off(arguments: Sequence[str]) -> tuple[Invocation, list[str]]:
    """Separate the flags that hold for every command, anywhere before ``--``, from the other arguments."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags, rest = arguments[:end], arguments[end:]
    others = [argument for argument in flags if argument != "--debug"]
    return Invocation(debug="--debug" in flags, json="--json" in flags), [*others, *rest]
