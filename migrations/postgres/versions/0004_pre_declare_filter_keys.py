"""Declare filter keys, and the type in which vectors are stored."""

from ragstore.migrate.versions import run_sql_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_beside(__file__)
