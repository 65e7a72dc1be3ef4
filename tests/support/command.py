"""The real command line, each call a process of its own, as a person would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragstore.embedded import credentials
from ragstore.embedded.home import Home

TIMEOUT_S = 110.0


@dataclass(frozen=True)
class Done:
    """A call that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        return lines[0].removeprefix("error: ")

    @property
    def hint(self) -> str:
        """The one line that says what to do."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("hint: ")]
        assert len(lines) == 1, self.stderr
        return lines[0].removeprefix("hint: ")


@dataclass
class CommandLine:
    """``ragstore`` in one working folder with one set of options.

    Every call is held to what holds for all of them: no traceback, and no password on either stream.

    Args:
        options: names of settings in lower case, e.g. ``home``.
        secrets: words that no call may print; those of the embedded servers of ``home`` need not be named.
        variables: of the environment, beside the options.
        module: that is run, in place of the command line itself.
        process: further arguments of ``subprocess.Popen``, e.g. those that start it as another user.
    """

    folder: Path
    options: Mapping[str, object]
    secrets: tuple[str, ...] = ()
    python: str = sys.executable
    module: str = "ragstore"
    variables: dict[str, str] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: str | Path, status: int = 0, **options: Any) -> Done:
        """Run a verb to its end, which must be that exit status."""
        process = self.start(*arguments, **options)
        return self.finish(process, status=status)

    def start(self, *arguments: str | Path, **options: object) -> subprocess.Popen[str]:
        """Run a verb beside the test; its output is piped."""
        return subprocess.Popen(
            [self.python, "-m", self.module, *map(str, arguments)],
            cwd=self.folder,
            env=self._environment(options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
            **self.process,
        )

    def finish(self, process: subprocess.Popen[str], *, status: int | None = 0, timeout_s: float = TIMEOUT_S) -> Done:
        """Wait for a started verb; None takes any exit status."""
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            raise
        done = Done(process.returncode, stdout, stderr)
        assert done.status == status, f"{process.args!r} ended with {done}"
        assert "Traceback" not in stderr, stderr
        for secret in self._secrets():
            assert secret not in stdout + stderr, f"{process.args!r} printed a password"
        return done

    def _environment(self, options: dict[str, object]) -> dict[str, str]:
        # PYTHONUNBUFFERED and the like change what a closed pipe does.
        foreign = ("RAGSTORE_", "PYTHON")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        own = {f"RAGSTORE_{name.upper()}": str(value) for name, value in {**self.options, **options}.items()}
        return {**inherited, **self.variables, **own}

    def _secrets(self) -> list[str]:
        found = list(self.secrets)
        known = credentials.load(Home.at(Path(str(self.options["home"])))) if "home" in self.options else None
        return [*found, known.postgres_password, known.mongo_password] if known else found
