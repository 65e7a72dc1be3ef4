"""Lock that shows which process supervises a home; it is released however that process ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_OWN_STAT = Path("/proc/self/stat")
_EXITING = 0x4
_KILLED = 1 << (signal.SIGKILL - 1)


class SupervisorLock:
    """Exclusive ``flock`` that a new supervisor inherits from the process that starts it, so that it is never free."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def acquire(cls, path: Path) -> SupervisorLock | None:
        """Take the lock; None if another process holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lock = cls(path, fd)
        if _try_lock(fd, shared=False) and lock.is_in_place():
            return lock
        os.close(fd)
        return None

    @classmethod
    def inherit(cls, path: Path, fd: int) -> SupervisorLock:
        """The lock that the starting process took and passed to this one."""
        os.set_inheritable(fd, False)
        return cls(path, fd)

    def is_in_place(self) -> bool:
        """Whether the locked file is still at its path (the home may have been removed)."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.stat())
        except FileNotFoundError:
            return False

    def __enter__(self) -> SupervisorLock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def is_held(path: Path) -> bool:
    """Whether any process holds the lock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two processes that only check do not take each other for a holder.
        return not _try_lock(fd, shared=True)
    finally:
        os.close(fd)


def is_ending(pid: int) -> bool:
    """Whether a process was killed or has ended, on Linux; False on other systems.

    A killed process holds its locks and accepts connections until the kernel has removed it,
    which takes some milliseconds.
    """
    if not _OWN_STAT.exists():
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    # The program's name, in brackets, may contain spaces; the first field after it has number 3.
    fields = stat.rpartition(")")[2].split()
    state, flags, pending = fields[0], int(fields[9 - 3]), int(fields[31 - 3])
    return state in "ZXx" or bool(flags & _EXITING) or bool(pending & _KILLED)


def _try_lock(fd: int, *, shared: bool) -> bool:
    # Imported here, because the package must be importable on systems without this module.
    import fcntl

    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
