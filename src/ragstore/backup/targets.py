"""Targets of backups: a folder, or a place that fsspec knows; objects are written once and never changed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ragstore.errors import BackupError, BackupLostError, UsageError, not_installed

PARTIAL = ".partial"
_S3_SCHEMES = ("s3", "s3a")


class Target(Protocol):
    """A place for objects, each written once under its own name."""

    @property
    def url(self) -> str:
        """The path or URL as the user wrote it."""

    def names(self, folder: str) -> dict[str, int]:
        """Names and sizes in bytes of all objects in a folder of the target; none if it does not exist."""

    def put(self, name: str, data: bytes) -> bool:
        """Store an object; False if there is one of that name, which is not changed.

        Raises:
            BackupError

        Crash safety:
            Durable when it returns, and whole or not there at any moment.
        """

    def get(self, name: str) -> bytes:
        """The content of an object.

        Raises:
            BackupLostError: there is none.
            BackupError: it cannot be read.
        """

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""

    def age_s(self, name: str) -> float:
        """Seconds since an object was stored, by the clock of the target."""


class FolderTarget:
    """A folder of this machine; files can be read by their owner only."""

    def __init__(self, path: str) -> None:
        self.url = path
        self._root = Path(path)

    def names(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        with self._errors(folder):
            for parent, _, files in os.walk(self._root / folder):
                for file in files:
                    if not file.endswith(PARTIAL):
                        path = Path(parent, file)
                        found[path.relative_to(self._root).as_posix()] = path.stat().st_size
        return found

    def put(self, name: str, data: bytes) -> bool:
        path = self._root / name
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        with self._errors(name):
            self._make_folder(path.parent)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                return _link(temporary, path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    def get(self, name: str) -> bytes:
        with self._errors(name):
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                raise lost(self.url, name, "missing") from None

    def delete(self, name: str) -> None:
        with self._errors(name), suppress(FileNotFoundError):
            (self._root / name).unlink()

    def age_s(self, name: str) -> float:
        with self._errors(name):
            return datetime.now(UTC).timestamp() - (self._root / name).stat().st_mtime

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            with suppress(FileExistsError):
                each.mkdir(mode=0o700)
            _sync_folder(each.parent)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unusable(self.url, name, error) from error


def _link(temporary: Path, path: Path) -> bool:
    """Give a complete file its name, unless the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        # A file system without hard links: nobody else has a name with this hash, so that nothing is replaced.
        if path.exists():
            return False
        os.rename(temporary, path)
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class UrlTarget:
    """A place that fsspec knows, such as a bucket of S3."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._fs, self._path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            scheme = url.partition("://")[0]
            extra = not_installed("s3") if scheme in _S3_SCHEMES else f"install its package: {error}"
            raise UsageError(f"{url} cannot be used: {error}", hint=extra) from error
        except ValueError as error:
            raise UsageError(
                f"{url} cannot be used: {error}", hint="name a folder or a URL such as s3://bucket/path"
            ) from error

    def names(self, folder: str) -> dict[str, int]:
        with self._errors(folder):
            self._fs.invalidate_cache()
            root = self._at("")
            found: dict[str, Any] = self._fs.find(self._at(folder), detail=True)
            return {path.removeprefix(root): int(info["size"]) for path, info in found.items()}

    def put(self, name: str, data: bytes) -> bool:
        with self._errors(name):
            try:
                # S3 then asks the server to write only a new object, in one request.
                self._fs.pipe_file(self._at(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def get(self, name: str) -> bytes:
        with self._errors(name):
            try:
                return bytes(self._fs.cat_file(self._at(name)))
            except FileNotFoundError:
                raise lost(self.url, name, "missing") from None

    def delete(self, name: str) -> None:
        with self._errors(name), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def age_s(self, name: str) -> float:
        with self._errors(name):
            stored: datetime = self._fs.modified(self._at(name))
        return (datetime.now(UTC) - stored).total_seconds()

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except BackupError:
            raise
        except Exception as error:  # each file system of fsspec has errors of its own
            raise unusable(self.url, name, error) from error


def open_target(url: str) -> Target:
    """The target at a path or URL, which need not exist.

    Raises:
        UsageError: no package for this kind of URL is installed.
    """
    if not url.strip():
        raise UsageError("no target is named", hint="name a folder or a URL such as s3://bucket/path")
    if "://" not in url:
        return FolderTarget(os.path.abspath(os.path.expanduser(url)))
    if url.startswith("file://"):
        return FolderTarget(url.removeprefix("file://"))
    return UrlTarget(url)


def lost(url: str, name: str, what: str) -> BackupLostError:
    """The error for an object that is missing or damaged."""
    return BackupLostError(
        f"{name} in {url} is {what}",
        hint=f"'ragstore backup verify {url}' shows which backups are whole; restore one of those with --backup",
        in_python="verify(target) shows which backups are whole; restore one of those by its id",
        name=name,
        what=what,
        target=url,
    )


def unusable(url: str, name: str, error: Exception) -> BackupError:
    """The error for a target that does not do what it is asked."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return BackupError(
        f"{url.rstrip('/')}/{name} cannot be used: {reason}",
        hint="check the permissions, the space and the connection, then run the same command again",
        target=url,
        name=name,
    )
