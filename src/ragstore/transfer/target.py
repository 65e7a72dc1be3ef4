"""The folder that an export writes, which loads only when all of it is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Self

import orjson

from ragstore.errors import RefusedError, TransferError
from ragstore.transfer.persist_dir import (
    DOCSTORE,
    GRAPH_STORE,
    INDEX_STORE,
    PROPERTY_GRAPH_STORE,
    VECTOR_STORE,
    Folder,
    file_errors,
    reason,
)

PARTIAL = ".partial"
_BUFFER_BYTES = 1 << 20


class Target:
    """Files under other names until ``publish``; on this machine their owner alone can read them.

    Raises:
        RefusedError: the folder has something in it.
    """

    def __init__(self, folder: Folder, *, overwrite: bool) -> None:
        self._folder = folder
        self._written: list[str] = []
        with self._told(""):
            names = folder.names()
        # What a killed export left behind is nobody's: the document store is the last to lose its other name.
        is_left_over = f"{DOCSTORE}{PARTIAL}" in names and DOCSTORE not in names
        others = [name for name in names if not name.endswith(PARTIAL)]
        if others and not overwrite and not is_left_over:
            raise RefusedError(
                f"{folder.url} is not empty",
                hint="name an empty folder, or say --overwrite to replace the persist_dir there",
                in_python="name an empty folder, or give overwrite=True to replace the persist_dir there",
                target=folder.url,
            )

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write."""
        with self._told(name):
            self._folder.make()
            with self._folder.fs.open(self._folder.at(f"{name}{PARTIAL}"), "wb") as stream:
                if self._folder.is_local:
                    os.chmod(self._folder.at(f"{name}{PARTIAL}"), 0o600)
                yield stream
        self._written.append(name)

    def publish(self, *, last: str) -> None:
        """Give the files their names.

        Crash safety:
            While ``last`` has not got its name the folder does not load; run again, the export writes all anew.
        """
        fs, at = self._folder.fs, self._folder.at
        with self._told(""):
            # Together with new vectors an old document store would load, and be wrong.
            for name in self._former(first=last):
                fs.rm_file(at(name))
            for name in [*(n for n in self._written if n != last), last]:
                fs.mv(at(f"{name}{PARTIAL}"), at(name))

    def _former(self, *, first: str) -> list[str]:
        """The files of the persist_dir that was here, and what killed exports left."""
        known = (DOCSTORE, INDEX_STORE, GRAPH_STORE, PROPERTY_GRAPH_STORE)
        now = {f"{name}{PARTIAL}" for name in self._written}
        found = [
            name
            for name in self._folder.names()
            if name in known or name.endswith(VECTOR_STORE) or (name.endswith(PARTIAL) and name not in now)
        ]
        return sorted(found, key=lambda name: (name != first, name))

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except file_errors() as error:
            where = self._folder.shown(name) if name else self._folder.url
            raise TransferError(
                f"{where} cannot be written: {reason(error)}",
                hint="check the permissions, the space and the connection, then run the same command again",
                target=self._folder.url,
            ) from error


class Sink:
    """A JSON object of sections, each an object, written as its entries come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = bytearray(b"{")
        self._separator = b""

    @classmethod
    @contextmanager
    def on(cls, stream: IO[bytes]) -> Iterator[Self]:
        """Closed, and so valid, when the block ends well."""
        sink = cls(stream)
        yield sink
        sink._write(b"}")
        sink._flush()

    def section(self, name: str, entries: Iterable[tuple[str, bytes | Iterable[bytes]]]) -> None:
        """Write a section.

        Args:
            entries: keys and values, the values as JSON, whole or in pieces.
        """
        self._write(self._separator + orjson.dumps(name) + b": {")
        self._separator = b", "
        separator = b""
        for key, value in entries:
            self._write(separator + orjson.dumps(key) + b": ")
            for piece in (value,) if isinstance(value, bytes) else value:
                self._write(piece)
            separator = b", "
        self._write(b"}")

    def _write(self, piece: bytes) -> None:
        self._buffer += piece
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._stream.write(self._buffer)
        self._buffer.clear()
