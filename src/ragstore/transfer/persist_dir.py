"""A folder that LlamaIndex persisted, here or behind an fsspec URL: which files it has, and reading them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from ragstore.errors import PathNotFoundError, TransferError, UsageError, not_installed
from ragstore.transfer.json_entries import Entry, entries

DOCSTORE = "docstore.json"
INDEX_STORE = "index_store.json"
GRAPH_STORE = "graph_store.json"
PROPERTY_GRAPH_STORE = "property_graph_store.json"
VECTOR_STORE = "vector_store.json"
SEPARATOR = "__"
DEFAULT_NAMESPACE = "default"
IMAGE_NAMESPACE = "image"

_S3_SCHEMES = ("s3", "s3a")
_OBJECT_STORES = (*_S3_SCHEMES, "gs", "gcs", "az", "abfs")


def vector_store_name(namespace: str) -> str:
    """The file of that vector store."""
    return f"{namespace}{SEPARATOR}{VECTOR_STORE}"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of any file system that fsspec knows.

    Args:
        url: as the person named it.
        path: the same as the file system wants it.
    """

    fs: Any
    url: str
    path: str

    def names(self) -> list[str]:
        """The names in it, none where it does not exist."""
        # A listing that is remembered would not show what has changed since.
        self.fs.invalidate_cache()
        if not self.fs.isdir(self.path):
            return []
        found = self.fs.ls(self.path, detail=False)
        # An object store may list the folder itself, as an entry that stands for it.
        return sorted(
            {each.rstrip("/").rsplit("/", 1)[-1] for each in found if each.strip("/") != self.path.strip("/")}
        )

    def make(self) -> None:
        """Make it where it does not exist."""
        # In an object store files need no folder, and a mistyped bucket would be made.
        if self.url.partition("://")[0] not in _OBJECT_STORES:
            if self.is_local:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
            else:
                self.fs.makedirs(self.path, exist_ok=True)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def at(self, name: str) -> str:
        """The path of a file in it."""
        return f"{self.path.rstrip('/')}/{name}"

    def shown(self, name: str) -> str:
        """A file in it as a person names it."""
        return f"{self.url.rstrip('/')}/{name}"


def file_errors() -> tuple[type[Exception], ...]:
    """What file systems raise: S3's client has errors of its own for a server or credentials that are not there."""
    if "botocore" not in sys.modules:
        return (OSError,)
    from botocore.exceptions import BotoCoreError

    return (OSError, BotoCoreError)


def reason(error: Exception) -> str:
    """What went wrong, in the system's own words."""
    return getattr(error, "strerror", None) or str(error)


def open_folder(url: str) -> Folder:
    """The folder of that path or URL, which need not exist.

    Raises:
        UsageError: no such kind of file system, or its package is not installed.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.partition("://")[0]
        extra = not_installed("s3") if scheme in _S3_SCHEMES else f"install its package: {error}"
        raise UsageError(f"{scheme}:// cannot be used here", hint=extra, url=url) from error
    except ValueError as error:
        raise UsageError(f"{url} cannot be used: {error}", hint="name a folder or an fsspec URL", url=url) from error
    return Folder(fs, url, path)


@dataclass(frozen=True, slots=True)
class PersistDir:
    """What a persist_dir has.

    Args:
        vector_stores: namespace → file name.
    """

    folder: Folder
    names: frozenset[str]
    vector_stores: dict[str, str]

    def has(self, name: str) -> bool:
        """Whether that file is there."""
        return name in self.names

    def entries(self, name: str) -> Iterator[Entry]:
        """All entries of a file that is there.

        Raises:
            TransferError: it cannot be read, or is damaged.
        """
        with self._opened(name) as stream:
            yield from entries(stream, self.folder.shown(name))

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        shown = self.folder.shown(name)
        try:
            with self.folder.fs.open(self.folder.at(name), "rb") as stream:
                yield stream
        except file_errors() as error:
            raise TransferError(
                f"{shown} cannot be read: {reason(error)}",
                hint="check the permissions and the connection, then run the same command again",
                file=shown,
            ) from error


def open_persist_dir(url: str) -> PersistDir:
    """The persist_dir there.

    Raises:
        UsageError: there is none.
    """
    folder = open_folder(url)
    try:
        names = frozenset(folder.names())
    except file_errors() as error:
        kind = PathNotFoundError if isinstance(error, FileNotFoundError) else UsageError
        raise kind(
            f"{url} cannot be listed: {reason(error)}",
            hint="check the path, its permissions and the connection",
            url=url,
        ) from error
    stores = {_namespace(name): name for name in sorted(names, reverse=True) if name.endswith(VECTOR_STORE)}
    # Of both names the newer one is the one that LlamaIndex reads.
    if vector_store_name(DEFAULT_NAMESPACE) in names:
        stores[DEFAULT_NAMESPACE] = vector_store_name(DEFAULT_NAMESPACE)
    if not stores and DOCSTORE not in names:
        raise PathNotFoundError(
            f"{url} is no persist_dir: neither {DOCSTORE} nor a vector store is there",
            hint="name the folder that StorageContext.persist() wrote",
            url=url,
        )
    return PersistDir(folder, names, stores)


def _namespace(name: str) -> str:
    """Up to LlamaIndex 0.8 the only vector store was written without one."""
    return name.removesuffix(VECTOR_STORE).removesuffix(SEPARATOR) or DEFAULT_NAMESPACE
