"""Create the tables of graphs and index structs."""

from ragstore.migrate.versions import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_beside(__file__)
