"""Files of the package that one operation enters, and messages that it sends to the two databases.

``RAGSTORE_HOME=/tmp/home python -m tests.benchmarks.footprint`` prints a line for each operation, in a process that has done
it before. A message is a query or a prepared statement sent to PostgreSQL, or a command sent to MongoDB.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from llama_index.core.schema import Document
from pydantic import SecretStr
from pymongo import monitoring

import ragstore
from ragstore import Condition
from ragstore.app.wiring import reachable
from ragstore.settings import Settings
from tests.support.sql_spy import SqlSpy, a_sql_spy

PACKAGE = str(Path(ragstore.__file__).parent)
TEXT = "A lease says until when a worker may publish. "


class Commands(monitoring.CommandListener):
    """Counts commands to MongoDB, but not those that keep sessions and connections alive."""

    def __init__(self) -> None:
        self.n = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Count one."""
        self.n += event.command_name not in ("hello", "ping", "endSessions", "buildInfo", "replSetGetStatus")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing."""


class Entered:
    """Files and functions of the package that threads enter."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.functions: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE):
            self.files.add(name)
            self.functions.add((name, frame.f_code.co_firstlineno))


@contextmanager
def counted(what: str, spy: SqlSpy, commands: Commands) -> Iterator[None]:
    """Print what the block enters and sends."""
    entered, n_before = Entered(), commands.n
    spy.taken()
    threading.setprofile(entered)
    sys.setprofile(entered)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    n_sql = len(spy.taken())
    print(
        f"{what:32} {len(entered.files):3} files {len(entered.functions):4} functions {n_sql:3} + {commands.n - n_before:2} messages"
    )


def main() -> None:
    """Each operation twice on one collection; the second one counts."""
    commands = Commands()
    monitoring.register(commands)
    ragstore.open(Settings()).close()  # which migrates embedded servers
    addresses = reachable(Settings())
    with a_sql_spy(addresses.postgres_url) as spy, tempfile.TemporaryDirectory() as folder:
        settings = Settings(postgres_url=SecretStr(spy.url), mongo_url=SecretStr(addresses.mongo_url))
        with ragstore.open(settings) as store:
            if any(each.name == "footprint" for each in store.collections()):
                store.drop_collection("footprint")
            for what, work in operations(store, Path(folder)):
                work()
                with counted(what, spy, commands):
                    work()
            store.drop_collection("footprint")


def operations(store: ragstore.Ragstore, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name and work of each; work may be done any number of times."""
    numbers = iter(range(1_000_000))

    def ingest_new() -> None:
        (folder / f"{next(numbers)}.txt").write_text(f"{TEXT}{next(numbers)}", encoding="utf-8")
        store.ingest(folder, collection="footprint")

    def ingest_edited() -> None:
        (folder / "0.txt").write_text(f"{TEXT}{next(numbers)} edited", encoding="utf-8")
        store.ingest(folder, collection="footprint")

    yield "ingest, one new document", ingest_new
    yield "ingest, one edited document", ingest_edited
    yield "ingest, nothing changed", lambda: store.ingest(folder, collection="footprint")
    yield "query, hybrid", lambda: store.query("lease", collection="footprint")
    yield "query with a filter", lambda: store.query("lease", collection="footprint", filters=Condition("a", "==", 1))
    index = store.index("footprint")
    yield "LlamaIndex index.insert", lambda: index.insert(Document(text=f"{TEXT}{next(numbers)}"))
    retriever = index.as_retriever()
    yield "LlamaIndex retrieve", lambda: retriever.retrieve("lease")


if __name__ == "__main__":
    main()
