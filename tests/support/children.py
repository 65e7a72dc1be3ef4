"""Child processes for tests that kill: started with the settings of the test, waited for, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragstore.settings import Settings

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.005

PYTHONPATH = {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "src")])}
"""What lets a child import the tests, and the program that stands beside them."""


def environment(settings: Settings, **options: object) -> dict[str, str]:
    """The environment of a child that works on the same databases; ``options`` are names of settings."""
    assert settings.postgres_url is not None and settings.mongo_url is not None
    own = {
        "postgres_url": settings.postgres_url.get_secret_value(),
        "mongo_url": settings.mongo_url.get_secret_value(),
        "mongo_database": settings.mongo_database,
        "grace_s": settings.grace_s,
        "lease_ttl_s": settings.lease_ttl_s,
        "env": settings.env,
        "parse_processes": settings.parse_processes,
        **options,
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAGSTORE_")}
    return {
        **inherited,
        **{f"RAGSTORE_{name.upper()}": str(value) for name, value in own.items()},
        **PYTHONPATH,
    }


def start(module: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """``python -m module arguments``, its output piped."""
    return _start("-m", module, *arguments, env=env)


def start_code(code: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """``python -c code arguments``, its output piped."""
    return _start("-c", code, *arguments, env=env)


def _start(*arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(child: subprocess.Popen[str], *, timeout_s: float = 60.0) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a child that ends by itself."""
    try:
        out, err = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill(child)
        raise
    return child.returncode, out, err


def result(child: subprocess.Popen[str], *, timeout_s: float = 60.0) -> Any:
    """What a child that must succeed printed last, as JSON."""
    status, out, err = finish(child, timeout_s=timeout_s)
    assert status == 0, f"child ended with {status}:\n{err[-3000:]}"
    return json.loads(out.strip().splitlines()[-1])


def kill(child: subprocess.Popen[str]) -> None:
    """End it by SIGKILL, also where it is stopped, and reap it."""
    if child.poll() is None:
        child.send_signal(signal.SIGKILL)
    child.communicate()


@contextmanager
def running(children: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """None of these children outlives the block."""
    try:
        yield
    finally:
        for child in children:
            kill(child)


def until(condition: Callable[[], Any], *, what: str, timeout_s: float = 30.0) -> Any:
    """What the condition gives, as soon as it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in {timeout_s:g} s it never came true that {what}"
        time.sleep(_POLL_S)
    return found
