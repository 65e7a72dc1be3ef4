"""Migrations of PostgreSQL: numbered files of SQL, each run once and recorded in the same transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2

from ragstore.errors import SchemaVersionError, StoreSetupError
from ragstore.migrate.requirements import check_encoding, check_vector, require_available_vector
from ragstore.migrate.versions import Step, head, steps

LOCK_KEY = 0x5241_4753_4D49_4752  # "RAGSMIGR"

EXTENSION = "CREATE EXTENSION IF NOT EXISTS vector"
SCHEMA = "CREATE SCHEMA IF NOT EXISTS ragstore"
REGISTRY = """
CREATE TABLE IF NOT EXISTS ragstore.schema_version (
    version_num varchar(32) NOT NULL,
    CONSTRAINT schema_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE IF NOT EXISTS ragstore.migration (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
LOCK_VERSION = "LOCK TABLE ragstore.schema_version IN SHARE ROW EXCLUSIVE MODE"
"""First statement of a step's transaction: other migrations wait for it, readers of the version do not."""

_NO_TRANSACTION = "-- transaction: none"
_RECORD = "INSERT INTO ragstore.migration (name, checksum) VALUES ('{name}', '{checksum}') ON CONFLICT DO NOTHING"
_MISSING = """
SELECT NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector'), to_regnamespace('ragstore') IS NULL, current_user
"""
# A killed first migration may have left the table ``migration``, which is ours.
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
    """Run the pending steps; returns those that this process ran.

    Args:
        connect: opens a psycopg2 connection, on which the schema may have another name than in our SQL.
        schema: that name, for messages.

    Raises:
        StoreSetupError: the server or the database cannot be used, or the role lacks a right.

    Crash safety:
        Each step is one transaction together with its version and checksum; a killed run goes on where it stopped. A
        step without a transaction is recorded after all of its statements; if it was killed before, they are all run
        again. A step that another process has completed is skipped.
    """
    with closing(connect()) as connection:
        _prepare(connection, schema)
        todo = pending(connection)
        with connection.cursor() as cursor:
            # Earlier versions of ragstore recorded a checksum after the commit, and may have been killed in between.
            for step in steps("postgres"):
                if step not in todo:
                    cursor.execute(_recorded(step))
        connection.commit()
        return [step for step in todo if _run(connection, step)]


def _run(connection: Any, step: Step) -> bool:
    """Run a step; False if another process has done it."""
    if not is_transaction(step):
        if _is_done(connection, step):
            return False
        connection.rollback()
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in _statements(step):
                cursor.execute(statement)
        connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute(LOCK_VERSION)
        if _is_done(connection, step):
            connection.rollback()
            return False
        if is_transaction(step):
            cursor.execute(sql_of(step))
        cursor.execute(recording(step, before=current(connection)))
    connection.commit()
    return True


def is_transaction(step: Step) -> bool:
    """Whether a step is one transaction; otherwise each statement is one, as CREATE INDEX CONCURRENTLY needs."""
    return _NO_TRANSACTION not in step.path.read_text(encoding="utf-8")


def sql_of(step: Step) -> str:
    """The SQL of a step, without CREATE SCHEMA."""
    # The schema exists by now, and a role without the right to create one would be refused in spite of IF NOT EXISTS.
    return step.path.read_text(encoding="utf-8").replace(f"{SCHEMA};", "")


def recording(step: Step, *, before: str | None) -> str:
    """The statements that end a step: its version and its checksum."""
    if before is None:
        moved = f"INSERT INTO ragstore.schema_version (version_num) VALUES ('{step.version}')"
    else:
        moved = f"UPDATE ragstore.schema_version SET version_num = '{step.version}'"
    return f"{moved};\n{_recorded(step)}"


def _recorded(step: Step) -> str:
    return _RECORD.format(name=step.name, checksum=step.checksum)


def _is_done(connection: Any, step: Step) -> bool:
    version = current(connection)
    return version is not None and version >= step.version


def _statements(step: Step) -> list[str]:
    """Statements of a step without a transaction: each ends with ``;`` at the end of a line; comments above are cut."""
    parts = re.split(r";[ \t]*(?:\n|$)", sql_of(step))
    statements = [re.sub(r"\A(?:\s*--[^\n]*(?:\n|$))*\s*", "", part) for part in parts]
    return [statement for statement in statements if statement]


@dataclass(frozen=True, slots=True)
class Missing:
    """Parts that a database does not have yet, and the role that looked."""

    extension: bool
    schema: bool
    role: str


def missing(connection: Any, *, schema: str) -> Missing:
    """Find what must be created before the first step; changes nothing.

    Raises:
        StoreSetupError: the server or the database cannot be used, or the schema is another program's.
    """
    check_encoding(connection)
    with connection.cursor() as cursor:
        require_available_vector(cursor)
        _check_schema(cursor, schema)
        cursor.execute(_MISSING)
        return Missing(*cursor.fetchone())


def _prepare(connection: Any, schema: str) -> None:
    found = missing(connection, schema=schema)
    with connection.cursor() as cursor:
        if found.extension:
            by = "let a superuser run CREATE EXTENSION vector in this database, then run 'ragstore migrate apply'"
            _execute(cursor, EXTENSION, hint=by)
        if found.schema:
            # Skipped if it exists: IF NOT EXISTS does not help a role without the right to create schemas.
            by = (
                f'let the database\'s owner run CREATE SCHEMA {schema} AUTHORIZATION "{found.role}", or run '
                "'ragstore migrate apply' with RAGSTORE_POSTGRES_URL of that owner"
            )
            _execute(cursor, SCHEMA, hint=by)
        by = (
            f'let the owner of the schema run GRANT USAGE, CREATE ON SCHEMA {schema} TO "{found.role}", or run this as '
            "that role"
        )
        _execute(cursor, REGISTRY, hint=by)
    connection.commit()
    check_vector(connection)
    connection.commit()


def _check_schema(cursor: Any, schema: str) -> None:
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


def _execute(cursor: Any, statement: str, *, hint: str) -> None:
    """Run a statement for which the role may have no right; the hint names who has it."""
    try:
        cursor.execute(statement)
    except psycopg2.errors.InsufficientPrivilege as error:
        raise StoreSetupError(f"PostgreSQL: {str(error).strip().splitlines()[0]}", hint=hint) from error


def _checksums(connection: Any) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, checksum FROM ragstore.migration")
        return dict(cursor.fetchall())
