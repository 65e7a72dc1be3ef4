"""Whether a source unit that the ledger knows is still there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ragstore.sources.location import read_path


class Roots:
    """The files and folders that one ingest was asked to list."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._folders = [os.path.join(os.path.abspath(path), "") for path in paths if os.path.isdir(path)]

    def lost(self, source_uri: str) -> bool:
        """Whether a file that stood below one of these folders is certainly not there any more.

        False for files elsewhere: a drive that is not mounted looks empty too.
        """
        path = os.fspath(read_path(source_uri))
        if not any(path.startswith(folder) for folder in self._folders):
            return False
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return False
