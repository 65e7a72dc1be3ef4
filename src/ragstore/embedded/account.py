"""Operating-system account that the servers run as: the caller's own, or for root one without rights."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragstore.embedded.home import OTHER_HOME, Home
from ragstore.errors import EmbeddedServerError

_CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """A user and its main group, with their numbers."""

    name: str
    uid: int
    gid: int

    @property
    def popen_options(self) -> dict[str, Any]:
        """Arguments of ``subprocess.Popen`` that start a program as this account and no other group."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make the account the owner of one file or folder."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)

    def own_folder(self, path: Path) -> None:
        """Create a folder, if it does not exist, and allow only the account to open it."""
        path.mkdir(mode=0o700, exist_ok=True)
        self.own(path)
        path.chmod(0o700)

    def first_closed(self, path: Path, *, need: int = stat.S_IXOTH) -> Path | None:
        """The first folder above a path that the account cannot enter, else the path if forbidden, else None.

        Args:
            need: what the path itself must allow, as bits for others (``S_IROTH``, ``S_IXOTH``).
        """
        if self.uid == 0:
            return None
        for folder in reversed(path.parents):
            if not self._allowed(folder, stat.S_IXOTH):
                return folder
        return None if self._allowed(path, need) else path

    def _allowed(self, path: Path, need: int) -> bool:
        status = path.stat()
        if status.st_uid == self.uid:
            need <<= 6
        elif status.st_gid == self.gid:
            need <<= 3
        return status.st_mode & need == need


def servers_account(home: Home) -> Account:
    """The account for the servers of a home; it can enter the home.

    Raises:
        EmbeddedServerError: root has no such account, or it cannot enter the home.
    """
    import pwd

    if os.geteuid() != 0:
        return Account("", os.geteuid(), os.getegid())
    account = _owner_of_data(home) or _existing_account()
    closed = account.first_closed(home.path)
    if closed:
        raise EmbeddedServerError(
            f"user {account.name!r}, as which root runs the embedded servers, cannot enter {closed}",
            hint=f"set RAGSTORE_HOME to a folder that every user can enter, e.g. /var/lib/ragstore, or run "
            f"`chmod o+x {closed}`",
            home=str(home.path),
            folder=str(closed),
            user=pwd.getpwuid(account.uid).pw_name,
        )
    return account


def _owner_of_data(home: Home) -> Account | None:
    """The owner of existing data, so that a new account on the system does not change who can read the data."""
    import pwd

    try:
        entry = pwd.getpwuid(home.data("postgres").stat().st_uid)
    except (FileNotFoundError, KeyError):
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry.pw_uid else None


def _existing_account() -> Account:
    import pwd

    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and the system has none of the users {', '.join(_CANDIDATES)}",
        hint=f"run ragstore as an ordinary user; or {OTHER_HOME}",
    )
