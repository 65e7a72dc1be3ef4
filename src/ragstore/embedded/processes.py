"""Processes known by what they work on, never by a number in a file alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

StopSteps = Sequence[tuple[signal.Signals, float]]
"""Signals to send, and how many seconds to wait after each for its effect."""

_POLL_S = 0.02
# Two processes never share a number and a start time; the clock's steps are 10 ms.
_SAME_START_S = 0.05


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that ended and that nobody waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def find(pid: int | None, created: float | None) -> psutil.Process | None:
    """The running process of that number that started at that time (seconds since the epoch)."""
    if pid is None or created is None:
        return None
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < _SAME_START_S and is_alive(process):
            return process
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass
    return None


def processes_in(folder: Path, program: str) -> list[psutil.Process]:
    """Running processes of a program whose working folder is exactly this one.

    The servers are started in their data folder, so this finds them and what they left behind
    without believing a file; the same path in a container is another folder.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == program and _works_in(process, folder) and is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        if os.path.isdir("/proc/self/cwd"):
            # Follows to the folder itself, whatever its path is called in the other's file system.
            return os.path.samestat(os.stat(f"/proc/{process.pid}/cwd"), folder.stat())
        return os.path.samestat(os.stat(process.cwd()), folder.stat())
    except OSError:
        return False


def end(processes: Iterable[psutil.Process], steps: StopSteps) -> None:
    """Ask processes to end, more rudely at each step, and wait until they are gone."""
    left = [process for process in processes if is_alive(process)]
    for number, patience_s in steps:
        for process in left:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        deadline = time.monotonic() + patience_s
        while left and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            left = [process for process in left if is_alive(process)]
        if not left:
            return


def names_live_process(pid_text: str) -> bool:
    """Whether the system has a process of that number, a zombie included."""
    try:
        return bool(psutil.pid_exists(int(pid_text)))
    except ValueError:
        return False
