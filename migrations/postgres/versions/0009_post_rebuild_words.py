"""Rebuild the keywords of every collection."""

from ragstore.migrate.versions import run_sql_beside

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_beside(__file__)
