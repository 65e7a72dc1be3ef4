"""Migrations of PostgreSQL, by Alembic with raw SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2

from ragstore.errors import SchemaVersionError, StoreSetupError
from ragstore.migrate.requirements import check_encoding, check_vector, require_available_vector
from ragstore.migrate.versions import Step, folder, head, steps

LOCK_KEY = 0x5241_4753_4D49_4752  # "RAGSMIGR"

_REGISTRY = """
CREATE TABLE IF NOT EXISTS ragstore.migration (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

# What a first migration that was killed may have left is ours.
_STRANGERS = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = to_regnamespace('ragstore') AND c.relkind IN ('r', 'v', 'm', 'p')
    AND NOT (c.relname = 'migration' AND EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'checksum'))
ORDER BY c.relname LIMIT 3
"""
_HAS_VERSION = """
SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('ragstore.schema_version') AND attname = 'version_num')
"""


def current(connection: Any) -> str | None:
    """The version of the database, None before the first migration."""
    with connection.cursor() as cursor:
        cursor.execute(_HAS_VERSION)
        if not cursor.fetchone()[0]:
            return None
        cursor.execute("SELECT version_num FROM ragstore.schema_version")
        row = cursor.fetchone()
        return row[0] if row else None


def pending(connection: Any) -> list[Step]:
    """Steps that ``apply`` would run, in order.

    Raises:
        SchemaVersionError: an applied step was changed, or the database is newer than this program.
    """
    version = current(connection)
    if version is None:
        return steps("postgres")
    if version > head("postgres"):
        raise SchemaVersionError(
            f"PostgreSQL has schema version {version}, this program knows up to {head('postgres')}",
            hint="install the newer ragstore that migrated it",
        )
    applied = _checksums(connection)
    for step in steps("postgres"):
        if step.name in applied and applied[step.name] != step.checksum:
            raise SchemaVersionError(
                f"migration {step.name} was changed after it was applied",
                hint=f"restore {step.path.name} from version control and write a new step instead",
            )
    return [step for step in steps("postgres") if step.version > version]


def apply(connect: Callable[[], Any], *, schema: str) -> list[Step]:
    """Run what is pending; returns what was run. Nobody else may do so meanwhile.

    Args:
        connect: makes a psycopg2 connection, on which the schema may have another name than in our SQL.
        schema: that name, for the statements that are Alembic's own.

    Raises:
        StoreSetupError: the server or the database cannot be used, or the role lacks a right.

    Crash safety:
        Each step is one transaction together with its version; a killed run goes on where it stopped.
    """
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    engine = create_engine("postgresql+psycopg2://", creator=connect, poolclass=NullPool)
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        _prepare(raw, schema)
        todo = pending(raw)
        raw.rollback()
        if todo:
            config = Config()
            config.set_main_option("script_location", str(folder() / "postgres"))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            config.attributes["schema"] = schema
            try:
                command.upgrade(config, "head")
            except DBAPIError as error:
                raise error.orig or error from error
            connection.commit()
        _record(raw, steps("postgres"))
        return todo


def _prepare(raw: Any, schema: str) -> None:
    check_encoding(raw)
    with raw.cursor() as cursor:
        require_available_vector(cursor)
        by = "let a superuser run CREATE EXTENSION vector in this database, then run 'ragstore migrate apply'"
        cursor.execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'")
        if cursor.fetchone() == (0,):
            _execute(cursor, "CREATE EXTENSION IF NOT EXISTS vector", hint=by)
        _make_schema(cursor, schema)
    raw.commit()
    check_vector(raw)
    raw.commit()


def _make_schema(cursor: Any, schema: str) -> None:
    cursor.execute("SELECT to_regnamespace('ragstore') IS NULL, current_user")
    is_missing, role = cursor.fetchone()
    if is_missing:
        # IF NOT EXISTS would not help a role that may not make one.
        by = (
            f'let the database\'s owner run CREATE SCHEMA {schema} AUTHORIZATION "{role}", or run '
            "'ragstore migrate apply' with RAGSTORE_POSTGRES_URL of that owner"
        )
        _execute(cursor, "CREATE SCHEMA IF NOT EXISTS ragstore", hint=by)
    cursor.execute(_HAS_VERSION)
    if cursor.fetchone() == (False,):
        cursor.execute(_STRANGERS)
        strangers = [row[0] for row in cursor.fetchall()]
        if strangers:
            raise StoreSetupError(
                f"the schema {schema} of this database belongs to another program, with tables {', '.join(strangers)}",
                hint="name another schema by RAGSTORE_POSTGRES_SCHEMA, or another database in RAGSTORE_POSTGRES_URL, "
                "then run 'ragstore migrate apply'",
            )
    by = f'let the owner of the schema run GRANT USAGE, CREATE ON SCHEMA {schema} TO "{role}", or run this as that role'
    _execute(cursor, _REGISTRY, hint=by)


def _execute(cursor: Any, statement: str, *, hint: str) -> None:
    """Run what a role may lack the right for; the hint says who has it."""
    try:
        cursor.execute(statement)
    except psycopg2.errors.InsufficientPrivilege as error:
        raise StoreSetupError(f"PostgreSQL: {str(error).strip().splitlines()[0]}", hint=hint) from error


def _record(raw: Any, done: list[Step]) -> None:
    with raw.cursor() as cursor:
        for step in done:
            cursor.execute(
                "INSERT INTO ragstore.migration (name, checksum) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (step.name, step.checksum),
            )
    raw.commit()


def _checksums(connection: Any) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, checksum FROM ragstore.migration")
        return dict(cursor.fetchall())
