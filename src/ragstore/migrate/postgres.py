"""Migrations of PostgreSQL, by Alembic with raw SQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from ragstore.errors import SchemaVersionError, StoreSetupError, StoreUnavailableError
from ragstore.migrate.versions import Step, folder, head, steps

_LOCK_KEY = 0x5241_4753_4D49_4752  # "RAGSMIGR"
_POLL_S = 0.1

_REGISTRY = """
CREATE SCHEMA IF NOT EXISTS ragstore;
CREATE TABLE IF NOT EXISTS ragstore.migration (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


def current(connection: Any) -> str | None:
    """The version of the database, None before the first migration."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('ragstore.schema_version') IS NOT NULL")
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


def apply(url: str, *, wait_s: float = 60.0) -> list[Step]:
    """Run what is pending; returns what was run.

    Crash safety:
        Each step is one transaction together with its version; a killed run goes on where it stopped.
    """
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    engine = create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(url), poolclass=NullPool)
    with _locked(url, wait_s), engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        _prepare(raw)
        todo = pending(raw)
        raw.rollback()
        if todo:
            config = Config()
            config.set_main_option("script_location", str(folder() / "postgres"))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except DBAPIError as error:
                raise error.orig or error from error
            connection.commit()
        _record(raw, steps("postgres"))
        return todo


def _prepare(raw: Any) -> None:
    with raw.cursor() as cursor:
        cursor.execute("SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'")
        vector = cursor.fetchone()
        if vector is None:
            raise StoreSetupError(
                "this PostgreSQL server has no extension 'vector'",
                hint="install pgvector 0.8 or newer on the server, then run 'ragstore migrate apply'",
            )
        if vector[0] is None:
            by = "let a superuser run CREATE EXTENSION vector in this database, then run 'ragstore migrate apply'"
            _execute(cursor, "CREATE EXTENSION IF NOT EXISTS vector", hint=by)
        by = "run 'ragstore migrate apply' with RAGSTORE_POSTGRES_URL of the role that owns the database"
        _execute(cursor, _REGISTRY, hint=by)
    raw.commit()


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


@contextmanager
def _locked(url: str, wait_s: float) -> Iterator[None]:
    """Hold the migration lock.

    Polled: a session that waits inside ``pg_advisory_lock()`` holds a snapshot, for which CREATE INDEX CONCURRENTLY
    of the lock's holder would wait in turn, for ever.
    """
    holder = psycopg2.connect(url)
    try:
        holder.autocommit = True
        deadline = time.monotonic() + wait_s
        with holder.cursor() as cursor:
            while True:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,))
                row = cursor.fetchone()
                if row is not None and row[0]:
                    break
                if time.monotonic() >= deadline:
                    raise StoreUnavailableError(
                        f"another migration held the lock for {wait_s:.0f} s", hint="see 'ragstore migrate status'"
                    )
                time.sleep(_POLL_S)
        yield
    finally:
        holder.close()
