"""Guard what the catalog holds: constraints on what becomes SQL, and rights that only add to the audit trail."""

from ragstore.migrate.versions import run_sql_beside

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql_beside(__file__)
