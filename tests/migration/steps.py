"""Steps of tests, and questions to the databases on which they run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from ragstore.migrate import versions

LAST = versions.head("postgres")
NEXT = f"{int(LAST) + 1:04d}"


def a_step(folder: Path, sql: str) -> None:
    """The one after the real ones."""
    (folder / f"{NEXT}_pre_add_step.sql").write_text(f"-- Why: a test\n{sql}")


@contextmanager
def without_steps(folder: Path, since: str) -> Iterator[None]:
    """As if this program were older: it knows the steps before this version alone."""
    later = folder.parent / "later"
    later.mkdir()
    for path in folder.glob("*.sql"):
        if path.name >= since:
            path.rename(later / path.name)
    yield
    for path in later.iterdir():
        path.rename(folder / path.name)
    later.rmdir()


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    waiting, deadline = threading.Event(), time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        waiting.wait(0.02)


def waiting_for_locks(url: str) -> list[tuple[object, ...]]:
    """The other sessions of the database that wait for a lock."""
    return execute(
        url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )


def version_of(url: str, schema: str = "ragstore") -> str:
    [(version,)] = execute(url, f'SELECT version_num FROM "{schema}".schema_version')
    return str(version)


def recorded_in(url: str, schema: str = "ragstore") -> list[tuple[object, ...]]:
    """Names and checksums of the steps that a database knows to be done."""
    return execute(url, f'SELECT name, checksum FROM "{schema}".migration ORDER BY name')
