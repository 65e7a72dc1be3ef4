"""Home folder of the embedded servers: its paths, private files, logs, and errors in using it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ragstore.errors import EmbeddedServerError

ServerName = Literal["postgres", "mongo"]
SERVER_NAMES: tuple[ServerName, ...] = ("postgres", "mongo")

OTHER_HOME = (
    "set RAGSTORE_HOME to another folder, or RAGSTORE_POSTGRES_URL and RAGSTORE_MONGO_URL to servers of your own"
)

# Measured on new databases: 300 MB for MongoDB, which allocates its journal files first, and 60 MB for PostgreSQL.
_ROOM_BYTES = 400 * 2**20

_WHY = {
    errno.ENOSPC: "no disk space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "it, or a part of its path, is a file",
    errno.EEXIST: "it is a file",
    errno.ENAMETOOLONG: "its path is too long",
}


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one home folder; ``path`` is absolute and without links, so that equal homes are equal."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Home:
        """The home at a path, which may be relative, begin with ``~`` or not exist yet."""
        with embedded_errors(path):
            return cls(path.expanduser().resolve())

    @property
    def lock(self) -> Path:
        """Lock file, locked by the supervisor or by a process that is starting one."""
        return self.path / "supervisor.lock"

    @property
    def state(self) -> Path:
        """File in which the supervisor reports on itself and its servers."""
        return self.path / "state.json"

    @property
    def credentials(self) -> Path:
        """File of passwords and ports; without it the data cannot be opened."""
        return self.path / "secrets.json"

    @property
    def programs(self) -> Path:
        """Copies of the servers' programs, used if the servers' account cannot read the installed ones."""
        return self.path / "programs"

    @property
    def logs(self) -> Path:
        """Folder of the three logs."""
        return self.path / "logs"

    def log(self, name: ServerName | Literal["supervisor"]) -> Path:
        return self.logs / f"{name}.log"

    def folder(self, name: ServerName) -> Path:
        """Folder with all files of one server except its log."""
        return self.path / name

    def data(self, name: ServerName) -> Path:
        return self.folder(name) / "data"

    def make(self) -> None:
        """Create the folder; an existing one keeps its mode.

        If root makes it, other users can enter it, because the servers run as another user; each file
        and folder in it is then private.
        """
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def check_room(self) -> None:
        """Refuse to make databases if there is too little disk space for them.

        Raises:
            EmbeddedServerError: has the free and the needed space.
        """
        if all(self.data(name).exists() for name in SERVER_NAMES):
            return
        free = shutil.disk_usage(self.path).free
        if free < _ROOM_BYTES:
            raise EmbeddedServerError(
                f"{self.path} has {free >> 20} MB of free disk space, and new databases take {_ROOM_BYTES >> 20} MB",
                hint=f"make room, or {OTHER_HOME}",
                home=str(self.path),
                free_bytes=free,
                needed_bytes=_ROOM_BYTES,
            )


def default_home() -> Path:
    """The home of the servers if RAGSTORE_HOME is not set.

    Root gets a folder that other users can reach, because PostgreSQL refuses to run as root.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/ragstore")
    data_home = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore a relative path.
    base = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return base / "ragstore"


@contextmanager
def embedded_errors(home: Path) -> Iterator[None]:
    """Raise an ``OSError`` of the block as an EmbeddedServerError that names the home folder."""
    try:
        yield
    except OSError as error:
        raise as_embedded_error(error, home) from error


def as_embedded_error(error: OSError, home: Path) -> EmbeddedServerError:
    """An ``OSError`` as EmbeddedServerError, with the reason in words and the path concerned."""
    reason = _WHY.get(error.errno or 0, str(error))
    path = Path(os.fsdecode(error.filename)) if error.filename else home
    place = "" if path == home else f", at {path}"
    return EmbeddedServerError(
        f"the servers' home {home} cannot be used: {reason}{place}",
        hint=OTHER_HOME,
        home=str(home),
        path=str(path),
        errno=error.errno,
    )


_LOG_LIMIT_BYTES = 16 * 2**20
_TAIL_BYTES = 16 * 2**10
_POSTGRES_WORDS = ("FATAL:", "PANIC:", "DETAIL:", "HINT:")
_MONGO_WORDS = ("E", "F")


def write_private(path: Path, text: str, *, durable: bool = False) -> None:
    """Write or replace a file that only its owner may read.

    Crash safety:
        Readers see the old or the new text, never a part; with ``durable`` also after a power failure.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    fresh.replace(path)
    if durable:
        sync_folder(path.parent)


def open_private(path: Path) -> BinaryIO:
    """Open a file to append to; only its owner may read it, even if it existed before with other rights."""
    file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "ab")  # noqa: SIM115
    os.fchmod(file.fileno(), 0o600)
    return file


def sync_folder(path: Path) -> None:
    """Make created and renamed entries of a folder durable, also after a power failure."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is missing or has no complete object."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def rotate_log(path: Path) -> None:
    """Rename a log that has become large; only one old log is kept."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))


def log_tail(path: Path, *, start: int = 0, n_lines: int = 6) -> str:
    """The last lines of a log after an offset, errors preferred and made readable; ``""`` if there are none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(min(size, max(start, size - _TAIL_BYTES)))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    entries = [_in_words(line) for line in lines if line.strip()]
    severe = [text for text, is_severe in entries if is_severe]
    return "\n".join((severe or [text for text, _ in entries])[-n_lines:])


def _in_words(line: str) -> tuple[str, bool]:
    """A log line in readable form, and whether it reports an error."""
    try:
        entry = json.loads(line)
        message, attributes = entry["msg"], entry.get("attr", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return line, any(word in line for word in _POSTGRES_WORDS)
    return f"{message} {json.dumps(attributes)}"[:500], entry.get("s") in _MONGO_WORDS
