"""Packs: rows of a vector table in one object, with their ids, so that a restore can leave out what was deleted.

A pack is: the number of rows (uint64), their ids (int64 each), their lengths in bytes (uint32 each), and the rows in
PostgreSQL's binary COPY format; all numbers little-endian. Which of its rows are live says the backup's list of rows:
ids, versions and places of packs, column by column, each as differences to the one before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ragstore.backup.targets import lost
from ragstore.model.backup import StoredObject

PACK_BYTES = 16 << 20
"""Bytes of rows at which a pack is closed; a longer row is a pack by itself."""

ROWS_AT_ONCE = 1 << 20
"""Most entries of one object of a list of rows."""

LIVE_ROW = np.dtype([("id", "<i8"), ("version", "<i8"), ("pack", "<i4")])
"""A live row, and the place of its pack in the backup's list of packs."""

LiveRows = np.ndarray[Any, Any]
_COUNT = struct.Struct("<Q")
_ID = struct.Struct(">q")
_ID_AT = 6


@dataclass(slots=True)
class OpenPack:
    """Rows that are being collected for a pack."""

    rows: list[bytes] = field(default_factory=list)
    n_bytes: int = 0

    def add(self, row: bytes) -> None:
        self.rows.append(row)
        self.n_bytes += len(row)

    def ids(self) -> np.ndarray[Any, Any]:
        """The ids of the rows: the first field of each."""
        return np.array([_ID.unpack_from(row, _ID_AT)[0] for row in self.rows], dtype="<i8")

    def content(self) -> bytes:
        """The pack as bytes."""
        lengths = np.array([len(row) for row in self.rows], dtype="<u4")
        return b"".join([_COUNT.pack(len(self.rows)), self.ids().tobytes(), lengths.tobytes(), *self.rows])


class PackWriter:
    """Cuts a stream of rows into packs.

    Args:
        store: takes each closed pack.
    """

    def __init__(self, store: Callable[[OpenPack], None]) -> None:
        self._store = store
        self._open = OpenPack()

    def take(self, row: bytes) -> None:
        if self._open.rows and self._open.n_bytes + len(row) > PACK_BYTES:
            self.close()
        self._open.add(row)

    def close(self) -> None:
        """Close the pack that is open, if it has any rows."""
        if self._open.rows:
            self._store(self._open)
            self._open = OpenPack()


def live_part(content: bytes, live_ids: np.ndarray[Any, Any], url: str, name: str) -> tuple[list[bytes], int]:
    """The rows of a pack with these ids, in pieces of the COPY format; and how many.

    Raises:
        BackupLostError: the pack is not well formed, or lacks one of them.
    """
    try:
        (n_rows,) = _COUNT.unpack_from(content)
        ids = np.frombuffer(content, dtype="<i8", count=n_rows, offset=_COUNT.size)
        lengths = np.frombuffer(content, dtype="<u4", count=n_rows, offset=_COUNT.size + 8 * n_rows).astype(np.int64)
    except (ValueError, OverflowError, struct.error) as error:
        raise lost(url, name, f"damaged: {error}") from error
    begin = _COUNT.size + 12 * n_rows
    wanted = np.isin(ids, live_ids)
    if int(lengths.sum()) != len(content) - begin or int(wanted.sum()) != len(live_ids):
        raise lost(url, name, "damaged: it lacks rows")
    if wanted.all():
        return [content[begin:]], n_rows
    ends = begin + np.cumsum(lengths)
    places = np.flatnonzero(wanted)
    # Neighbouring rows as one piece.
    breaks = np.flatnonzero(np.diff(places) > 1) + 1
    runs = np.split(places, breaks)
    pieces = [content[int(ends[run[0]] - lengths[run[0]]) : int(ends[run[-1]])] for run in runs if len(run)]
    return pieces, len(places)


def packed_rows(rows: LiveRows) -> Iterator[bytes]:
    """A list of live rows as contents of objects."""
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[begin : begin + ROWS_AT_ONCE]
        columns = [
            np.diff(part[name].astype("<i8"), prepend=np.int64(0)).astype("<i8") for name in ("id", "version", "pack")
        ]
        # Bytes of the same weight together: most are 0, and compress to nothing.
        yield _COUNT.pack(len(part)) + b"".join(c.view("u1").reshape(-1, 8).T.tobytes() for c in columns)


def unpacked_rows(contents: Sequence[bytes], url: str, names: Sequence[StoredObject]) -> LiveRows:
    """The list of live rows that ``packed_rows`` made these contents of."""
    found = [np.empty(0, dtype=LIVE_ROW)]
    for content, each in zip(contents, names, strict=True):
        (n_rows,) = _COUNT.unpack_from(content)
        if len(content) != _COUNT.size + 24 * n_rows:
            raise lost(url, each.name, "damaged: it lacks rows")
        planes = np.frombuffer(content, dtype="u1", offset=_COUNT.size).reshape(3, 8, n_rows)
        part = np.empty(n_rows, dtype=LIVE_ROW)
        for plane, name in zip(planes, ("id", "version", "pack"), strict=True):
            part[name] = np.cumsum(np.ascontiguousarray(plane.T).view("<i8").reshape(-1))
        found.append(part)
    return np.concatenate(found)
