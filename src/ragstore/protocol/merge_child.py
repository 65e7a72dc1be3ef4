"""Main function of the process that merges segments; its order is one line of JSON on standard input."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import closing, suppress

import orjson

from ragstore.errors import RagstoreError
from ragstore.postgres.collections import find_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.indexing import Build, merge_all

_NICE = 5
"""Readers and writers have priority."""


def main() -> int:
    """Merge, and return the exit status."""
    build = Build(**orjson.loads(_line()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):
        os.nice(_NICE)
    with closing(PostgresPool(build.postgres_url, size=3, schema=build.schema)) as pool:
        try:
            collection = find_collection(pool, build.collection)
            if collection is not None:
                merge_all(pool, collection, memory_mb=build.memory_mb, at_rest=build.at_rest)
        except RagstoreError as error:
            sys.stderr.write(f"merging segments of {build.collection!r}: {error}\n")
            return 1
    return 0


def _line() -> bytes:
    line = b""
    while not line.endswith(b"\n") and (read := os.read(0, 65_536)):
        line += read
    return line


def _end_with_parent() -> None:
    # Not through sys.stdin: Python could not close it at exit while this thread reads.
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
