"""Databases of the bench's own on both servers: made, migrated, and dropped whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes

from ragstore.app import migrations
from ragstore.app.addresses import Addresses, reachable
from ragstore.errors import RefusedError, StoreSetupError
from ragstore.mongo.client import Client, check_server, connect
from ragstore.mongo.errors import translation as mongo_translation
from ragstore.postgres.errors import translation
from ragstore.settings import Settings

NAME = "ragstore_bench"
"""Of the database in PostgreSQL and of the one in MongoDB."""

_OWNER = "made by the benchmark of ragstore, which drops it"
_MARK = "made_by_ragstore_bench"
_LOCK = "SELECT pg_try_advisory_lock(hashtext('ragstore_bench'))"
# A lock reaches no further than its database: whether somebody works there is asked as well.
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
        ended: called between the two: what still works cannot go on without PostgreSQL, and must have ended before the
            other goes, for MongoDB makes a database anew for whoever writes to it.

    Raises:
        StoreSetupError: the role may not make databases.
        RefusedError: there is one of that name that the bench did not make, or another bench is at work.
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
    """Refuse to work beside another bench, and to touch what it did not make; what a killed one left is dropped."""
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
    """Those of the person who runs the bench, but for where it works and what it must know."""
    tuned = {name: getattr(settings, name) for name in tuned_options(settings)}
    own = {
        "postgres_url": urlunsplit(urlsplit(addresses.postgres_url)._replace(path=f"/{NAME}")),
        "mongo_url": addresses.mongo_url,
        "postgres_password": None,  # it stands in the URL
        "mongo_password": None,
        "mongo_database": NAME,
        "postgres_schema": "ragstore",  # as the plain statements that it is compared with say
        "model": "wordllama",
        "grace_s": 0,  # what replaced nodes cost is part of the bill
        "pool_size": max(_POOL_SIZE, settings.pool_size),
        "env": "",
    }
    return Settings(**tuned | own)


def tuned_options(settings: Settings) -> list[str]:
    """Numbers that somebody set: the bench measures what they make of ragstore."""
    return [
        name
        for name in type(settings).model_fields
        if settings.origin(name) != "default" and isinstance(getattr(settings, name), (int, float))
    ]
