"""Translation of psycopg2's errors into ragstore's, by SQLSTATE, or by libpq's text if there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from ragstore.errors import (
    MissingTableError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreFullError,
    StoreSetupError,
    StoreUnavailableError,
)

_FOREIGN_KEY = "23503"

_CHECK = "check RAGSTORE_POSTGRES_URL with 'ragstore status --settings'"
_HINT_STATUS = "see 'ragstore status'; nothing is lost, run the same command again when PostgreSQL answers"
_HINT_SETUP = f"{_CHECK}, then run 'ragstore migrate apply'"
_HINT_TABLE = (
    "the vectors of a collection are gone; if it was not dropped, 'ragstore repair' brings them back from MongoDB"
)
_HINT_DROPPED = "run the same command again to make it anew; a program must open the new one"
_HINT_FULL = (
    "all connections of the server, of the role or of a pooler are in use: lower RAGSTORE_POOL_SIZE or stop other "
    "programs, or raise max_connections, the role's CONNECTION LIMIT or the pooler's max_client_conn"
)
_HINT_STARTING = "PostgreSQL starts or recovers: run the same command again in some seconds"
_HINT_TLS = f"correct sslmode and the certificates in the URL, or the server's TLS: {_CHECK}"
_HINT_NO_TLS = (
    "the server takes no connection without TLS here: add sslmode=require to RAGSTORE_POSTGRES_URL, or a line for this "
    "host, user and database to its pg_hba.conf"
)
_HINT_OPTIONS = (
    "a pooler takes no options at the start: leave them out of RAGSTORE_POSTGRES_URL and PGOPTIONS and use "
    "ALTER ROLE … SET, or set ignore_startup_parameters of PgBouncer"
)
_HINT_READ_ONLY = (
    "name the primary in RAGSTORE_POSTGRES_URL, or several hosts with target_session_attrs=read-write; on a primary, "
    "see default_transaction_read_only of its database and of the role"
)
_HINT_RIGHTS = (
    "let the owner GRANT the role of RAGSTORE_POSTGRES_URL its rights, or run this as the role that owns the schema "
    "and ran 'ragstore migrate apply'"
)
_HINT_VECTOR = (
    "run 'ragstore migrate apply', which says what is missing: the extension, the library, or USAGE on its schema"
)
_HINT_BUSY = "nothing is lost: run the same command again; 'ragstore status' shows that both databases answer"
_HINT_CANCELLED = "raise RAGSTORE_STATEMENT_TIMEOUT_S or the role's statement_timeout, if it was that"

_Kind = type[StoreError]

# libpq reports a refused connection without an SQLSTATE: only its text distinguishes a wrong password from a dead host.
_FULL_TEXTS = (
    "too many clients",
    "too many connections",
    "connection slots are reserved",
    "no more connections allowed",
)
_STARTING_TEXTS = ("the database system is ",)
_TEXTS: tuple[tuple[tuple[str, ...], _Kind, str], ...] = (
    (_FULL_TEXTS, StoreUnavailableError, _HINT_FULL),
    (_STARTING_TEXTS, StoreUnavailableError, _HINT_STARTING),
    (("could not translate host name",), StoreUnavailableError, f"the host in the URL is not known: {_CHECK}"),
    (
        ("session is read-only", "session is not read-only", "in hot standby mode"),
        StoreUnavailableError,
        "none of the hosts in RAGSTORE_POSTGRES_URL is what its target_session_attrs asks for",
    ),
    (("unsupported startup parameter",), StoreSetupError, _HINT_OPTIONS),
    (("no encryption", "SSL off"), StoreSetupError, _HINT_NO_TLS),
    (
        (
            "SSL was required", "certificate", "private key file", "sslmode",
            "does not match host name", "SSL error: tlsv", "SSL error: sslv", "wrong version number",
            "unsupported protocol", "no protocols available", "SSL negotiation",
        ),
        StoreSetupError,
        _HINT_TLS,
    ),
    (
        (
            "authentication failed", "no password supplied", "no pg_hba.conf entry", "pg_hba.conf rejects",
            "not permitted to log in", "no such user", "authentication method", "channel binding", "GSSAPI",
            "permission denied for database", 'role "',
        ),
        StoreSetupError,
        f"{_CHECK}: its user, password and host; and the server's pg_hba.conf and CONNECT right",
    ),
    (
        ("does not exist", "no such database", "not currently accepting connections"),
        StoreSetupError,
        f"{_CHECK}, or make the database with CREATE DATABASE, then run 'ragstore migrate apply'",
    ),
    (
        (
            "invalid ", "unrecognized configuration parameter", "cannot be changed", "permission denied to set",
            "definition of service", "service file",
        ),
        StoreSetupError,
        f"{_CHECK}: what it, or PGOPTIONS, asks for is not known",
    ),
)  # fmt: skip

# The first entry counts that has a prefix of the SQLSTATE.
_STATES: tuple[tuple[tuple[str, ...], _Kind, str], ...] = (
    (("23505",), StoreConflictError, ""),
    (("42P01",), MissingTableError, _HINT_SETUP),
    (("40", "55P03"), StoreBusyError, _HINT_BUSY),  # deadlocks, serialisation failures; a lock not to be had
    (("53100",), StoreFullError, "free disk space on the PostgreSQL server, then run the same again"),
    (("53300",), StoreUnavailableError, _HINT_FULL),
    (("53200",), StoreUnavailableError, "PostgreSQL has no memory left: lower its work_mem or max_connections"),
    (("53400",), StoreSetupError, "raise the limit that it names, for this role or on the server"),
    (("57P03",), StoreUnavailableError, _HINT_STARTING),
    (("57014",), StoreUnavailableError, _HINT_CANCELLED),
    (("25006",), StoreUnavailableError, _HINT_READ_ONLY),
    (("42501",), StoreSetupError, _HINT_RIGHTS),
    (("42704", "42602", "58P01"), StoreSetupError, _HINT_VECTOR),
    (("28", "3D000", "3F000", "42703", "42883", "42P07", "F0"), StoreSetupError, _HINT_SETUP),
    (("08", "57P01", "57P02", "57P05", "53", "25P03", "58030"), StoreUnavailableError, _HINT_STATUS),
)


def translated(error: psycopg2.Error) -> StoreError:
    """The StoreError for a driver's error, with its ``retry``; ``facts`` has the SQLSTATE."""
    state = error.pgcode or ""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if state == _FOREIGN_KEY and (error.diag.constraint_name or "").endswith("_collection_id_fkey"):
        return StoreError("the collection is gone: it was dropped meanwhile", hint=_HINT_DROPPED, sqlstate=state)
    if state:
        kind, hint = _by_state(state)
    else:
        kind, hint, text = _by_text(error)
    if kind is MissingTableError and ".data_" in text:
        hint = _HINT_TABLE
    message = f"PostgreSQL: {text}"
    if kind is StoreBusyError:
        message = f"another transaction was in the way: {message}"
    return kind(message, hint=hint, sqlstate=state)


def is_full(error: psycopg2.Error) -> bool:
    """Whether the server, the role or a pooler has no connection left at present."""
    return any(known in str(error) for known in _FULL_TEXTS)


def is_starting(error: psycopg2.Error) -> bool:
    """Whether the server starts, recovers or stops."""
    return any(known in str(error) for known in _STARTING_TEXTS)


def _by_state(state: str) -> tuple[_Kind, str]:
    return next(((kind, hint) for known, kind, hint in _STATES if state.startswith(known)), (StoreError, ""))


def _by_text(error: psycopg2.Error) -> tuple[_Kind, str, str]:
    """The kind, the hint and the line that decides. Each host has a line; a lasting error goes before a passing one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, psycopg2.ProgrammingError):
        return StoreSetupError, _CHECK, lines[0]  # libpq cannot read the URL
    answers = [(*_by_one_text(line), line) for line in lines]
    known = [answer for answer in answers if answer[1] != _HINT_STATUS]
    lasting = [answer for answer in known if answer[0] is StoreSetupError]
    return next(iter([*lasting, *known]), (StoreUnavailableError, _HINT_STATUS, lines[0]))


def _by_one_text(text: str) -> tuple[_Kind, str]:
    found = ((kind, hint) for known, kind, hint in _TEXTS if any(each in text for each in known))
    return next(found, (StoreUnavailableError, _HINT_STATUS))


@contextmanager
def translation() -> Iterator[None]:
    """Raise ragstore's errors instead of psycopg2's."""
    try:
        yield
    except psycopg2.Error as error:
        raise translated(error) from error
