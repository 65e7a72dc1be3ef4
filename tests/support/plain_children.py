"""Programs that know LlamaIndex alone, in processes of their own that may be killed at a failpoint or at any call."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.forkserver import a_process, context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerProcess


class Program:
    """A function in a process of its own, which waits for ``go`` before it is called."""

    def __init__(self, process: ForkServerProcess, pipe: Any) -> None:
        self._process = process
        self._pipe = pipe
        assert pipe.poll(60) and pipe.recv() == "ready"

    def go(self) -> None:
        self._pipe.send("go")

    def end(self) -> int | None:
        """What the function returned, or 0; None where it was killed."""
        self._process.join(60)
        assert self._process.exitcode in (0, -signal.SIGKILL), f"it ended with {self._process.exitcode}"
        return int(self._pipe.recv()) if self._process.exitcode == 0 else None


@contextmanager
def started(
    environment: Mapping[str, str], *calls: tuple[Callable[..., object], Sequence[Any]]
) -> Iterator[list[Program]]:
    """A process a call, all ready to go; none outlives the block."""
    processes: list[tuple[ForkServerProcess, Any]] = []
    try:
        for function, arguments in calls:
            ours, theirs = context.Pipe()
            process = a_process(_run, dict(environment), theirs, function, arguments)
            process.start()
            theirs.close()
            processes.append((process, ours))
        yield [Program(process, pipe) for process, pipe in processes]
    finally:
        for process, pipe in processes:
            process.kill()
            process.join()
            pipe.close()


def run(environment: Mapping[str, str], function: Callable[..., object], *arguments: Any) -> int | None:
    """Call it in a process; returns what it returns, or 0, and None where it was killed."""
    with started(environment, (function, arguments)) as (program,):
        program.go()
        return program.end()


def _run(environment: dict[str, str], pipe: Any, function: Callable[..., object], arguments: Sequence[Any]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    pipe.send("ready")
    assert pipe.recv() == "go"
    pipe.send(function(*arguments) or 0)


def counted(function: Callable[..., object], arguments: Sequence[Any], dies_at: int = 0) -> int:
    """Call it, with SIGKILL at that call of any Python function; returns how many there were."""
    n_calls = itertools.count(1)

    def hear(_frame: object, event: str, _: object) -> None:
        if event == "call" and next(n_calls) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(hear)
    sys.setprofile(hear)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return next(n_calls)
