"""Names of workers, from which a process on the same machine can tell that one is dead."""

from __future__ import annotations

import os
import socket

import psutil

from ragstore.embedded.processes import started, this_boot

_SEPARATOR = "/"


def this_worker() -> str:
    """``host/pid-namespace/pid/start``: unique to this process, for its whole life."""
    pid = os.getpid()
    return _SEPARATOR.join((socket.gethostname(), _pid_namespace(), str(pid), started(pid)))


def is_dead(worker: str) -> bool:
    """Whether that worker was a process of this machine and is gone; False where this cannot be known.

    Only a short cut: a worker wrongly taken for dead loses its run and plans it again, nothing more. One of an earlier
    boot is left to its lease, because another machine may have this one's name.
    """
    parts = worker.rsplit(_SEPARATOR, 3)
    if len(parts) != 4 or parts[:2] != [socket.gethostname(), _pid_namespace()] or not parts[2].isdigit():
        return False
    if this_boot() and parts[3].rpartition(".")[0] != this_boot():
        return False
    try:
        pid = int(parts[2])
        return started(pid) != parts[3] or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "-"
