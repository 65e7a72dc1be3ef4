"""Imports and exports in processes of their own that may be killed, in batches small enough to be killed between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ragstore
from ragstore.settings import Settings
from tests.support.children import environment
from tests.support.forkserver import a_process
from tests.support.internals import transfer_in_small_steps

COLLECTION = "docs"
NODES_AT_ONCE = 7


class Transfer:
    """One running."""

    def __init__(
        self,
        settings: Settings,
        work: str,
        folder: Path | str,
        *,
        failpoint: str | None = None,
        nth_file: int = 0,
        secret: str | None = None,
    ) -> None:
        options = {"failpoint": failpoint} if failpoint else {}
        if secret:
            options["from_secret"] = secret
        env = environment(settings, lease_ttl_s=60, **options)
        self._process = a_process(_run, env, work, str(folder), nth_file)
        self._process.start()

    def survived(self) -> bool:
        """Whether it came to its end, which it must unless it is killed."""
        self._process.join(60)
        assert self._process.exitcode in (0, -signal.SIGKILL), f"it ended with {self._process.exitcode}"
        return self._process.exitcode == 0


def _run(env: dict[str, str], work: str, folder: str, nth_file: int) -> None:
    os.environ.clear()
    os.environ.update(env)
    transfer_in_small_steps(NODES_AT_ONCE)
    if nth_file:
        _die_at(nth_file)
    with ragstore.open() as store:
        _WORKS[work](store, folder)


def _import(store: ragstore.Ragstore, folder: str) -> None:
    store.import_(folder, collection=COLLECTION)


def _export(store: ragstore.Ragstore, folder: str) -> None:
    store.export(folder, collection=COLLECTION, overwrite=True)


def _adopt(store: ragstore.Ragstore, place: str) -> None:
    store.adopt(place, collection=COLLECTION)


_WORKS: dict[str, Callable[[ragstore.Ragstore, str], None]] = {"import": _import, "export": _export, "adopt": _adopt}


def _die_at(nth: int) -> None:
    """End the process when it opens, renames or removes its n-th file."""
    from fsspec.implementations.local import LocalFileSystem

    left = nth

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in ("open", "mv", "rm_file"):
        setattr(LocalFileSystem, name, counted(getattr(LocalFileSystem, name)))
