"""Connections to PostgreSQL with the session settings that ragstore's SQL needs.

A transaction pooler such as PgBouncer lends each transaction another session of the server, and refuses ``options`` in
the start-up message. So a connection starts with the encoding only, which poolers know. A direct connection is then set
up once for its whole life. Behind a pooler each transaction begins with the same settings, which end with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from typing import Any, TypeVar

import orjson
import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from ragstore.errors import StoreSetupError

SETTINGS = {
    # NULL in arrays that are sent as text; otherwise it would be read as a word.
    "array_nulls": "on",
    # Locks and repeated reads in the protocol rely on each statement seeing everything committed before it.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # Numbers and times are read from text.
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "intervalstyle": "postgres",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    # Otherwise a search may miss matching rows.
    "gin_fuzzy_search_limit": "0",
    "row_security": "on",
}
"""Settings that also the URL cannot change: with other values answers would be wrong."""

_DEFAULTS = {
    "fallback_application_name": "ragstore",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    # Keepalives are not sent while data is on its way; without this a lost network is noticed after 15 minutes.
    "tcp_user_timeout": "30000",
}

# One round trip. `is_pooled`: another session answers than the one that the connection was opened with.
_SET_UP = """
WITH server AS MATERIALIZED (
    SELECT pg_backend_pid() <> %(pid)s AS is_pooled,
        (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector') AS vector_schema,
        extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval) * 1000 AS idle_ms
), wanted AS MATERIALIZED (
    SELECT key AS name, value FROM jsonb_each_text(%(settings)s::jsonb), server
        WHERE is_pooled OR current_setting(key) <> value
    UNION ALL SELECT 'synchronous_commit', 'on' WHERE current_setting('synchronous_commit') = 'off'
    UNION ALL SELECT 'idle_in_transaction_session_timeout', %(idle_ms)s FROM server
        WHERE %(idle_ms)s IS NOT NULL AND (idle_ms = 0 OR idle_ms > %(idle_ms)s::numeric)
    UNION ALL SELECT 'search_path',
        concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(vector_schema)) FROM server
        WHERE vector_schema <> ALL (current_schemas(true))
)
SELECT is_pooled, ARRAY(SELECT ARRAY[name, set_config(name, value, is_pooled)] FROM wanted) FROM server
"""

# PostgreSQL runs these outside of transactions only, so they cannot follow settings in one message.
_ALONE = re.compile(
    r"\s*(?:(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+CONCURRENTLY|REINDEX\b[^;]*\bCONCURRENTLY|VACUUM)\b",
    re.IGNORECASE,
)


SCHEMA = "ragstore"
"""The schema's name in all SQL of ragstore; on a connection it may have another name."""

_OF_SCHEMA = re.compile(r"(?<![\w.-])ragstore(?=\.)")
_NAME_OF_SCHEMA = re.compile(r"(?<=')ragstore(?=')|(?<=\")ragstore(?=\")")
_SCHEMA_ITSELF = re.compile(r"\b(SCHEMA\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?)ragstore\b", re.IGNORECASE)
_RESET = "RESET "
_NAMED_TABLE = "table"
"""The parameter with the name of a table of ragstore, for statements that look it up in the catalog."""


class SessionCursor(psycopg2.extensions.cursor):
    """Cursor that replaces the schema's name in each statement, and begins pooled transactions with their settings."""

    def execute(self, query: str | bytes | sql.Composable, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name
        """As psycopg2's."""
        schema: str = getattr(self.connection, "schema", SCHEMA)
        # Composed statements name tables of other programs.
        if schema != SCHEMA and not isinstance(query, sql.Composable):
            query = in_schema(schema, _text(query, self))
            vars = _values_in_schema(schema, query, vars)  # noqa: A001
        if isinstance(query, str) and query.startswith(_RESET):
            query = self._set_back(query.removeprefix(_RESET))
        super().execute(self._opened(query, has_values=vars is not None), vars)

    def _set_back(self, name: str) -> str:
        """PostgreSQL's own RESET goes back to before the connection was set up."""
        given: dict[str, str] = getattr(self.connection, "given", {})
        return f"SET {name} = {_value(name, given[name])}" if name in given else f"{_RESET}{name}"

    def copy_expert(self, sql: str | bytes | sql.Composable, file: Any, size: int = 8192) -> None:
        """As psycopg2's."""
        if self._begins():
            super().execute(self._opening())
        schema: str = getattr(self.connection, "schema", SCHEMA)
        super().copy_expert(sql if schema == SCHEMA else in_schema(schema, _text(sql, self)), file, size)

    def _opening(self) -> str:
        opening: str = getattr(self.connection, "opening", "")
        return opening

    def _begins(self) -> bool:
        """Whether the next message begins a transaction that has to be set up."""
        idle = psycopg2.extensions.TRANSACTION_STATUS_IDLE
        return bool(self._opening()) and self.connection.get_transaction_status() == idle

    def _opened(self, query: str | bytes | sql.Composable, *, has_values: bool) -> str | bytes | sql.Composable:
        if not self._begins():
            return query
        text = _text(query, self)
        if _ALONE.match(text):
            return text
        opening = self._opening()
        return (opening.replace("%", "%%") if has_values else opening) + text


class Session(psycopg2.extensions.connection):
    """Connection that works the same with a pooler and without.

    ``is_pooled``: there is a pooler, so that session state does not outlive a transaction.
    ``opening``: settings at the beginning of each transaction, empty without a pooler.
    ``schema``: the name of ragstore's schema on this connection.
    ``given``: settings of the set-up, without a pooler; ``RESET`` goes back to them.
    ``path_extended``: the extension's schema is not on the role's own search path.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.is_pooled = False
        self.opening = ""
        self.path_extended = False
        self.given: dict[str, str] = {}
        self.schema = SCHEMA
        self.cursor_factory = SessionCursor

    def outside(self, statement: str, **settings: str) -> None:
        """Run a statement that PostgreSQL refuses in a transaction, as ``CREATE INDEX CONCURRENTLY``; needs autocommit.

        Args:
            settings: for this statement only; behind a pooler they are ignored and the role's own apply.
        """
        with self.cursor() as cursor:
            if self.is_pooled:
                cursor.execute(statement)
                return
            for name, value in settings.items():
                cursor.execute(f"SET {name} = %s", (value,))
            try:
                cursor.execute(statement)
            finally:
                for name in settings if not self.closed else ():
                    cursor.execute(f"RESET {name}")

    def set_up(self, settings: dict[str, str], *, idle_ms: str | None) -> None:
        """Apply these settings, and add the extension's schema to the search path."""
        values = {"pid": self.info.backend_pid, "settings": orjson.dumps(settings).decode(), "idle_ms": idle_ms}
        self.autocommit = True
        with self.cursor() as cursor:
            cursor.execute(_SET_UP, values)
            row = cursor.fetchone()
        assert row is not None
        self.is_pooled, given = row
        self.path_extended = any(name == "search_path" for name, _ in given)
        self.given = {} if self.is_pooled else dict(given)
        if self.is_pooled:
            set_local = "; ".join(f"SET LOCAL {name} = {_value(name, value)}" for name, value in given)
            self.opening = f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {set_local}; "


S = TypeVar("S", bound=Session)


def parameters(url: str, *, connect_timeout_s: int) -> str:
    """Connection string of the URL, with ragstore's defaults for what neither URL, service nor environment set."""
    said = dict(psycopg2.extensions.parse_dsn(url))
    defaults = _DEFAULTS | {"connect_timeout": str(connect_timeout_s)}
    if "PGCONNECT_TIMEOUT" in os.environ:
        del defaults["connect_timeout"]
    of_service = _service(said)
    defaults = {name: value for name, value in defaults.items() if name not in of_service}
    # COPY sends UTF-8 whatever the session's encoding is.
    return psycopg2.extensions.make_dsn(**(defaults | said | {"client_encoding": "UTF8"}))


def named_options(url: str) -> str:
    """Session options of the URL, or else of its service or of PGOPTIONS."""
    said: dict[str, str] = psycopg2.extensions.parse_dsn(url)
    return said.get("options") or _service(said).get("options") or os.environ.get("PGOPTIONS", "")


def _service(said: Mapping[str, str]) -> Mapping[str, str]:
    """Settings of the service that the URL or PGSERVICE names; libpq itself reports a missing one."""
    name = said.get("service") or os.environ.get("PGSERVICE")
    if not name:
        return {}
    own = os.environ.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")
    found = ConfigParser(interpolation=None, delimiters="=", strict=False)
    for path in (own, os.path.join(os.environ.get("PGSYSCONFDIR", "/etc/postgresql-common"), "pg_service.conf")):
        found.read(path)
        if found.has_section(name):
            return dict(found[name])
    return {}


def names(options: str, setting: str) -> bool:
    """Whether these options contain a value for a setting."""
    return re.search(rf"(?:-c\s*|--){setting.replace('_', '[_-]')}\s*=", options, re.IGNORECASE) is not None


def connect(url: str, *, factory: type[S], connect_timeout_s: int) -> S:
    """Open a connection, which must be set up afterwards.

    Raises:
        psycopg2.Error
        StoreSetupError: there is a pooler, and backslashes in strings would be misread.
    """
    wanted = parameters(url, connect_timeout_s=connect_timeout_s)
    made = psycopg2.connect(wanted, connection_factory=factory)
    if made.info.parameter_status("standard_conforming_strings") == "off":
        made = _with_standard_strings(made, wanted, named_options(url), factory)
    return made


def set_up(
    made: Session, url: str, *, idle_in_transaction_s: float, statement_timeout_s: float, schema: str = SCHEMA
) -> None:
    """Apply the settings that ragstore relies on; afterwards the connection is in autocommit mode.

    Args:
        url: of the connection; its options have priority.
        idle_in_transaction_s: longest idle time of a transaction, if the server has no shorter limit.
        statement_timeout_s: longest time of a statement; 0 for the server's limit.
        schema: the name of ragstore's schema in that database.

    Raises:
        psycopg2.Error
    """
    options = named_options(url)
    made.schema = schema
    settings = dict(SETTINGS)
    if statement_timeout_s and not names(options, "statement_timeout"):
        settings["statement_timeout"] = str(round(statement_timeout_s * 1000))
    is_said = names(options, "idle_in_transaction_session_timeout")
    made.set_up(settings, idle_ms=None if is_said else str(round(idle_in_transaction_s * 1000)))


def _with_standard_strings(made: S, wanted: str, options: str, factory: type[S]) -> S:
    """Connect again with standard strings: the driver reads this setting only once, when it connects.

    Raises:
        StoreSetupError: a pooler does not pass the setting on.
    """
    made.close()
    joined = f"{options} -c standard_conforming_strings=on".strip()
    refused = StoreSetupError(
        "standard_conforming_strings is off for this role and database, and a pooler does not let it be switched on",
        hint="run ALTER DATABASE … SET standard_conforming_strings = on, or ALTER ROLE …, and reconnect the pooler",
    )
    try:
        again = psycopg2.connect(wanted, connection_factory=factory, options=joined)
    except psycopg2.OperationalError as error:
        if "startup parameter" in str(error):
            raise refused from error
        raise
    if again.info.parameter_status("standard_conforming_strings") == "off":
        again.close()
        raise refused
    return again


def in_schema(schema: str, statement: str) -> str:
    """A statement of ragstore, without values, for a schema of another name."""
    quoted = _OF_SCHEMA.sub(f'"{schema}"', statement)
    return _SCHEMA_ITSELF.sub(rf'\g<1>"{schema}"', _NAME_OF_SCHEMA.sub(schema, quoted))


def _values_in_schema(schema: str, statement: str, values: Any) -> Any:
    """Values with the schema replaced in those that are names of ragstore's tables."""
    if isinstance(values, Mapping) and isinstance(values.get(_NAMED_TABLE), str):
        return {**values, _NAMED_TABLE: _OF_SCHEMA.sub(f'"{schema}"', values[_NAMED_TABLE], count=1)}
    if "to_regclass(%s)" in statement and isinstance(values, Sequence):
        return [_OF_SCHEMA.sub(f'"{schema}"', each, count=1) if isinstance(each, str) else each for each in values]
    return values


def _text(query: str | bytes | sql.Composable, cursor: psycopg2.extensions.cursor) -> str:
    text = query.as_string(cursor) if isinstance(query, sql.Composable) else query
    return text.decode() if isinstance(text, bytes) else text


def _value(name: str, value: str) -> str:
    # A search path is a list of names, quoted where they must be.
    return value if name == "search_path" else "'" + value.replace("'", "''") + "'"
