"""Script of pending PostgreSQL steps that a database administrator reviews and runs with ``psql``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragstore.migrate.postgres import (
    EXTENSION,
    LOCK_VERSION,
    REGISTRY,
    SCHEMA,
    current,
    is_transaction,
    missing,
    recording,
    sql_of,
)
from ragstore.migrate.requirements import check_vector
from ragstore.migrate.versions import Step
from ragstore.telemetry.logging import visible

# Names quoted by PostgreSQL. The owner of the tables must own new objects too.
_OWNER = """
SELECT quote_ident(coalesce((SELECT pg_get_userbyid(relowner) FROM pg_class
    WHERE oid = to_regclass('ragstore.schema_version')), current_user)), current_database()
"""
# Steps name the types of pgvector without its schema.
_SEARCH_PATH = """
DO $ragstore$
BEGIN
    PERFORM set_config('search_path',
        concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), false)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector' AND n.nspname <> ALL (current_schemas(true));
END
$ragstore$;
"""
_EXPECTED = """
DO $ragstore$
DECLARE
    present text := (SELECT max(version_num) FROM ragstore.schema_version);
BEGIN
    IF present IS DISTINCT FROM {literal} THEN
        RAISE EXCEPTION 'the schema is at version %, this step {place}', coalesce(present, 'none')
            USING HINT = 'make the script again: ''ragstore migrate plan --sql''';
    END IF;
END
$ragstore$;
"""


@dataclass(frozen=True, slots=True)
class Session:
    """Properties of the connections on which the program itself would run the steps.

    Args:
        schema: the name of ragstore's schema in the database.
        named: puts that name into a statement of ragstore.
        settings: settings of each session.
    """

    schema: str
    named: Callable[[str], str]
    settings: Mapping[str, str]


def script(connection: Any, session: Session, planned: Sequence[Step]) -> str:
    """The statements that ``apply`` would run in PostgreSQL, as a script for ``psql``; only reads the database.

    Each step checks the version that it follows, so a script that is run twice or too late stops before it changes
    anything.

    Args:
        planned: pending steps; those of MongoDB are only named.

    Raises:
        StoreSetupError: as ``apply``.
    """
    todo = [step for step in planned if step.store == "postgres"]
    by_hand = [step for step in planned if step.store == "mongo"]
    parts = list(_parts(connection, session, todo)) if todo else ["-- PostgreSQL is up to date: nothing is to be run."]
    if by_hand:
        named = [f"--   {step.name}: {step.summary}" for step in by_hand]
        parts.append("\n".join(["-- MongoDB has steps of its own: run 'ragstore migrate apply' for these.", *named]))
    return "\n\n".join(parts) + "\n"


def _parts(connection: Any, session: Session, todo: Sequence[Step]) -> Iterator[str]:
    found = missing(connection, schema=session.schema)
    if not found.extension:
        check_vector(connection)
    version = current(connection)
    with connection.cursor() as cursor:
        cursor.execute(_OWNER)
        owner, database = cursor.fetchone()
    here = f"schema {session.schema} of the database {_one_line(database)}"
    begun = f"is at version {version}" if version else "has no version yet"
    yield "\n".join(
        [
            f"-- Steps {todo[0].version} to {todo[-1].version} for the {here}, which {begun}.",
            "-- Run this file by 'psql -v ON_ERROR_STOP=1 -f FILE', without a transaction pooler, as the role",
            f"-- {_one_line(owner)} or as one that may SET ROLE to it: new objects belong to it.",
            r"\set ON_ERROR_STOP on",
        ]
    )
    yield "\n".join(_settings(session.settings))
    if version is None:
        made = [EXTENSION] * found.extension
        made += [f"{session.named(SCHEMA)} AUTHORIZATION {owner}"] * found.schema
        made += [f"SET ROLE {owner}", session.named(REGISTRY).strip()]
        yield "\n".join(["BEGIN;", *(f"{statement};" for statement in made), "COMMIT;"])
    else:
        yield f"SET ROLE {owner};"
    yield _SEARCH_PATH.strip()
    for before, step in zip([version, *(step.version for step in todo)], todo, strict=False):
        yield session.named("\n".join(_step(step, before)))
    yield "RESET ROLE;"


def _settings(settings: Mapping[str, str]) -> Iterator[str]:
    # Files of steps are UTF-8, and have backslashes in strings.
    for name, value in {"client_encoding": "UTF8", "standard_conforming_strings": "on", **settings}.items():
        yield f"SET {name} = '{value}';"


def _step(step: Step, before: str | None) -> Iterator[str]:
    yield f"-- {step.name}"
    literal, place = ("NULL", "is the first") if before is None else (f"'{before}'", f"follows {before}")
    expected = _EXPECTED.format(literal=literal, place=place).strip()
    begun = f"BEGIN;\n{LOCK_VERSION};\n{expected}"
    sql = sql_of(step).strip()
    ended = sql if sql.endswith(";") else f"{sql}\n;"
    if is_transaction(step):
        yield from (begun, ended)
    else:
        yield from (expected, ended, begun)
    yield f"{recording(step, before=before)};\nCOMMIT;"


def _one_line(name: str) -> str:
    """A name for a comment, in one line."""
    return " ".join(visible(name).split())
