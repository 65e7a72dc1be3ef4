"""Selection of what is taken from folders: patterns of a call, ``.ragstoreignore`` files, and defaults.

The last word has the call's ``exclude``, then the nearest ``.ragstoreignore``, then the defaults. Patterns have the
syntax of ``.gitignore``, ``!`` takes back in. Only what is found in a folder is selected; a named file is always taken.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pathspec import GitIgnoreSpec

from ragstore.errors import ContentError, ParseError, UsageError
from ragstore.model.selected import LEFT_OUT_FILES, LEFT_OUT_FOLDERS
from ragstore.sources.bounds import Bounds, document_id_of, source_uri_of
from ragstore.sources.file_bytes import read_bytes

IGNORE_FILE = ".ragstoreignore"
"""Name of the file whose patterns apply to the folder that it lies in and to all below."""

HIDDEN = "hidden"
BY_DEFAULT = "left out by default"
EXCLUDED = "left out by --exclude"
NOT_INCLUDED = "not among --include"
IGNORED = f"left out by {IGNORE_FILE}"

_MAX_IGNORE_BYTES = 1024 * 1024
_MAX_REMEMBERED = 4_096


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)))


_FOLDER = _any_of(LEFT_OUT_FOLDERS)
_FILE = _any_of(LEFT_OUT_FILES)


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns of one call, relative to each named folder.

    Args:
        include: if there are any, a file must match one of them.
        exclude: files and folders that are left out.
        defaults: whether ``LEFT_OUT_FOLDERS`` and ``LEFT_OUT_FILES`` are left out.
    """

    include: GitIgnoreSpec | None = None
    exclude: GitIgnoreSpec | None = None
    defaults: bool = True

    @classmethod
    def of(cls, include: Sequence[str] = (), exclude: Sequence[str] = (), *, defaults: bool = True) -> Selection:
        """The selection by these patterns.

        Raises:
            UsageError: one of them is no pattern.
        """
        return cls(_patterns("include", include), _patterns("exclude", exclude), defaults)


EVERYTHING = Selection()
"""Without patterns of a call."""


@dataclass(frozen=True, slots=True)
class FolderRules:
    """What is taken from one folder.

    Args:
        root: the named folder that contains it, or the folder itself.
        ignored: patterns of the ``.ragstoreignore`` files from here up to the root, each with its folder, nearest
            first.
    """

    selection: Selection
    root: str
    ignored: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    def left_out(self, path: str, *, is_folder: bool) -> str | None:
        """Why an entry of this folder is left out, or None if it is taken."""
        selection, end = self.selection, "/" if is_folder else ""
        below_root = os.path.relpath(path, self.root) + end if selection.exclude or selection.include else ""
        if selection.exclude is not None and (excluded := selection.exclude.check_file(below_root).include) is not None:
            if excluded:
                return EXCLUDED
        else:
            verdict = self._ignored(path, end)
            reason = IGNORED if verdict else self._by_default(path, is_folder) if verdict is None else None
            if reason is not None:
                return reason
        if not is_folder and selection.include is not None and not selection.include.match_file(below_root):
            return NOT_INCLUDED
        return None

    def with_file(self, folder: str, bounds: Bounds) -> FolderRules:
        """The rules with those of this folder's ``.ragstoreignore``, which exists.

        Raises:
            ContentError: it cannot be read or has a line that is no pattern; nobody knows then what it leaves out.
        """
        path = os.path.join(folder, IGNORE_FILE)
        try:
            lines = (
                read_bytes(source_uri_of(path), bounds, max_bytes=_MAX_IGNORE_BYTES).decode("utf-8-sig").splitlines()
            )
            spec = _spec(lines)
        except UnicodeDecodeError as error:
            raise ParseError(f"{document_id_of(path)} is not UTF-8", hint="save it as UTF-8") from error
        except _NoPatternError as error:
            raise ParseError(f"{document_id_of(path)}: {error}", hint="mend the line, or take it out") from error
        except ContentError as error:
            raise type(error)(f"{document_id_of(path)} {error.message}", hint=error.hint) from error
        return FolderRules(self.selection, self.root, ((folder, spec), *self.ignored))

    def _ignored(self, path: str, end: str) -> bool | None:
        for folder, patterns in self.ignored:
            verdict = patterns.check_file(os.path.relpath(path, folder) + end).include
            if verdict is not None:
                return verdict
        return None

    def _by_default(self, path: str, is_folder: bool) -> str | None:
        name = os.path.basename(path)
        if name.startswith("."):
            return HIDDEN
        if self.selection.defaults and (_FOLDER if is_folder else _FILE).match(name):
            return BY_DEFAULT
        return None


@dataclass(slots=True)
class SelectedFolders:
    """What is taken below one named folder, by the patterns that its folders have now."""

    selection: Selection
    root: str
    bounds: Bounds
    _known: dict[str, FolderRules | str] = field(default_factory=dict)

    def left_out(self, path: str) -> str | None:
        """Why a file below the root is left out, or None if it is taken, or if that cannot be found out.

        A hidden file, or one in a hidden folder, can only have been named, so it counts as taken.
        """
        rules = self._rules(os.path.dirname(path))
        reason = rules if isinstance(rules, str) else rules.left_out(path, is_folder=False)
        return None if reason in {HIDDEN, ""} else reason

    def _rules(self, folder: str) -> FolderRules | str:
        """The rules of a folder, or why it is left out; empty if its patterns cannot be read."""
        if folder not in self._known:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[folder] = self._found(folder)
        return self._known[folder]

    def _found(self, folder: str) -> FolderRules | str:
        if folder == self.root:
            rules = FolderRules(self.selection, self.root)
        else:
            above = self._rules(os.path.dirname(folder))
            if isinstance(above, str):
                return above
            if reason := above.left_out(folder, is_folder=True):
                return reason
            rules = above
        try:
            has_patterns = os.path.lexists(os.path.join(folder, IGNORE_FILE))
            return rules.with_file(folder, self.bounds) if has_patterns else rules
        except ContentError:
            return ""


class _NoPatternError(ValueError):
    """A line that is no pattern; the text names it."""


def _patterns(option: str, patterns: Sequence[str]) -> GitIgnoreSpec | None:
    if isinstance(patterns, str):
        raise UsageError(f"{option} is a text, not a list of patterns", hint=f"write {option}=[{patterns!r}]")
    try:
        return _spec(patterns) if patterns else None
    except _NoPatternError as error:
        raise UsageError(
            f"--{option}: {error}", hint="patterns are those of .gitignore, such as '*.md' or 'old/'"
        ) from error


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError as error:
            raise _NoPatternError(f"{line!r} is no pattern") from error
    return GitIgnoreSpec.from_lines(lines)
