"""Small disks for the data of a server, which a test fills up and makes room on again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from ragstore.embedded.account import Account
from tests.support.containers import SmallVolume
from tests.support.servers import Kind

_FILLER = "filler"


class Disk(Protocol):
    """One disk."""

    def fill(self, *, but_kb: int) -> None:
        """Leave no more room than this."""

    def make_room(self) -> None:
        """Undo ``fill``."""


@contextmanager
def a_disk(kind: Kind, n_mb: int) -> Iterator[Disk]:
    """A disk of so many megabytes for a server of this kind."""
    if kind != "containers":
        if os.geteuid() != 0:
            pytest.skip("without containers only root can make a small disk")
        yield MountedDisk(n_mb)
        return
    volume = SmallVolume(n_mb)
    try:
        yield VolumeDisk(volume)
    finally:
        volume.remove()


class VolumeDisk:
    """In a volume of the engine."""

    def __init__(self, volume: SmallVolume) -> None:
        self._volume = volume
        self.volume = volume.name

    def fill(self, *, but_kb: int) -> None:
        self._volume.run(_fill_script(but_kb))

    def make_room(self) -> None:
        self._volume.run(f"rm -f {_FILLER}")


class MountedDisk:
    """Mounted where a server that runs as a process has its data."""

    def __init__(self, n_mb: int) -> None:
        self._n_mb = n_mb
        self._path: Path | None = None

    @contextmanager
    def at(self, path: Path, account: Account) -> Iterator[None]:
        """Mounted at this folder until the block ends."""
        account.own_folder(path)
        options = f"size={self._n_mb}m,mode=0700,uid={account.uid},gid={account.gid}"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
        self._path = path
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)

    def fill(self, *, but_kb: int) -> None:
        subprocess.run(["sh", "-c", _fill_script(but_kb)], cwd=self._path, check=True)

    def make_room(self) -> None:
        assert self._path is not None
        (self._path / _FILLER).unlink(missing_ok=True)


def _fill_script(but_kb: int) -> str:
    return f"head -c $(( ($(df --output=avail -k . | tail -n 1) - {but_kb}) * 1024 )) /dev/zero >> {_FILLER}"
