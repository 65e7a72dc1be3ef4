"""Presence of source files that the ledger knows: which of them are certainly missing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ragstore.model.document import SourceItem
from ragstore.sources.bounds import Bounds, read_path, source_uri_of
from ragstore.sources.listing import Unlistable
from ragstore.sources.selection import EVERYTHING, SelectedFolders, Selection


class Roots:
    """The files and folders that one ingest was asked to list.

    Args:
        bounds: bounds of the listing; None for the bounds of the paths.
        selection: what the listing takes from the folders.
    """

    def __init__(
        self, paths: Sequence[str | Path], bounds: Bounds | None = None, selection: Selection = EVERYTHING
    ) -> None:
        self.bounds = bounds or Bounds.of(paths)
        folders = [os.path.abspath(path) for path in paths if os.path.isdir(path)]
        self._selected = {folder: SelectedFolders(selection, folder, self.bounds) for folder in folders}
        self._named = {os.path.abspath(path) for path in paths} - set(folders)
        # If another folder has the same name now, the original one is absent, e.g. on a drive that was unmounted.
        self._identities = {folder: _identity(folder) for folder in folders}
        self._prefixes = {folder: os.path.join(folder, "") for folder in folders}
        self._beginnings = tuple(self._prefixes.values())
        self._silent = set(folders)

    @property
    def uris(self) -> list[str]:
        """Prefixes of the URIs of files below the folders; for a path that is not UTF-8, of its escaped URI."""
        return [source_uri_of(prefix) for prefix in self._prefixes.values()]

    @property
    def silent(self) -> set[str]:
        """Folders below which a watched listing has found nothing so far."""
        return set(self._silent)

    @property
    def replaced(self) -> list[str]:
        """Folders that were replaced by another folder since the beginning."""
        return [folder for folder, identity in self._identities.items() if _identity(folder) != identity]

    def watching(self, listing: Iterable[SourceItem | Unlistable]) -> Iterator[SourceItem | Unlistable]:
        """Pass the listing on, and remember below which folders it found something."""
        for entry in listing:
            if self._silent and not (isinstance(entry, Unlistable) and entry.is_folder):
                self._silent.difference_update(self.of(entry.source_uri))
            yield entry

    def of(self, source_uri: str) -> list[str]:
        """The folders that contain, or contained, this file."""
        path = _path(source_uri)
        return [folder for folder, prefix in self._prefixes.items() if path.startswith(prefix)]

    def is_gone(self, source_uri: str) -> bool:
        """Whether a file is certainly missing, or left out by the selection, so that a sync deletes its document."""
        return self.source_missing(source_uri) or self.left_out(source_uri) is not None

    def left_out(self, source_uri: str) -> str | None:
        """Why a file that was below these folders is left out; None if it is taken from one of them, or was named."""
        path = _path(source_uri)
        if path in self._named:
            return None
        reasons = [self._selected[folder].left_out(path) for folder in self.of(source_uri)]
        return reasons[0] if all(reasons) and reasons else None

    def source_missing(self, source_uri: str) -> bool:
        """Whether a file that was below one of these folders is certainly missing now.

        False for files elsewhere, because a drive that is not mounted also looks empty; for files behind a link
        without a target; and for files that the listing does not read.
        """
        path = _path(source_uri)
        if not path.startswith(self._beginnings):
            return False
        try:
            return stat.S_ISDIR(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return not _is_behind_dead_link(path) and not self.bounds.refusal(os.path.realpath(os.path.dirname(path)))
        except OSError:
            return False


def leads_to(source_uri: str, real_uri: str) -> bool:
    """Whether a file is another one, found through a link to its folder or to one above."""
    path, real = _path(source_uri), _path(real_uri)
    return path != real and os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) == real


def size_and_times(source_uri: str) -> tuple[int, int, int] | None:
    """Current size in bytes, and times of the last change of content and of any kind; None if there is no file.

    Raises:
        OSError: they cannot be read.
    """
    try:
        status = os.stat(_path(source_uri))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _path(source_uri: str) -> str:
    # Most URIs are paths; this is a fast case, because a sync calls it for every document in the ledger.
    is_path = source_uri.isascii() and not source_uri.startswith("file://")
    return source_uri if is_path else os.fspath(read_path(source_uri))


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _is_behind_dead_link(path: str) -> bool:
    """Whether the nearest existing part of the path above it is a link that does not lead to a folder."""
    folder = os.path.dirname(path)
    while True:
        try:
            status = os.lstat(folder)
        except (FileNotFoundError, NotADirectoryError):
            folder = os.path.dirname(folder)
            continue
        except OSError:
            return True
        return stat.S_ISLNK(status.st_mode) and not os.path.isdir(folder)
