"""The real servers that the tests run on: given by URL, or embedded and shared by all test processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg2
from pymongo import MongoClient
from pymongo.database import Database

from ragstore import embedded
from ragstore.migrate import mongo as mongo_steps
from ragstore.migrate import postgres as postgres_steps

_POSTGRES, _MONGO, _HOME = "RAGSTORE_TEST_POSTGRES_URL", "RAGSTORE_TEST_MONGO_URL", "RAGSTORE_TEST_HOME"


@dataclass(frozen=True)
class Servers:
    """URLs of a PostgreSQL whose user may create databases, and of a MongoDB replica set."""

    postgres_url: str
    mongo_url: str


def choose() -> None:
    """In the process that starts the test processes: decide on the servers, without starting any."""
    if _POSTGRES in os.environ and _MONGO in os.environ:
        return
    # Below /tmp itself, because PostgreSQL's unprivileged user cannot enter pytest's private folders.
    home = tempfile.mkdtemp(prefix="ragstore-tests-")
    Path(home).chmod(0o755)
    os.environ[_HOME] = home


def stop() -> None:
    """Stop what was started and remove it."""
    home = os.environ.pop(_HOME, None)
    if home is not None:
        embedded.stop(Path(home))
        shutil.rmtree(home, ignore_errors=True)


def running() -> Servers:
    """The servers, started by the first test process that needs them."""
    if _HOME in os.environ:
        urls = embedded.ensure_running(Path(os.environ[_HOME]))
        return Servers(urls.postgres_url, urls.mongo_url)
    return Servers(os.environ[_POSTGRES], os.environ[_MONGO])


def header() -> str:
    """One line for pytest's header."""
    if _HOME in os.environ:
        return "servers: embedded PostgreSQL and MongoDB, started when first needed"
    try:
        with psycopg2.connect(os.environ[_POSTGRES]) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            row = cursor.fetchone()
        with MongoClient[dict[str, Any]](os.environ[_MONGO]) as client:
            return f"servers: PostgreSQL {row[0] if row else '?'}, MongoDB {client.server_info()['version']} (by URL)"
    except KeyError:
        return "servers: none chosen"


@contextmanager
def migrated_template(servers: Servers) -> Iterator[str]:
    """A migrated database that is cloned for each test; returns its name."""
    name = f"ragstore_template_{uuid4().hex[:12]}"
    _admin(servers, f'CREATE DATABASE "{name}"')
    try:
        postgres_steps.apply(_with_database(servers.postgres_url, name))
        yield name
    finally:
        _admin(servers, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def cloned_database(servers: Servers, template: str | None) -> Iterator[str]:
    """A fresh database; returns its URL. Without a template it is empty."""
    name = f"ragstore_test_{uuid4().hex[:12]}"
    _admin(servers, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    try:
        yield _with_database(servers.postgres_url, name)
    finally:
        _admin(servers, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def fresh_mongo_database(servers: Servers) -> Iterator[Database[dict[str, Any]]]:
    """A fresh, empty MongoDB database."""
    with MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True) as client:
        name = f"ragstore_test_{uuid4().hex[:12]}"
        yield client[name]
        client.drop_database(name)


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
