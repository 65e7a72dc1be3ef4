"""Names of workers, from which a process on the same machine can tell that one is dead."""

from __future__ import annotations

import os
import socket

import psutil

_SEPARATOR = "/"


def this_worker() -> str:
    """``host/pid-namespace/pid/start``: unique to this process, for its whole life."""
    pid = os.getpid()
    return _SEPARATOR.join((socket.gethostname(), _pid_namespace(), str(pid), _started(pid)))


def is_dead(worker: str) -> bool:
    """Whether that worker was a process of this machine and is gone; False where this cannot be known.

    Only a short cut: a worker wrongly taken for dead loses its run and plans it again, nothing more.
    """
    parts = worker.rsplit(_SEPARATOR, 3)
    if len(parts) != 4 or parts[:2] != [socket.gethostname(), _pid_namespace()] or not parts[2].isdigit():
        return False
    try:
        return _started(int(parts[2])) != parts[3]
    except psutil.NoSuchProcess:
        return True


def _started(pid: int) -> str:
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        return "zombie"
    return f"{process.create_time():.2f}"


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "-"
