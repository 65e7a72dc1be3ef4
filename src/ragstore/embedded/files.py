"""Small files that are either the old or the new one after a crash, and the tails of logs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

_LOG_LIMIT_BYTES = 16 * 2**20
_TAIL_BYTES = 16 * 2**10
_POSTGRES_WORDS = ("FATAL:", "PANIC:", "DETAIL:", "HINT:")
_MONGO_WORDS = ("E", "F")


def write_private(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace a file that only its owner may read.

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
    """A file to append to that only its owner may read, one that is there too."""
    file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "ab")  # noqa: SIM115
    os.fchmod(file.fileno(), 0o600)
    return file


def sync_folder(path: Path) -> None:
    """Make what was created or renamed in a folder last through a power failure."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is no such file or no whole object in it."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def rotate_log(path: Path) -> None:
    """Put a log that has grown large aside; one old log is kept."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))


def log_tail(path: Path, *, start: int = 0, n_lines: int = 6) -> str:
    """The last lines of a log from an offset on, ``""`` where there are none; MongoDB's are put in words."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(min(size, max(start, size - _TAIL_BYTES)))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = [_in_words(line) for line in lines if line.strip()]
    severe = [text for text, is_severe in told if is_severe]
    return "\n".join((severe or [text for text, _ in told])[-n_lines:])


def _in_words(line: str) -> tuple[str, bool]:
    """A log line as people read it, and whether it tells an error."""
    try:
        entry = json.loads(line)
        message, attributes = entry["msg"], entry.get("attr", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return line, any(word in line for word in _POSTGRES_WORDS)
    return f"{message} {json.dumps(attributes)}"[:500], entry.get("s") in _MONGO_WORDS
