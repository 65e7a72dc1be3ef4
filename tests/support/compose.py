"""The Compose stack as a team deploys it, from a copy of the files that a fresh clone has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support import containers, tally

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("compose.yaml", ".env.example", "stack")
_TIMEOUT_S = 240


def need_engine() -> None:
    """Skip the test where no engine answers, unless containers are asked for; with one, build ragstore's image from this tree."""
    try:
        containers.check_engine()
    except containers.NoContainersError as error:
        if os.environ.get("RAGSTORE_TEST_SERVERS") == "containers":
            raise
        pytest.skip(f"the Compose stack needs a container engine: {error}")
    tally.note("containers")
    # The classic builder takes base images that only this machine has, and the host's network those of package mirrors.
    python = f"PYTHON_IMAGE={containers.image('PYTHON_IMAGE')}"
    build = ["docker", "build", "--quiet", "--network", "host", "--build-arg", python]
    build += ["--tag", containers.image("APP_IMAGE")]
    subprocess.run(
        [*build, "--file", "stack/app/Dockerfile", "."],
        cwd=ROOT,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=True,
    )


class Stack:
    """One Compose project of its own, in a folder of its own."""

    def __init__(self, folder: Path, *, overrides: Sequence[str] = (), options: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.project = f"ragstore-test-{uuid4().hex[:8]}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAGSTORE_", "COMPOSE_"))}
        self._env = {
            **inherited,
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": ":".join(["compose.yaml", *overrides]),
            **(options or {}),
        }
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("secrets"))
            else:
                shutil.copy2(source, folder / name)

    @property
    def documents(self) -> Path:
        return self.folder / "documents"

    def run(
        self, *command: str, check: bool = True, stdin: str | None = None, values: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command in the stack's folder; ``values`` are further variables of its environment."""
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env={**self._env, **(values or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert ran.returncode == 0 or not check, (
            f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
        )
        return ran

    def compose(
        self, *arguments: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.run("docker", "compose", "--ansi", "never", *arguments, check=check, stdin=stdin)

    def ragstore(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of ragstore in the ``app`` service."""
        return self.compose("run", "--rm", "-T", "app", *arguments, check=check)

    def answer(self, *arguments: str) -> Any:
        """What a command of ragstore prints as JSON."""
        return json.loads(self.ragstore(*arguments, "--json").stdout)

    def containers(self, *, all_of_them: bool = True) -> list[dict[str, Any]]:
        """What ``docker inspect`` says of each container."""
        ids = self.compose("ps", "--quiet", *(["--all"] if all_of_them else [])).stdout.split()
        return json.loads(self.run("docker", "inspect", *ids).stdout) if ids else []

    def secrets(self) -> dict[str, str]:
        """Every secret that is set, by its file's name."""
        found = {path.name: path.read_text().strip() for path in (self.folder / "stack/secrets").iterdir()}
        return {name: secret for name, secret in found.items() if secret}

    def sql(self, statement: str, *, user: str) -> subprocess.CompletedProcess[str]:
        """A statement in PostgreSQL, as a role that comes with its password over the network."""
        password = self.secrets()[f"postgres_{user.removeprefix('ragstore_')}_password"]
        url = f"postgresql://{user}:{password}@127.0.0.1:5432/ragstore"
        return self.compose("exec", "-T", "postgres", "psql", url, "--no-psqlrc", "-At", "-c", statement, check=False)


@contextmanager
def a_stack(
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    options: dict[str, str] | None = None,
    is_prepared: bool = True,
) -> Iterator[Stack]:
    """A stack, nothing of it running yet; all of it is removed when the block ends."""
    stack = Stack(folder, overrides=overrides, options=options)
    if is_prepared:
        stack.run("stack/prepare")
    try:
        yield stack
    finally:
        stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
