"""Checks that a PostgreSQL server and database fulfil ragstore's requirements."""

from __future__ import annotations

from typing import Any

import psycopg2

from ragstore.errors import StoreSetupError

MIN_VECTOR = (0, 8)
"""Version of pgvector, extension and library: since it a filtered index scan goes on until it has found enough."""

_AVAILABLE = """
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
    (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')
"""
# The first statement loads the library, the second checks which settings it has.
_LIBRARY = """
SELECT '[1]'::vector; SELECT extversion, current_setting('hnsw.iterative_scan', true) IS NOT NULL
FROM pg_extension WHERE extname = 'vector'
"""
_PLACE = """
SELECT n.nspname, current_user FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'vector'
"""
_WANTED = ".".join(map(str, MIN_VECTOR))
_INSTALL = f"install pgvector {_WANTED} or newer on the server, then run"


def check_encoding(connection: Any) -> None:
    """Refuse a database whose encoding cannot store every text.

    Raises:
        StoreSetupError
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise StoreSetupError(
            f"the database {connection.info.dbname!r} is encoded in {encoding}, ragstore needs UTF8",
            hint="make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, name it in "
            "RAGSTORE_POSTGRES_URL, then run 'ragstore migrate apply'",
        )


def check_vector(connection: Any) -> None:
    """Refuse a pgvector that is missing, not accessible or too old: the extension and the server's library.

    Raises:
        StoreSetupError
    """
    with connection.cursor() as cursor:
        try:
            cursor.execute(_LIBRARY)
            extension, knows = cursor.fetchone() or (None, False)
        except psycopg2.errors.UndefinedObject:
            connection.rollback()
            raise _unreachable(cursor) from None
        if extension is not None and _numbers(extension) >= MIN_VECTOR and knows:
            _check_path(connection, cursor)
            return
        cursor.execute(_AVAILABLE)
        _, available = cursor.fetchone()
    if available is None or _numbers(available) < MIN_VECTOR or _numbers(extension) >= MIN_VECTOR:
        raise StoreSetupError(
            f"the server's library of pgvector is {available or 'missing'}, ragstore needs {_WANTED} or newer",
            hint=f"{_INSTALL} ALTER EXTENSION vector UPDATE in this database and connect again",
            extension=extension,
            available=available,
        )
    raise StoreSetupError(
        f"the extension vector of this database is {extension}, ragstore needs {_WANTED} or newer",
        hint="let its owner run ALTER EXTENSION vector UPDATE in this database, then run 'ragstore migrate apply'",
        extension=extension,
        available=available,
    )


def require_available_vector(cursor: Any) -> None:
    """Refuse a server on which a missing extension cannot be created.

    Raises:
        StoreSetupError
    """
    cursor.execute(_AVAILABLE)
    extension, available = cursor.fetchone()
    if extension is None and available is None:
        raise StoreSetupError(
            "this PostgreSQL server has no extension 'vector'", hint=f"{_INSTALL} 'ragstore migrate apply'"
        )
    if extension is None and _numbers(available) < MIN_VECTOR:
        raise StoreSetupError(
            f"the server's pgvector is {available}, ragstore needs {_WANTED} or newer",
            hint=f"{_INSTALL} 'ragstore migrate apply'",
            available=available,
        )


def _check_path(connection: Any, cursor: Any) -> None:
    """Check the search path: indexes are built outside of transactions, where a pooler allows no settings."""
    if connection.is_pooled and connection.path_extended:
        cursor.execute(_PLACE)
        schema, role = cursor.fetchone()
        raise StoreSetupError(
            f"behind a pooler the schema {schema}, which has the extension vector, must be on the role's search path",
            hint=f'run ALTER ROLE "{role}" SET search_path = "$user", public, "{schema}", and reconnect the pooler',
        )


def _unreachable(cursor: Any) -> StoreSetupError:
    cursor.execute(_PLACE)
    found = cursor.fetchone()
    if found is None:
        return StoreSetupError(
            "this database has no extension 'vector'",
            hint="run 'ragstore migrate apply', or let a superuser run CREATE EXTENSION vector in it",
        )
    schema, role = found
    return StoreSetupError(
        f"the extension vector is in the schema {schema}, which the role {role} may not use",
        hint=f'let its owner run GRANT USAGE ON SCHEMA "{schema}" TO "{role}"',
    )


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (version or "0").split(".") if part.isdigit())
