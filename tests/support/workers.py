"""Verbs that never end by themselves, each a process of its own whose log can be read while it lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from prometheus_client.parser import text_string_to_metric_families

from tests.support.children import until

HERE = "127.0.0.1:0"


@dataclass(frozen=True)
class Living:
    """A process that logs JSON to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    def lines(self, action: str | None = None) -> list[dict[str, Any]]:
        """What it has logged, or only what it did by that name."""
        complete = self.text.rpartition("\n")[0].splitlines()
        lines = [json.loads(line) for line in complete if line.startswith("{")]
        return [line for line in lines if action in (None, line["action"])]

    def until_logged(self, action: str, *, n: int = 1, timeout_s: float = 40.0) -> dict[str, Any]:
        """The n-th line about that, as soon as it is there."""

        def logged() -> list[dict[str, Any]]:
            found = self.lines(action)
            assert self.process.poll() is None or len(found) >= n, f"it ended: {self.text}"
            return found[n - 1 :]

        found: list[dict[str, Any]] = until(logged, what=f"{action} is logged {n} times", timeout_s=timeout_s)
        return found[0]

    def until_at_work(self) -> None:
        until(lambda: self.turns()[-1:] == ["at work"], what="it is at work", timeout_s=40)

    def turns(self) -> list[str]:
        return [line["message"] for line in self.lines("turn")]

    def ended(self, signum: int | None = None, *, timeout_s: float = 30.0) -> int:
        """Its exit status, after this signal if there is one."""
        if signum is not None:
            self.process.send_signal(signum)
        return self.process.wait(timeout_s)

    def fetched(self, path: str) -> tuple[int, str]:
        """Status and text of what it serves."""
        url = f"http://127.0.0.1:{self.until_logged('serving')['port']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[tuple[str, str], float]:
        """(name, value of its label or nothing) → value."""
        status, text = self.fetched("/metrics")
        assert status == 200
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "le" not in sample.labels
        }

    def until_metric(self, name: str, label: str, value: float) -> None:
        until(lambda: self.metrics().get((name, label)) == value, what=f"{name} {label} is {value}", timeout_s=40)

    def until_stood_by(self, n: int) -> None:
        """At least so many times: a look at the metrics may take longer than a round."""
        stood_by = ("ragstore_passes_total", "standing_by")
        until(lambda: self.metrics().get(stood_by, 0) >= n, what=f"it stood by {n} times", timeout_s=40)


@contextmanager
def living(*arguments: object, env: Mapping[str, str], folder: Path) -> Iterator[Living]:
    """``ragstore arguments``, killed at the end of the block if it still lives."""
    log = folder / f"log-{uuid4().hex[:8]}"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ragstore", *map(str, arguments)],
            env={**env, "RAGSTORE_LOG_FORMAT": "json"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        yield Living(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(20)


def no_options() -> dict[str, str]:
    """The environment without ragstore's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAGSTORE_")}
