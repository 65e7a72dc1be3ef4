"""Folder that LlamaIndex persisted, local or at an fsspec URL: its files, JSON streams and index structs."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from ragstore.errors import PathNotFoundError, TransferError, UsageError, not_installed
from ragstore.model.node import VECTOR_STORE, Struct

DOCSTORE = "docstore.json"
INDEX_STORE = "index_store.json"
GRAPH_STORE = "graph_store.json"
PROPERTY_GRAPH_STORE = "property_graph_store.json"
VECTOR_STORE_FILE = "vector_store.json"
SEPARATOR = "__"
DEFAULT_NAMESPACE = "default"
IMAGE_NAMESPACE = "image"

_S3_SCHEMES = ("s3", "s3a")
_OBJECT_STORES = (*_S3_SCHEMES, "gs", "gcs", "az", "abfs")


def vector_store_name(namespace: str) -> str:
    """The name of the file of this vector store."""
    return f"{namespace}{SEPARATOR}{VECTOR_STORE_FILE}"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of any file system that fsspec knows.

    Args:
        url: the path or URL as the user wrote it.
        path: the same in the form of the file system.
    """

    fs: Any
    url: str
    path: str

    def names(self) -> list[str]:
        """The names of its files; none if the folder does not exist."""
        # A cached listing would not show later changes.
        self.fs.invalidate_cache()
        if not self.fs.isdir(self.path):
            return []
        found = self.fs.ls(self.path, detail=False)
        # An object store may list the folder itself as an entry.
        return sorted(
            {each.rstrip("/").rsplit("/", 1)[-1] for each in found if each.strip("/") != self.path.strip("/")}
        )

    def make(self) -> None:
        """Make the folder, if it does not exist."""
        # Files in an object store need no folder, and making one would create a mistyped bucket.
        if self.url.partition("://")[0] not in _OBJECT_STORES:
            if self.is_local:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
            else:
                self.fs.makedirs(self.path, exist_ok=True)

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def at(self, name: str) -> str:
        """The path of a file in the folder."""
        return f"{self.path.rstrip('/')}/{name}"

    def shown(self, name: str) -> str:
        """A file in the folder, in the form that the user wrote."""
        return f"{self.url.rstrip('/')}/{name}"


def file_errors() -> tuple[type[Exception], ...]:
    """Error classes of file systems: S3's client has its own errors for missing servers or credentials."""
    if "botocore" not in sys.modules:
        return (OSError,)
    from botocore.exceptions import BotoCoreError

    return (OSError, BotoCoreError)


def reason(error: Exception) -> str:
    """The reason of an error, in the words of the system."""
    return getattr(error, "strerror", None) or str(error)


def open_folder(url: str) -> Folder:
    """The folder at this path or URL, which need not exist.

    Raises:
        UsageError: the kind of file system is unknown, or its package is not installed.
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
    """A folder that LlamaIndex persisted, with the files that it has.

    Args:
        vector_stores: namespace → file name.
    """

    folder: Folder
    names: frozenset[str]
    vector_stores: dict[str, str]

    def has(self, name: str) -> bool:
        return name in self.names

    def entries(self, name: str) -> Iterator[Entry]:
        """All entries of an existing file.

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
    """The persist_dir at this path or URL.

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
    stores = {_namespace(name): name for name in sorted(names, reverse=True) if name.endswith(VECTOR_STORE_FILE)}
    # If there are both names, LlamaIndex reads the newer one.
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
    """The namespace of a vector store's file; up to LlamaIndex 0.8 the name of the only one had none."""
    return name.removesuffix(VECTOR_STORE_FILE).removesuffix(SEPARATOR) or DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class FoundStruct:
    """An index struct and the number of nodes it named; for a vector index, without node ids: the ledger has them."""

    struct: Struct
    n_nodes: int

    @property
    def is_vector_index(self) -> bool:
        """Whether it is a vector index, of which a collection has only one."""
        return self.struct.kind == VECTOR_STORE


def struct_of_entry(index_id: str, entry: Any) -> FoundStruct | None:
    """The struct of an entry ``{"__type__": …, "__data__": …}``; None if it is no struct."""
    if not isinstance(entry, Mapping):
        return None
    data = _loaded(entry.get("__data__"))
    kind = entry.get("__type__")
    if data is None or not isinstance(kind, str):
        return None
    nodes = data.get("nodes_dict")
    n_nodes = len(nodes) if isinstance(nodes, Mapping) else 0
    if kind == VECTOR_STORE:
        data = {**data, "nodes_dict": {}, "doc_id_dict": {}, "embeddings_dict": {}}
    return FoundStruct(Struct(index_id, kind, json.dumps(data)), n_nodes)


def own_struct(collection: str) -> Struct:
    """The struct of a collection's vector index if no program built one: its id is the collection's name."""
    data: dict[str, Any] = {"index_id": collection, "summary": None, "doc_id_dict": {}, "embeddings_dict": {}}
    return Struct(collection, VECTOR_STORE, json.dumps(data))


def around_nodes(struct: Struct) -> tuple[str, str]:
    """The JSON of a vector index's struct before and after the entries of ``nodes_dict``."""
    data = _loaded(struct.payload) or {}
    rest = {name: value for name, value in data.items() if name != "nodes_dict"} or {"index_id": struct.index_id}
    return f'{json.dumps(rest)[:-1]}, "nodes_dict": {{', "}}"


def _loaded(data: Any) -> dict[str, Any] | None:
    """The data of a struct; versions before 0.6 stored it as an object, later ones as text."""
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except json.JSONDecodeError:
            return None
    return dict(data) if isinstance(data, Mapping) else None


WINDOW_CHARS = 1 << 20
MAX_VALUE_CHARS = 1 << 28
"""Most characters of one value, so that an endless one does not fill the memory; a million nodes need 80 million."""

_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST_LITERAL = len("-Infinity")
_LONGEST_CUT = len("e+")
"""Most characters after the valid part of a number that the window cuts off: ``1e+`` is read as ``1``."""


class Entry(NamedTuple):
    """One entry of a section; if the section is no object, ``key`` is None and ``value`` is the section."""

    section: str
    key: str | None
    value: Any
    n_chars: int


def entries(stream: IO[bytes], name: str) -> Iterator[Entry]:
    """All entries in the order of the file.

    Args:
        name: name of the file, for errors.

    Raises:
        TransferError: the file is damaged; names file and byte offset.
    """
    return _Reader(stream, name).entries()


class _Reader:
    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False
        self._n_chars = 0
        """Characters of the last value."""
        self._bytes_before = 0
        """Bytes of the file before the window."""

    def entries(self) -> Iterator[Entry]:
        for section in self._keys():
            if self._peek() != "{":
                yield Entry(section, None, self._value(), self._n_chars)
                continue
            for key in self._keys():
                yield Entry(section, key, self._value(), self._n_chars)
        if self._peek() != "":
            raise self._damaged("has something behind its end")

    def _keys(self) -> Iterator[str]:
        """The keys of the object that begins here; after each key the caller reads its value."""
        self._take("{")
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            if self._peek() != '"':
                raise self._damaged("has no key where one must be")
            key: str = self._value()
            self._take(":")
            yield key
            if self._peek() == "}":
                self._at += 1
                return
            self._take(",")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # For a string that does not end the error has its beginning, for everything else the wrong place.
                is_cut = error.pos + _LONGEST_LITERAL >= len(self._text) or error.msg.startswith("Unterminated string")
                if self._ended or not is_cut:
                    raise self._damaged(f"is damaged: {error.msg.lower()}", at=error.pos) from error
            except RecursionError as error:
                raise self._damaged("is nested too deeply") from error
            else:
                if end + _LONGEST_CUT < len(self._text) or self._ended:
                    self._n_chars, self._at = end - self._at, end
                    return value
            if len(self._text) - self._at > MAX_VALUE_CHARS:
                raise self._damaged(f"has a value of more than {MAX_VALUE_CHARS:,} characters")
            self._read_on()

    def _peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            raise self._damaged(f"has no {wanted!r} where one must be")
        self._at += 1

    def _read_on(self) -> None:
        # Double the size each time a value does not fit: otherwise the time for a long value would grow by its square.
        left = self._text[self._at :]
        done = self._text[: self._at]
        raw = self._stream.read(max(WINDOW_CHARS, len(left)))
        try:
            more = self._decode(raw, not raw)
        except UnicodeDecodeError as error:
            self._bytes_before += len(done.encode()) + len(left.encode()) + error.start
            self._text, self._at = "", 0
            raise self._damaged("is no UTF-8 text") from error
        self._ended = not raw
        self._bytes_before += len(done) if done.isascii() else len(done.encode())
        self._text, self._at = left + more, 0

    def _damaged(self, what: str, *, at: int | None = None) -> TransferError:
        offset = self._bytes_before + len(self._text[: self._at if at is None else at].encode())
        return TransferError(
            f"{self._name} {what}, at byte {offset:,}",
            hint="it was cut off or changed since LlamaIndex wrote it; persist the index again, or restore the file",
            file=self._name,
            offset=offset,
        )
