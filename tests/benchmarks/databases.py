"""Temporary databases of the benchmark on both servers, dropped at the end also where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes

from ragstore.app import migrations
from ragstore.app.wiring import Addresses, reachable
from ragstore.errors import RefusedError, StoreSetupError
from ragstore.mongo.client import Client, check_server, connect
from ragstore.mongo.errors import translation as mongo_translation
from ragstore.postgres.errors import translation
from ragstore.settings import Settings

NAME = "ragstore_bench"
"""Name of the database in PostgreSQL and of the one in MongoDB."""

_OWNER = "made by the benchmark of ragstore, which drops it"
_MARK = "made_by_ragstore_bench"
_LOCK = "SELECT pg_try_advisory_lock(hashtext('ragstore_bench'))"
# An advisory lock holds within one database only: so connections to the bench's own one are looked for as well.
_FIND = """
SELECT shobj_description(oid, 'pg_database'), EXISTS (
    SELECT FROM pg_stat_activity a WHERE a.datid = d.oid AND backend_type = 'client backend'
) FROM pg_database d WHERE datname = %s
"""
_HINT_OTHER = "rename or drop that database if it is not needed, then run the same command again"
_POOL_SIZE = 12


@contextmanager
def databases_of_its_own(settings: Settings, ended: Callable[[], None]) -> Iterator[Settings]:
    """Settings of two fresh, migrated databases on the same servers, dropped at the end of the block.

    Args:
        ended: waits for the end of work that is still running. Called when PostgreSQL's database is dropped, which
            makes that work fail, and before MongoDB's is, because a late write would create that one again.

    Raises:
        StoreSetupError: the role may not make databases.
        RefusedError: a database of that name was not made by the bench, or another bench is at work.
        StoreError, EmbeddedServerError
    """
    addresses = reachable(settings)
    with _administering(settings, addresses) as (postgres, mongo):
        _refuse_others(postgres, mongo)
        try:
            _make(postgres, mongo)
            own = _settings(settings, addresses)
            migrations.apply(own)
            yield own
        finally:
            _drop_postgres(postgres)
            ended()
            _drop_mongo(mongo)


@contextmanager
def bare_connection(postgres_url: str) -> Iterator[psycopg2.extensions.connection]:
    """A psycopg2 connection on which each statement is its own transaction."""
    opened = psycopg2.connect(postgres_url)
    opened.autocommit = True
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _administering(settings: Settings, addresses: Addresses) -> Iterator[tuple[psycopg2.extensions.connection, Client]]:
    with translation():
        postgres = psycopg2.connect(addresses.postgres_url, connect_timeout=round(settings.connect_timeout_s))
    postgres.autocommit = True
    mongo = connect(addresses.mongo_url, timeout_s=settings.connect_timeout_s)
    try:
        check_server(mongo, addresses.mongo_url)
        yield postgres, mongo
    finally:
        mongo.close()
        postgres.close()


def _refuse_others(postgres: psycopg2.extensions.connection, mongo: Client) -> None:
    """Refuse to run while another bench does, and to touch databases of others; drop what a killed bench left."""
    with translation(), postgres.cursor() as cursor:
        cursor.execute(_LOCK)
        is_alone = cursor.fetchone() == (True,)
        cursor.execute(_FIND, (NAME,))
        found = cursor.fetchone()
    if not is_alone or (found is not None and found == (_OWNER, True)):
        raise RefusedError("another bench is at work on this server", hint="run the same command when it has ended")
    if found is not None and found[0] != _OWNER:
        raise RefusedError(f"PostgreSQL has a database {NAME!r} that the bench did not make", hint=_HINT_OTHER)
    with mongo_translation():
        collections = mongo[NAME].list_collection_names()
    if collections and _MARK not in collections:
        raise RefusedError(f"MongoDB has a database {NAME!r} that the bench did not make", hint=_HINT_OTHER)
    _drop_postgres(postgres)
    _drop_mongo(mongo)


def _make(postgres: psycopg2.extensions.connection, mongo: Client) -> None:
    try:
        with postgres.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {NAME}")
            cursor.execute(f"COMMENT ON DATABASE {NAME} IS '{_OWNER}'")
    except psycopg2.Error as error:
        if error.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
            raise StoreSetupError(
                f"PostgreSQL: the role {postgres.info.user!r} may not create the database {NAME!r}",
                hint="name a role with CREATEDB in RAGSTORE_POSTGRES_URL, or unset RAGSTORE_POSTGRES_URL and "
                "RAGSTORE_MONGO_URL to measure on embedded servers",
            ) from error
        with translation():
            raise
    with mongo_translation():
        mongo[NAME].create_collection(_MARK)


def _drop_postgres(postgres: psycopg2.extensions.connection) -> None:
    with translation(), postgres.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")


def _drop_mongo(mongo: Client) -> None:
    with mongo_translation():
        mongo.drop_database(NAME)


def _settings(settings: Settings, addresses: Addresses) -> Settings:
    """Settings for the bench's own databases, with the numbers that the person who runs it has set."""
    tuned = {name: getattr(settings, name) for name in tuned_options(settings)}
    own = {
        "postgres_url": urlunsplit(urlsplit(addresses.postgres_url)._replace(path=f"/{NAME}")),
        "mongo_url": addresses.mongo_url,
        "postgres_password": None,  # part of the URL
        "mongo_password": None,
        "mongo_database": NAME,
        "postgres_schema": "ragstore",  # which the raw statements name
        "model": "wordllama",
        "grace_s": 0,  # the removal of replaced nodes is measured too
        "pool_size": max(_POOL_SIZE, settings.pool_size),
        "env": "",
    }
    return Settings(**tuned | own)


def tuned_options(settings: Settings) -> list[str]:
    """Names of the options that have a number other than the default, which the bench applies too."""
    return [
        name
        for name in type(settings).model_fields
        if settings.origin(name) != "default" and isinstance(getattr(settings, name), (int, float))
    ]
