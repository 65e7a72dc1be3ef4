"""The real servers that tests share: in containers, embedded, or given by URL; chosen once for all test processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg2
import pytest
from pymongo import MongoClient
from pymongo.database import Database

from ragstore import embedded
from ragstore.app.migrations import apply_postgres
from ragstore.embedded.programs import find_programs
from ragstore.errors import EmbeddedServerError
from ragstore.migrate import mongo as mongo_steps
from ragstore.protocol.recover import this_worker
from tests.support import containers, tally
from tests.support.containers import Container, MongoContainer, NoContainersError, PostgresContainer

Kind = Literal["containers", "embedded", "url"]

_WANTED = "RAGSTORE_TEST_SERVERS"
_POSTGRES, _MONGO = "RAGSTORE_TEST_POSTGRES_URL", "RAGSTORE_TEST_MONGO_URL"
# How the first process tells the others what it chose and started.
_KINDS, _HOME, _CONTAINERS = "RAGSTORE_TEST_KINDS", "RAGSTORE_TEST_HOME", "RAGSTORE_TEST_CONTAINERS"


@dataclass(frozen=True)
class Servers:
    """URLs of a PostgreSQL whose user may create databases, and of a MongoDB replica set."""

    kind: Kind
    postgres_url: str
    mongo_url: str


def choose(*, start: bool = True) -> None:
    """In the process that starts the test processes: decide on the servers, and start containers.

    Args:
        start: False where no test will ask for servers.
    """
    if _POSTGRES in os.environ and _MONGO in os.environ:
        os.environ[_KINDS] = "url"
        return
    wanted = os.environ.get(_WANTED, "")
    if wanted not in ("", "containers", "embedded"):
        raise pytest.UsageError(f"{_WANTED}={wanted!r}: it is containers, embedded or unset")
    kinds: list[Kind] = []
    if start and wanted != "embedded" and _engine_is_there(wanted):
        _start_containers()
        kinds.append("containers")
    if wanted != "containers" and (not kinds or _can_embed()):
        # Below /tmp itself, because PostgreSQL's unprivileged user cannot enter pytest's private folders.
        home = tempfile.mkdtemp(prefix="ragstore-tests-")
        Path(home).chmod(0o755)
        os.environ[_HOME] = home
        kinds.append("embedded")
    os.environ[_KINDS] = " ".join(kinds)


def stop() -> None:
    """Stop what was started and remove it."""
    home = os.environ.pop(_HOME, None)
    if home is not None:
        embedded.stop(Path(home))
        shutil.rmtree(home, ignore_errors=True)
    if os.environ.pop(_CONTAINERS, None) is not None:
        for server in _started:
            server.remove()
        # Those of test processes that were killed, too.
        containers.sweep(also=this_worker())


def kinds() -> list[Kind]:
    """What there is to run tests on, the one for all tests first."""
    return os.environ.get(_KINDS, "").split()  # type: ignore[return-value]


def running(kind: Kind | None = None) -> Servers:
    """The servers of a kind, by default of the first; embedded ones are started by who needs them first."""
    wanted = kind or kinds()[0]
    tally.note(wanted)
    if wanted == "embedded":
        urls = embedded.ensure_running(Path(os.environ[_HOME]))
        return Servers(wanted, urls.postgres_url, urls.mongo_url)
    if wanted == "containers":
        return Servers(wanted, *os.environ[_CONTAINERS].split())
    return Servers(wanted, os.environ[_POSTGRES], os.environ[_MONGO])


def header() -> list[str]:
    """For pytest's header: what the tests run on, and why on nothing else."""
    lines = [f"servers: {_described(kind)}" for kind in kinds()]
    return [*lines, *([f"no containers: {_why_none}"] if _why_none else [])]


# Of this very process, for its header and its end.
_why_none = ""
_started: list[Container] = []


def _engine_is_there(wanted: str) -> bool:
    global _why_none  # noqa: PLW0603
    try:
        containers.check_engine()
    except NoContainersError as error:
        if wanted == "containers":
            raise pytest.UsageError(f"{_WANTED}=containers, and there are none to be had: {error}") from error
        _why_none = str(error)
        return False
    return True


def _start_containers() -> None:
    containers.sweep()
    os.environ[_CONTAINERS] = ""
    for server in (PostgresContainer(), MongoContainer()):
        _started.append(server)
        server.create()
    os.environ[_CONTAINERS] = " ".join(server.url for server in _started)


def _can_embed() -> bool:
    try:
        find_programs()
    except EmbeddedServerError:
        return False
    return True


def _described(kind: Kind) -> str:
    if kind == "embedded":
        if not _can_embed():
            return "embedded, whose programs are not installed"
        programs = find_programs()
        versions = [_version(programs.postgres_bin / "postgres"), _version(programs.mongod)]
        return f"embedded PostgreSQL {versions[0]} and MongoDB {versions[1]}, started when first needed"
    found = running(kind)
    connection = psycopg2.connect(found.postgres_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('server_version'), default_version FROM pg_available_extensions "
            "WHERE name = 'vector'"
        )
        postgres, vector = cursor.fetchone() or ("?", "none")
    connection.close()
    with MongoClient[dict[str, Any]](found.mongo_url) as client:
        mongo = client.server_info()["version"]
    of = [f"{containers.image(f'{name}_IMAGE')}, " if kind == "containers" else "" for name in ("POSTGRES", "MONGO")]
    versions = [f"PostgreSQL {postgres.split()[0]} with pgvector {vector}", f"MongoDB {mongo}"]
    return f"{kind} ({of[0]}{versions[0]}; {of[1]}{versions[1]})"


def _version(program: Path) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    return next(word.removeprefix("v") for word in said.split() if word.removeprefix("v")[0].isdigit())


class Templates:
    """One migrated database for each server that a test process meets, made when first needed."""

    def __init__(self) -> None:
        self._made: dict[Servers, str] = {}
        self._cleaning = ExitStack()

    def of(self, servers: Servers) -> str:
        """Name of the database to clone for each test."""
        if servers not in self._made:
            self._made[servers] = self._cleaning.enter_context(migrated_template(servers))
        return self._made[servers]

    def close(self) -> None:
        """Drop them."""
        self._cleaning.close()


@contextmanager
def migrated_template(servers: Servers) -> Iterator[str]:
    """A migrated database that is cloned for each test; returns its name."""
    if servers.kind != "url":
        # Databases come and go in a third of the time. Tests that kill servers have their own, and no test pulls the plug.
        _admin(servers, "ALTER SYSTEM SET fsync = off")
        _admin(servers, "SELECT pg_reload_conf()")
    name = f"ragstore_template_{uuid4().hex[:12]}"
    _admin(servers, f'CREATE DATABASE "{name}"')
    try:
        apply_postgres(_with_database(servers.postgres_url, name))
        yield name
    finally:
        _admin(servers, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def cloned_database(servers: Servers, template: str | None) -> Iterator[str]:
    """A fresh database; returns its URL. Without a template it is empty."""
    name = f"ragstore_test_{uuid4().hex[:12]}"
    cloned = f' TEMPLATE "{template}"' if template else ""
    # The default, which writes all to the log, takes longer where nothing is synced.
    strategy = "" if servers.kind == "url" else " STRATEGY FILE_COPY"
    _admin(servers, f'CREATE DATABASE "{name}"{cloned}{strategy}')
    try:
        yield _with_database(servers.postgres_url, name)
    finally:
        _admin(servers, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def fresh_mongo_database(servers: Servers) -> Iterator[Database[dict[str, Any]]]:
    """A fresh, empty MongoDB database."""
    client = _mongo_client(servers.mongo_url)
    name = f"ragstore_test_{uuid4().hex[:12]}"
    yield client[name]
    client.drop_database(name)


@cache
def _mongo_client(url: str) -> MongoClient[dict[str, Any]]:
    # One for all tests of a process: to connect takes longer than to make a database.
    return MongoClient(url, tz_aware=True)


def migrate_mongo(postgres_url: str, database: Database[dict[str, Any]]) -> None:
    """Apply MongoDB's migrations and pair the database with the PostgreSQL one."""
    mongo_steps.apply(database)
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT deployment_id::text FROM ragstore.deployment")
        row = cursor.fetchone()
    assert row is not None
    connection.close()
    mongo_steps.set_deployment_id(database, row[0])


def _admin(servers: Servers, statement: str) -> None:
    connection = psycopg2.connect(servers.postgres_url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
