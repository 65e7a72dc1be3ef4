"""Tables of segments in place of HNSW indexes."""

from ragstore.migrate.versions import run_sql_beside

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_beside(__file__)
