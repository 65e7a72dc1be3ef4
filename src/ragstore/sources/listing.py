"""Listing of local files and folders, in constant memory and a stable order."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from ragstore.errors import (
    ContentError,
    LimitExceededError,
    PathNotFoundError,
    UnreadableError,
    UnsupportedTypeError,
    UsageError,
)
from ragstore.model.document import MAX_DOCUMENT_ID_BYTES, SourceItem
from ragstore.model.report import Findings
from ragstore.sources.bounds import (
    LEADS_OUT,
    Bounds,
    OutOfBoundsError,
    document_id_of,
    is_too_long,
    shortened,
    source_uri_of,
)
from ragstore.sources.file_bytes import NEVER_HINT
from ragstore.sources.formats import format_named, known_names, suffix_of
from ragstore.sources.raw import DETECTED, Choices
from ragstore.sources.selection import EVERYTHING, IGNORE_FILE, FolderRules, Selection

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Unlistable:
    """A path that exists but cannot become a document.

    Args:
        is_folder: whether it is a folder; documents below it are not seen, so they must not count as deleted.
    """

    document_id: str
    source_uri: str
    error: ContentError
    is_folder: bool = False


PASSED_OVER_LINK = f"{LEADS_OUT}; --follow-links reads it"
"""The reason as it is shown in a report, with advice."""


def walk(
    paths: Sequence[str | Path],
    *,
    max_bytes: int,
    bounds: Bounds | None = None,
    selection: Selection = EVERYTHING,
    choices: Choices = DETECTED,
) -> Listing:
    """List files of known types in the given files and folders.

    Files that were named directly come first, then the folders; within a folder its files by name, then its
    subfolders. What the selection leaves out of a folder is passed over. A file that several paths lead to is listed
    once. Links are followed within the bounds.

    Args:
        max_bytes: larger files come back as Unlistable.
        bounds: None for the bounds of the paths.
        choices: what the deployment has decided about reading; it may name further types.

    Raises:
        PathNotFoundError: a path does not exist.
        UsageError: a path is in a place that is never read.
    """
    roots = []
    bounds = bounds or Bounds.of(paths)
    for path in paths:
        given = os.fspath(path)
        absolute = os.path.abspath(given)
        if not given or "\0" in given or not _exists(absolute):
            raise PathNotFoundError(
                f"path {given!r} does not exist", hint="check the spelling, or leave it out", path=absolute
            )
        # A pattern of the shell may have named a link to a file; the listing itself leaves such a link out.
        is_link = os.path.islink(absolute) and not os.path.isdir(absolute)
        if place := bounds.never_read(absolute if is_link else os.path.realpath(absolute)):
            raise UsageError(
                f"path {given!r} lies in {place}, which is never read: it may hold passwords",
                hint=NEVER_HINT,
                path=absolute,
            )
        roots.append(absolute)
    return Listing(roots, max_bytes, bounds, selection, choices)


class Listing:
    """Files found by a walk; iterate it once, then read its counts.

    Attributes:
        passed_over: entries of folders that are not read, by reason: ``type .png``, where a link leads, or by what an
            entry is left out.
        complete: whether every folder could be read; if not, a file that is not listed may still exist.
    """

    def __init__(
        self,
        roots: Sequence[str],
        max_bytes: int,
        bounds: Bounds,
        selection: Selection = EVERYTHING,
        choices: Choices = DETECTED,
    ) -> None:
        self.passed_over = Findings()
        self.complete = True
        self._max_bytes = max_bytes
        self._bounds = bounds
        self._selection = selection
        self._choices = choices
        self._folders: list[tuple[str, FolderRules]] = []
        self._linked_folders: list[tuple[str, FolderRules]] = []
        self._seen_folders: set[tuple[int, int]] = set()
        # Only named files must be remembered, by the real name of their folder, because no folder is entered twice.
        self._named_files: set[str] = set()
        self._iterator = self._walk(roots)

    def __iter__(self) -> Iterator[SourceItem | Unlistable]:
        return self._iterator

    def __next__(self) -> SourceItem | Unlistable:
        return next(self._iterator)

    def _walk(self, roots: Sequence[str]) -> Iterator[SourceItem | Unlistable]:
        folders = []
        for path in dict.fromkeys(roots):
            if os.path.isdir(path):
                folders.append(path)
                continue
            real = _real_name(os.path.dirname(path), os.path.basename(path))
            if real not in self._named_files:
                self._named_files.add(real)
                yield from self._named_file(path)
        self._folders = [(folder, FolderRules(self._selection, folder)) for folder in folders[::-1]]
        while self._folders or self._linked_folders:
            # Linked folders come after all real ones, so that a new link does not change the ids of documents.
            folder, rules = self._folders.pop() if self._folders else self._linked_folders.pop(0)
            yield from self._folder(folder, rules)

    def _named_file(self, path: str) -> Iterator[SourceItem | Unlistable]:
        if self._keeps_out(path):
            return
        try:
            status = os.stat(path)
        except OSError as error:
            # It may be a folder; only a link without a target certainly hides no documents.
            self.complete = isinstance(error, FileNotFoundError) and self.complete
            yield _unreadable(path, error)
            return
        if format_named(path, self._choices) is None and stat.S_ISREG(status.st_mode):
            yield _unlistable(path, _no_reader(path))
        else:
            yield self._item(path, status)

    def _folder(self, path: str, rules: FolderRules) -> Iterator[SourceItem | Unlistable]:
        try:
            with self._bounds.open_folder(path) as fd:
                status = os.fstat(fd)
                key = (status.st_dev, status.st_ino)
                if key in self._seen_folders:
                    return
                with os.scandir(fd) as scan:
                    entries = [_Entry(os.path.join(path, entry.name), entry.is_symlink(), entry) for entry in scan]
                self._seen_folders.add(key)
                entries.sort(key=attrgetter("path"))
                if any(entry.name == IGNORE_FILE for entry in entries):
                    rules = rules.with_file(path, self._bounds)
                yield from self._entries(entries, rules)
        except OutOfBoundsError as error:
            self._keep_out(path, str(error))
        except OSError as error:
            self.complete = False
            yield _unreadable(path, error, is_folder=True)
        except ContentError as error:
            # Without its patterns nothing of the folder may be taken in, and nothing of it counts as gone.
            self.complete = False
            yield _unlistable(path, error, is_folder=True)

    def _entries(self, entries: Sequence[_Entry], rules: FolderRules) -> Iterator[SourceItem | Unlistable]:
        subfolders: list[tuple[str, FolderRules]] = []
        for entry in entries:
            if entry.name == IGNORE_FILE:
                continue
            is_folder = entry.is_folder()
            if reason := rules.left_out(entry.path, is_folder=is_folder):
                self.passed_over.add(reason, [document_id_of(entry.path)])
                continue
            if entry.is_link and self._keeps_out(entry.path):
                continue
            if is_folder:
                (self._linked_folders if entry.is_link else subfolders).append((entry.path, rules))
            elif found := self._entry(entry):
                yield found
        self._folders.extend(reversed(subfolders))

    def _entry(self, entry: _Entry) -> SourceItem | Unlistable | None:
        if format_named(entry.name, self._choices) is None:
            suffix = suffix_of(entry.name)
            self.passed_over.add(f"type {suffix}" if suffix else "no type", [document_id_of(entry.path)])
            return None
        if self._named_files and _real_name(os.path.dirname(entry.path), entry.name) in self._named_files:
            return None
        try:
            status = entry.status()
        except FileNotFoundError as error:
            # Deleted during the walk; a link without a target still exists.
            return _unreadable(entry.path, error) if entry.is_link else None
        except OSError as error:
            return _unreadable(entry.path, error)
        return self._item(entry.path, status)

    def _keeps_out(self, path: str) -> bool:
        refusal = self._bounds.refusal(os.path.realpath(path))
        if refusal:
            self._keep_out(path, refusal)
        return refusal is not None

    def _keep_out(self, path: str, reason: str) -> None:
        self.passed_over.add(PASSED_OVER_LINK if reason == LEADS_OUT else reason, [document_id_of(path)])

    def _item(self, path: str, status: os.stat_result) -> SourceItem | Unlistable:
        document_id = document_id_of(path)
        error: ContentError | None = None
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
            error = UnsupportedTypeError(f"{document_id} is {kind}", hint="only regular files are read")
        elif status.st_size > self._max_bytes:
            error = LimitExceededError(
                f"{document_id} has {status.st_size:,} bytes, more than {self._max_bytes:,}",
                hint="raise RAGSTORE_MAX_FILE_MB, or split the file",
                size=status.st_size,
            )
        elif is_too_long(document_id):
            error = LimitExceededError(
                f"{shortened(document_id)}: the path is longer than {MAX_DOCUMENT_ID_BYTES:,} bytes",
                hint="move the file to a shorter path",
            )
        if error:
            return _unlistable(path, error)
        times = (status.st_mtime_ns, None, status.st_ctime_ns)
        return SourceItem(document_id, source_uri_of(path), status.st_size, *times)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of an open folder; its kind is read through the open folder, not through its path."""

    path: str
    is_link: bool
    found: os.DirEntry[str]

    @property
    def name(self) -> str:
        return self.found.name

    def is_folder(self) -> bool:
        try:
            return self.found.is_dir()
        except OSError:  # a link to itself
            return False

    def status(self) -> os.stat_result:
        return self.found.stat()


def _real_name(folder: str, name: str) -> str:
    """The same name for all paths to the folder; a link to a file keeps its own name."""
    return os.path.join(os.path.realpath(folder), name)


def _exists(path: str) -> bool:
    """Whether the path exists; also true for a link without a target, and if permission is denied."""
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _no_reader(path: str) -> UnsupportedTypeError:
    suffix = suffix_of(path)
    name = f"type {suffix!r}" if suffix else "a name without a type"
    return UnsupportedTypeError(
        f"{document_id_of(path)}: no reader for {name}",
        hint=f"name it in RAGSTORE_TEXT_SUFFIXES if it is text; known types are {' '.join(known_names())}",
    )


def _unlistable(path: str, error: ContentError, *, is_folder: bool = False) -> Unlistable:
    document_id = document_id_of(path)
    if is_too_long(document_id):
        document_id = shortened(document_id)
    return Unlistable(document_id, source_uri_of(path), error, is_folder)


def _unreadable(path: str, cause: OSError, *, is_folder: bool = False) -> Unlistable:
    reason = (cause.strerror or str(cause)).lower()
    error = UnreadableError(f"{document_id_of(path)}: {reason}", hint="check its permissions, or where the link points")
    error.__cause__ = cause
    return _unlistable(path, error, is_folder=is_folder)
