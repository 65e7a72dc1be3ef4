"""Turns what psycopg2 raises into ragstore's errors, decided by SQLSTATE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from ragstore.errors import StoreBusyError, StoreError, StoreFullError, StoreSetupError, StoreUnavailableError

_UNAVAILABLE = ("08", "57P01", "57P02", "57P03", "57P05", "53", "25P03", "57014", "58030", "25006")
_BUSY = ("40", "55P03")  # transaction_rollback: deadlocks and serialisation failures; lock_not_available
_FULL = ("53100",)
_SETUP = ("28", "3D000", "3F000", "42501", "42P01", "42883", "58P01")

# libpq reports a refused connection without an SQLSTATE: only its text tells a wrong password from a dead host.
_SETUP_TEXTS = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "not permitted to log in",
)

_UNDEFINED_TABLE = "42P01"
_FOREIGN_KEY = "23503"

_HINT_TABLE = (
    "the vectors of a collection are gone; if it was not dropped, 'ragstore repair' brings them back from MongoDB"
)
_HINT_DROPPED = "run the same command again to make it anew; a program must open the new one"
_HINT_STATUS = "see 'ragstore status'; nothing is lost, run the same command again when PostgreSQL answers"
_HINT_BUSY = "nothing is lost: run the same command again; 'ragstore status' shows that both databases answer"
_HINT_SETUP = "check RAGSTORE_POSTGRES_URL with 'ragstore status --settings', then run 'ragstore migrate apply'"


def translated(error: psycopg2.Error) -> StoreError:
    """The StoreError that says who may retry; ``facts`` has the SQLSTATE."""
    state = error.pgcode or ""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    message = f"PostgreSQL: {text}"
    if state.startswith(_FULL):
        return StoreFullError(message, hint="free disk space on the PostgreSQL server, then run the same again")
    if state == _FOREIGN_KEY and (error.diag.constraint_name or "").endswith("_collection_id_fkey"):
        return StoreError("the collection is gone: it was dropped meanwhile", hint=_HINT_DROPPED, sqlstate=state)
    if state.startswith(_SETUP) or (not state and _is_setup(error)):
        hint = _HINT_TABLE if state == _UNDEFINED_TABLE and '"ragstore.data_' in text else _HINT_SETUP
        return StoreSetupError(message, hint=hint, sqlstate=state)
    if state.startswith(_BUSY):
        return StoreBusyError(f"another transaction was in the way: {message}", hint=_HINT_BUSY, sqlstate=state)
    if state.startswith(_UNAVAILABLE) or not state:
        return StoreUnavailableError(message, hint=_HINT_STATUS, sqlstate=state)
    return StoreError(message, sqlstate=state)


def _is_setup(error: psycopg2.Error) -> bool:
    """Whether the server, or libpq on reading the URL, refused for good."""
    return isinstance(error, psycopg2.ProgrammingError) or any(known in str(error) for known in _SETUP_TEXTS)


@contextmanager
def translation() -> Iterator[None]:
    """Raise ragstore's errors instead of psycopg2's."""
    try:
        yield
    except psycopg2.Error as error:
        raise translated(error) from error
