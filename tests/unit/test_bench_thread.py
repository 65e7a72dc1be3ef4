"""Work that somebody may interrupt while it waits for a database."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

import pytest

from tests.benchmarks.workbench import WorkThread


class Interrupted(BaseException):
    pass


def raise_interrupted(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted


class Sending:
    """Sends a signal where exceptions are lost."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(1_000):
            pass


def test_what_the_work_returns_and_raises_comes_back() -> None:
    assert WorkThread().run(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        WorkThread().run(lambda: 1 / 0)


def test_a_signal_that_comes_while_a_callback_runs_interrupts_and_leaves_the_work_alone() -> None:
    released, ended = threading.Event(), threading.Event()

    def work() -> None:
        Sending()
        assert released.wait(10)
        ended.set()

    thread, before = WorkThread(), signal.signal(signal.SIGUSR1, raise_interrupted)
    try:
        with pytest.raises(Interrupted):
            thread.run(work)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not ended.is_set()
    released.set()
    thread.wait()
    assert ended.is_set()
