"""Processes, identified by their start or by the folder they work in, never by a number in a file alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import psutil

StopSteps = Sequence[tuple[signal.Signals, float]]
"""Signals to send, each with the seconds to wait for its effect."""

_POLL_S = 0.02
_STARTED = 19
"""Index of the start time in the fields after a process's name in /proc/PID/stat."""


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start_id(pid: int) -> str:
    """Identify the start of a process: no two processes have the same number and the same start.

    On Linux it is the system's boot and the clock ticks since then, so that setting the clock does not change it;
    on other systems it is the time.

    Raises:
        psutil.NoSuchProcess: there is no such process.
        psutil.AccessDenied: the process exists but cannot be inspected.
    """
    boot = this_boot()
    if not boot:
        return f"{psutil.Process(pid).create_time():.2f}"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        # /proc may hide processes of other users, although they exist.
        raise (psutil.AccessDenied(pid) if psutil.pid_exists(pid) else psutil.NoSuchProcess(pid)) from error
    return f"{boot}.{fields[_STARTED]}"


@cache
def this_boot() -> str:
    """Unique id of the current boot of this machine; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def find(pid: int | None, when: str | None) -> psutil.Process | None:
    """The running process of that number with that ``start_id``; None if there is none."""
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
    """Running processes of a program that have exactly this working folder.

    The servers are started in their data folder, so this finds them and their child processes
    without trusting a file; the same path in a container is another folder.
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
            # Compares the folder itself, because its path may differ in the other process's file system.
            return os.path.samestat(os.stat(f"/proc/{process.pid}/cwd"), folder.stat())
        return os.path.samestat(os.stat(process.cwd()), folder.stat())
    except OSError:
        return False


def end(processes: Iterable[psutil.Process], steps: StopSteps) -> None:
    """End processes by a stronger signal at each step, and wait until they have ended."""
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
    """Whether a process of that number exists; a zombie also counts."""
    try:
        return bool(psutil.pid_exists(int(pid_text)))
    except ValueError:
        return False
