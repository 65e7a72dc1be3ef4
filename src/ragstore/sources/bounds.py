"""Bounds of what may be read (named files and folders, without places that hold secrets), and ids of files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ragstore.model.document import MAX_DOCUMENT_ID_BYTES

SYSTEM = ("/proc", "/sys", "/dev", "/run/secrets", "/var/run/secrets")
"""Places that are never read: the kernel's data about processes, devices, and passwords of containers."""

LEADS_OUT = "leads out of the named folders"

# If a pipe has replaced the file, opening must not wait for its writer; a terminal must not become our terminal.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
# On Linux the folders above the file need not be readable.
_STEP = _FOLDER | getattr(os, "O_PATH", 0)


class OutOfBoundsError(Exception):
    """The target of a path may not be read; the text of the error follows the path in a message."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Files and folders that may be read.

    Every path is resolved, its real path is compared with the bounds, and it is then opened from the root of the file
    system without following any link. So an open file is within the bounds, even if a part of its path is replaced by
    a link at any moment.

    A hard link counts as the file itself, regardless of its other names: the system lets only the file's owner make one
    (``fs.protected_hardlinks``). A file of a place that is never read is recognised also under another name.

    Args:
        roots: real paths of named folders and files; everything below them may be read.
        never: real paths below which nothing is read, even if it is named.
        follow_links: whether links may lead out of the roots.
    """

    roots: frozenset[str]
    never: frozenset[str] = frozenset(SYSTEM)
    follow_links: bool = False

    @classmethod
    def of(cls, paths: Sequence[str | Path], *, never: Sequence[str | Path] = (), follow_links: bool = False) -> Self:
        """Bounds of these paths.

        A named folder may be a link. A named file that is a link counts as if it was found in its folder, because a
        pattern of the shell also matches links.
        """
        secret = {form for place in (*SYSTEM, *never) for form in (os.path.abspath(place), os.path.realpath(place))}
        return cls(frozenset(map(_root, paths)), frozenset(secret), follow_links)

    def refusal(self, real: str) -> str | None:
        """Why a real path may not be read, as text that follows its name in a message; None if it may be read."""
        if place := self.never_read(real):
            return f"lies in {place}, which is never read"
        return None if self.follow_links or self.root_of(real) else LEADS_OUT

    def root_of(self, real: str) -> str | None:
        """The root that contains this real path, or None."""
        return next((folder for folder in _upwards(real) if folder in self.roots), None)

    def never_read(self, real: str) -> str | None:
        """The place that is never read and contains this real path, or None."""
        return next((folder for folder in _upwards(real) if folder in self.never), None)

    @contextmanager
    def open_file(self, path: str) -> Iterator[int]:
        """A descriptor for reading a file of any kind that is not a folder.

        Raises:
            OutOfBoundsError: the target of the path may not be read.
            OSError: it cannot be opened; ELOOP or ENOTDIR if a part of the path has just become a link.
        """
        fd = self._open(path, _FILE)
        try:
            self._check_identity(os.fstat(fd))
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def open_folder(self, path: str) -> Iterator[int]:
        """A descriptor for listing a folder; raises as ``open_file``."""
        fd = self._open(path, _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        real = os.path.realpath(path)
        if refusal := self.refusal(real):
            raise OutOfBoundsError(refusal)
        *folders, name = [part for part in real.split(os.sep) if part] or ["."]
        step = os.open(os.sep, _STEP)
        try:
            for folder in folders:
                below = os.open(folder, _STEP, dir_fd=step)
                os.close(step)
                step = below
            return os.open(name, flags, dir_fd=step)
        finally:
            os.close(step)

    def _check_identity(self, status: os.stat_result) -> None:
        """Refuse a file that is never read also under another name: a second mount, or a hard link."""
        if status.st_dev in _kernel_devices():
            raise OutOfBoundsError("is a file of the kernel, which is never read")
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            for place in self.never:
                if place not in SYSTEM and identity in _files_of(place):
                    raise OutOfBoundsError(f"is a file of {place}, which is never read")


def _root(path: str | Path) -> str:
    absolute = os.path.abspath(path)
    real = os.path.realpath(absolute)
    if os.path.isdir(real):
        return real
    folder = os.path.realpath(os.path.dirname(absolute))
    return real if folder in _upwards(real) else os.path.join(folder, os.path.basename(absolute))


def _upwards(path: str) -> Iterator[str]:
    """A path and all folders above it, nearest first."""
    while True:
        yield path
        folder = os.path.dirname(path)
        if folder == path:
            return
        path = folder


def _files_of(place: str) -> set[tuple[int, int]]:
    """Identities (device, inode) of a file, or of all files directly in a folder."""
    found = set()
    with suppress(OSError):
        files = [os.path.join(place, name) for name in os.listdir(place)] if os.path.isdir(place) else [place]
        for file in files:
            with suppress(OSError):
                status = os.lstat(file)
                found.add((status.st_dev, status.st_ino))
    return found


@cache
def _kernel_devices() -> frozenset[int]:
    """Device numbers of procfs and sysfs, if they exist."""
    root, found = os.stat(os.sep).st_dev, set()
    for place in ("/proc", "/sys"):
        with suppress(OSError):
            found.add(os.stat(place).st_dev)
    return frozenset(found - {root})


_FILE_SCHEME = "file://"
_HASH_BYTES = 16


def document_id_of(path: str) -> str:
    """The absolute path itself; if it is not UTF-8, backslash-escaped with a hash that keeps it unique."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Another file may really be called r"\xff": only the hash distinguishes the two.
        return f"{raw.decode('utf-8', 'backslashreplace')}~{_digest(raw)}"


def source_uri_of(path: str) -> str:
    """The absolute path itself; if it is not UTF-8, a ``file://`` URI of its bytes."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _FILE_SCHEME + quote_from_bytes(raw)


def below(folder: str) -> tuple[str, str]:
    """Beginnings of the ids and of the URIs of all files below a folder, given by its absolute path."""
    within = os.path.join(folder, "")
    # The id of a path that is not UTF-8 ends with a hash, which is none of its beginning.
    return os.fsencode(within).decode("utf-8", "backslashreplace"), source_uri_of(within)


def read_path(source_uri: str) -> Path:
    """The path of a file; the inverse of ``source_uri_of``."""
    if source_uri.startswith(_FILE_SCHEME):
        return Path(os.fsdecode(unquote_to_bytes(source_uri.removeprefix(_FILE_SCHEME))))
    return Path(os.fsdecode(source_uri.encode("utf-8")))


def is_too_long(document_id: str) -> bool:
    """Whether the id is too long for the ledger."""
    # A character takes at most 4 bytes, so most ids need no encoding to be measured.
    return len(document_id) * 4 > MAX_DOCUMENT_ID_BYTES and len(document_id.encode()) > MAX_DOCUMENT_ID_BYTES


def shortened(document_id: str) -> str:
    """An id of at most MAX_DOCUMENT_ID_BYTES; different long ids stay different."""
    raw = document_id.encode()
    tail = f"~{_digest(raw)}"
    return raw[: MAX_DOCUMENT_ID_BYTES - len(tail)].decode("utf-8", "ignore") + tail


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=_HASH_BYTES).hexdigest()
