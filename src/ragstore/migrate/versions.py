"""Steps in the folder ``migrations``: names, versions and checksums."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

_NAME = re.compile(r"(\d{4})_(pre|post)_[a-z0-9_]+")

Store = Literal["postgres", "mongo"]


@dataclass(frozen=True, slots=True)
class Step:
    """One migration.

    Args:
        name: ``NNNN_pre_verb_object``.
        path: the ``.sql`` or ``.py`` file that does the work.
    """

    store: Store
    name: str
    path: Path

    @property
    def version(self) -> str:
        """The four digits at the beginning of the name."""
        return self.name[:4]

    @property
    def checksum(self) -> str:
        """Checksum of the file, to detect changes of an applied step."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:32]

    @property
    def summary(self) -> str:
        """The line ``Why:`` of the file's header."""
        found = re.search(r"Why:\s*(.+)", self.path.read_text(encoding="utf-8"))
        return found.group(1).strip() if found else self.name


def folder() -> Path:
    """The folder ``migrations``: in an installed package, or at the top of a checkout."""
    installed = Path(str(files("ragstore"))) / "migrations"
    return installed if installed.is_dir() else Path(str(files("ragstore"))).parents[1] / "migrations"


def steps(store: Store) -> list[Step]:
    """All steps of one store, in order."""
    suffix = ".sql" if store == "postgres" else ".py"
    return [Step(store, p.stem, p) for p in sorted((folder() / store).glob(f"*{suffix}")) if _NAME.fullmatch(p.stem)]


def head(store: Store) -> str:
    """The version that this program needs."""
    return steps(store)[-1].version
