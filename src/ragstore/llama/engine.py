"""A SQLAlchemy engine that lends its connections from ragstore's pool, so that a process has one pool."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from ragstore.postgres.pool import Connection, PostgresPool


def engine_on(pool: PostgresPool) -> Engine:
    """An engine for code that reaches below PGVectorStore's methods; it opens nothing until it is used."""

    class Lent(NullPool):
        """Connections go back to where they were lent."""

        def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
            entry: Any = record
            connection, entry.dbapi_connection = entry.dbapi_connection, None
            if connection is not None:
                pool.checkin(connection)

    def lend() -> Connection:
        connection = pool.checkout()
        connection.autocommit = False
        return connection

    return create_engine("postgresql+psycopg2://", creator=lend, poolclass=Lent)
