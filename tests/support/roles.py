"""PostgreSQL roles as a deployment has them: one owns the tables, the other reads and writes rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg2

from ragstore.app.migrations import apply_postgres
from tests.support.servers import Servers

# MAINTAIN, which allows ANALYZE, is known from PostgreSQL 17 on.
GRANTS = """
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {app};
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT USAGE ON SCHEMAS TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT, INSERT, UPDATE, DELETE{maintain} ON TABLES TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT USAGE ON SEQUENCES TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT EXECUTE ON FUNCTIONS TO {app};
"""


@dataclass(frozen=True)
class Roles:
    """Two ways into one fresh, migrated database."""

    owner_url: str
    app_url: str
    owner: str
    app: str


@contextmanager
def a_database_with_roles(servers: Servers, *, may_maintain: bool = True) -> Iterator[Roles]:
    """Made by the owner's migrations, removed with both roles at the end.

    Args:
        may_maintain: False gives the application what it has on a PostgreSQL before 17.
    """
    unique = uuid4().hex[:12]
    database, owner, app = f"ragstore_test_{unique}", f"owner_{unique}", f"app_{unique}"
    admin = servers.postgres_url
    _execute(admin, *(f"CREATE ROLE {role} LOGIN PASSWORD '{unique}'" for role in (owner, app)))
    try:
        _execute(admin, f"CREATE DATABASE {database} OWNER {owner}")
        try:
            inside = _url(admin, database)
            maintain = ", MAINTAIN" if may_maintain and _version(admin) >= 170_000 else ""
            _execute(inside, "CREATE EXTENSION vector")
            _execute(inside, GRANTS.format(database=database, owner=owner, app=app, maintain=maintain))
            owner_url, app_url = (_url(admin, database, user=role, password=unique) for role in (owner, app))
            apply_postgres(owner_url)
            yield Roles(owner_url, app_url, owner, app)
        finally:
            _execute(admin, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    finally:
        _execute(admin, f"DROP ROLE {owner}, {app}")


def _url(url: str, database: str, *, user: str | None = None, password: str | None = None) -> str:
    parts = urlsplit(url)
    netloc = f"{user}:{password}@{parts.netloc.rpartition('@')[2]}" if user else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))


def _version(url: str) -> int:
    connection = psycopg2.connect(url)
    try:
        return int(connection.server_version)
    finally:
        connection.close()


def _execute(url: str, *statements: str) -> None:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()
