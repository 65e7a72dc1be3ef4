"""What tables need from the role that owns them."""

from __future__ import annotations

from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.vectors import analyze

# Earlier than autovacuum, which looks once a minute and waits for a tenth of a table to change.
CHANGED_MUCH = """
SELECT s.relname FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
WHERE s.schemaname = 'ragstore' AND s.n_mod_since_analyze > greatest(1000, 0.05 * c.reltuples)
    AND pg_has_role(c.relowner, 'USAGE') ORDER BY 1
"""

OWNER_OF_OTHERS = """
SELECT pg_get_userbyid(relowner) FROM pg_class
WHERE oid = 'ragstore.document'::regclass AND NOT pg_has_role(relowner, 'USAGE')
"""


def refresh_changed(pool: PostgresPool) -> list[str]:
    """Tell the planner about tables of ours that changed much; returns their names."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(CHANGED_MUCH)
        names = [row[0] for row in cursor.fetchall()]
        for name in names:
            cursor.execute(analyze(f'ragstore."{name}"'))
    return names


def other_owner(pool: PostgresPool) -> str | None:
    """The role that owns the tables, None where it is this one or one that this one belongs to."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(OWNER_OF_OTHERS)
        row = cursor.fetchone()
        return str(row[0]) if row else None
