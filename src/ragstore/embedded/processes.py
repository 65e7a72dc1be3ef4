"""Processes known by what they work on, never by a number in a file alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import psutil

StopSteps = Sequence[tuple[signal.Signals, float]]
"""Signals to send, and how many seconds to wait after each for its effect."""

_POLL_S = 0.02
_STARTED = 19
"""Of the fields behind a process's name in /proc/PID/stat."""


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that ended and that nobody waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start_id(pid: int) -> str:
    """When a process started: two never share a number and this. No clock is in it, because clocks are set.

    On Linux the system's boot and the ticks since, elsewhere the time.

    Raises:
        psutil.NoSuchProcess: there is none.
        psutil.AccessDenied: it cannot be seen.
    """
    boot = this_boot()
    if not boot:
        return f"{psutil.Process(pid).create_time():.2f}"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        # Where /proc hides the processes of others, they are there all the same.
        raise (psutil.AccessDenied(pid) if psutil.pid_exists(pid) else psutil.NoSuchProcess(pid)) from error
    return f"{boot}.{fields[_STARTED]}"


@cache
def this_boot() -> str:
    """What no other boot of this machine has, nor another machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def find(pid: int | None, when: str | None) -> psutil.Process | None:
    """The running process of that number that ``start_id`` then."""
    if pid is None or when is None:
        return None
    try:
        process = psutil.Process(pid)
        if start_id(pid) == when and is_alive(process):
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
