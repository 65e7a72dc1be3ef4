"""Bounds of what may be read: the named files and folders, without the places that hold secrets."""

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
"""Never read: what the kernel shows of processes, devices, and passwords of containers."""

LEADS_OUT = "leads out of the named folders"

# A pipe that took the file's place must not make us wait for its writer, nor a terminal become ours.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
# On Linux a folder on the way need not be readable.
_STEP = _FOLDER | getattr(os, "O_PATH", 0)


class OutOfBoundsError(Exception):
    """What a path leads to may not be read; its text follows the path's name."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be read.

    Every path is resolved, its real path is compared with the bounds, and then opened from the root of the file
    system without following any link. So whatever is swapped for a link at any moment, what is open lies in bounds.

    A hard link is the file itself, wherever its other names are: the system lets only its owner make one
    (``fs.protected_hardlinks``). A file of the places that are never read is recognised under its other names.

    Args:
        roots: real paths of named folders and files; everything below them may be read.
        never: real paths below which nothing is read, whatever is named.
        follow_links: whether links may lead out of the roots.
    """

    roots: frozenset[str]
    never: frozenset[str] = frozenset(SYSTEM)
    follow_links: bool = False

    @classmethod
    def of(cls, paths: Sequence[str | Path], *, never: Sequence[str | Path] = (), follow_links: bool = False) -> Self:
        """Bounds of these paths.

        A named folder may be a link. A named file that is a link counts as found in its folder, because a pattern of
        the shell names links too.
        """
        secret = {form for place in (*SYSTEM, *never) for form in (os.path.abspath(place), os.path.realpath(place))}
        return cls(frozenset(map(_root, paths)), frozenset(secret), follow_links)

    def refusal(self, real: str) -> str | None:
        """Why a real path may not be read, as a text that follows its name; None where it may."""
        if place := self.never_read(real):
            return f"lies in {place}, which is never read"
        return None if self.follow_links or self.root_of(real) else LEADS_OUT

    def root_of(self, real: str) -> str | None:
        """The root that this real path lies below."""
        return next((folder for folder in _upwards(real) if folder in self.roots), None)

    def never_read(self, real: str) -> str | None:
        """The place that is never read and that this real path lies in, if it does."""
        return next((folder for folder in _upwards(real) if folder in self.never), None)

    @contextmanager
    def open_file(self, path: str) -> Iterator[int]:
        """A descriptor for reading whatever is no folder.

        Raises:
            OutOfBoundsError: it leads to what may not be read.
            OSError: it cannot be opened; ELOOP or ENOTDIR where a part of the path has just become a link.
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
        """Refuse what is never read under another name: a second mount of it, or a hard link."""
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
    """A path and all folders that it lies below."""
    while True:
        yield path
        folder = os.path.dirname(path)
        if folder == path:
            return
        path = folder


def _files_of(place: str) -> set[tuple[int, int]]:
    """Identities of a file, or of those directly in a folder."""
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
    """Device numbers of procfs and sysfs, where there are any."""
    root, found = os.stat(os.sep).st_dev, set()
    for place in ("/proc", "/sys"):
        with suppress(OSError):
            found.add(os.stat(place).st_dev)
    return frozenset(found - {root})


_FILE_SCHEME = "file://"
_HASH_BYTES = 16


def document_id_of(path: str) -> str:
    """The absolute path itself; where that is not UTF-8, backslash-escaped with a hash that keeps it unique."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # A file may really be called r"\xff": only the hash tells the two apart.
        return f"{raw.decode('utf-8', 'backslashreplace')}~{_digest(raw)}"


def source_uri_of(path: str) -> str:
    """The absolute path itself; where that is not UTF-8, a ``file://`` URI of its bytes."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _FILE_SCHEME + quote_from_bytes(raw)


def read_path(source_uri: str) -> Path:
    """The file that ``source_uri_of`` was given."""
    if source_uri.startswith(_FILE_SCHEME):
        return Path(os.fsdecode(unquote_to_bytes(source_uri.removeprefix(_FILE_SCHEME))))
    return Path(os.fsdecode(source_uri.encode("utf-8")))


def is_too_long(document_id: str) -> bool:
    """Whether the ledger refuses it."""
    # A character takes at most 4 bytes, so most ids need no encoding to be measured.
    return len(document_id) * 4 > MAX_DOCUMENT_ID_BYTES and len(document_id.encode()) > MAX_DOCUMENT_ID_BYTES


def shortened(document_id: str) -> str:
    """An id of at most MAX_DOCUMENT_ID_BYTES that still differs wherever the long ones do."""
    raw = document_id.encode()
    tail = f"~{_digest(raw)}"
    return raw[: MAX_DOCUMENT_ID_BYTES - len(tail)].decode("utf-8", "ignore") + tail


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=_HASH_BYTES).hexdigest()
