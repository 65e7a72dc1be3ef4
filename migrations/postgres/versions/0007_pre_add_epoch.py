"""Add the epoch and the marks by which a restored store is recognised."""

from ragstore.migrate.versions import run_sql_beside

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_beside(__file__)
