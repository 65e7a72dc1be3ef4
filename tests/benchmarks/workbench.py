"""State of one run: the opened store, direct access to both servers, and the data sets that rows share."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import psycopg2.extensions

from ragstore.app import Ragstore, open_ragstore
from ragstore.mongo.client import Client, MongoDatabase, connect, database
from ragstore.mongo.errors import translation as mongo_translation
from ragstore.postgres.errors import translation
from ragstore.settings import Settings
from tests.benchmarks.databases import NAME, bare_connection, databases_of_its_own, tuned_options
from tests.benchmarks.datasets import Datasets
from tests.benchmarks.plain import PlainStack
from tests.benchmarks.scale import Scale
from tests.support.sql_spy import SqlSpy, a_sql_spy

Answer = TypeVar("Answer")

_ENDS_WITHIN_S = 20.0


class WorkThread:
    """Runs one piece of work at a time in a thread of its own, so that the main thread only waits for it.

    The main thread receives signals between two steps of Python: not while a driver waits for a database. And what a
    signal handler raises is lost where a callback of the garbage collector is running.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], Answer]) -> Answer:
        """What the work returns or raises. A signal interrupts the waiting, not the work: see ``wait``."""
        done: Future[Answer] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # edge of the thread: the caller gets it
                done.set_exception(error)

        self._thread = threading.Thread(target=run, name="ragstore-bench", daemon=True)
        self._thread.start()
        return done.result()

    def wait(self) -> None:
        """Wait until interrupted work has failed, because its databases were dropped."""
        if self._thread is not None:
            self._thread.join(_ENDS_WITHIN_S)


@dataclass
class Workbench:
    """One run of the bench.

    Args:
        rounds: how often each thing is measured, about; what takes long is measured less often.
        folder: for files, empty at first, removed at the end.
        say: is called with what is being done.
        thread: runs the work, so that it can be interrupted.
        left_out: what was not measured, and why.
    """

    store: Ragstore
    scale: Scale
    rounds: int
    folder: str
    say: Callable[[str], None]
    thread: WorkThread
    left_out: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Of the bench's own databases."""
        return self.store.settings

    @property
    def few_rounds(self) -> int:
        """For what takes long."""
        return max(1, (self.rounds + 1) // 2)

    @property
    def postgres_url(self) -> str:
        """Of the bench's own database, with its password."""
        assert self.settings.postgres_url is not None
        return self.settings.postgres_url.get_secret_value()

    @property
    def mongo_url(self) -> str:
        """Of the server, with its password."""
        assert self.settings.mongo_url is not None
        return self.settings.mongo_url.get_secret_value()

    def connection(self) -> AbstractContextManager[psycopg2.extensions.connection]:
        """A psycopg2 connection to the bench's own database, in autocommit mode."""
        return bare_connection(self.postgres_url)

    def plain_stack(self, table: str, dim: int, *, hnsw: bool = True) -> PlainStack:
        """LlamaIndex's own stores, in a table of this name."""
        return PlainStack(self.postgres_url, self.client, table, dim, hnsw=hnsw)

    @contextmanager
    def spied(self) -> Iterator[tuple[SqlSpy, Ragstore]]:
        """A second store, and a spy that records the statements it sends to PostgreSQL."""
        with a_sql_spy(self.postgres_url) as spy:
            store = open_ragstore(with_options(self.settings, postgres_url=spy.url))
            with store:
                yield spy, store

    def sql(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        """Rows of a statement, none for one that has none."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(statement, params or None)
            return cursor.fetchall() if cursor.description else []

    @cached_property
    def client(self) -> Client:
        """A bare pymongo client."""
        return connect(self.mongo_url)

    @property
    def mongo(self) -> MongoDatabase:
        """The bench's own database, with the concerns that ragstore has."""
        return database(self.client, NAME)

    @cached_property
    def data(self) -> Datasets:
        """Collections and folders of files that several rows use."""
        return Datasets(self.store, self.scale, self.folder, self.plain_stack, self.say, self.left_out)

    def path(self, name: str) -> str:
        """Of a file or folder in the bench's folder."""
        return os.path.join(self.folder, name)

    @cached_property
    def environment(self) -> dict[str, str]:
        """For a process that works in the same databases, with no option from elsewhere."""
        os.makedirs(self.path("secrets"), exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAGSTORE_")}
        options = {name: str(getattr(self.settings, name)) for name in tuned_options(self.settings)}
        options |= {
            "postgres_url": self.postgres_url,
            "mongo_url": self.mongo_url,
            "mongo_database": NAME,
            "secrets_dir": self.path("secrets"),
        }
        return inherited | {f"RAGSTORE_{name.upper()}": value for name, value in options.items()}

    def close(self) -> None:
        """Close all that was opened."""
        if "data" in self.__dict__:
            self.data.close()
        if "client" in self.__dict__:
            self.client.close()


@contextmanager
def opened_workbench(settings: Settings, scale: Scale, rounds: int, say: Callable[[str], None]) -> Iterator[Workbench]:
    """A workbench in databases of its own; nothing of it is left at the end of the block.

    Raises:
        StoreSetupError: the role may not make databases.
        RefusedError: another bench is at work, or a database of the bench's name is not the bench's.
        StoreError: also for what the drivers raise in the block.
    """
    thread = WorkThread()
    with (
        tempfile.TemporaryDirectory(prefix="ragstore-bench-", ignore_cleanup_errors=True) as folder,
        databases_of_its_own(settings, thread.wait) as own,
        open_ragstore(_scaled(own, scale)) as store,
    ):
        bench = Workbench(store, scale, rounds, folder, say, thread)
        try:
            with translation(), mongo_translation():
                yield bench
        finally:
            bench.close()


def with_options(settings: Settings, **options: object) -> Settings:
    """The same settings with some options changed."""
    given = {name: getattr(settings, name) for name in Settings.model_fields if settings.origin(name) == "call"}
    return Settings(**given | options)


def _scaled(settings: Settings, scale: Scale) -> Settings:
    return settings if scale.index_min_nodes is None else with_options(settings, index_min_nodes=scale.index_min_nodes)
