"""Figures of the ledger, for programs that watch from outside."""

from __future__ import annotations

from dataclasses import dataclass

from ragstore.model.collection import Found
from ragstore.postgres.collections import nodes_without_document, to_found
from ragstore.postgres.pool import PostgresPool

GAUGES = """
SELECT totals.*, c.name, c.n_documents, c.n_nodes, c.n_quarantined, c.n_segments, c.found
FROM (
    SELECT (SELECT count(*) FROM ragstore.outbox),
           (SELECT coalesce(extract(epoch FROM now() - min(not_before)), 0)::float8 FROM ragstore.outbox
            WHERE not_before <= now()),
           (SELECT count(*) FROM ragstore.run),
           (SELECT count(*) FROM ragstore.run WHERE lease_until < now())
) AS totals (n_outbox, oldest_due_s, n_runs, n_runs_expired)
LEFT JOIN (
    SELECT name, coalesce(d.n, 0) AS n_documents, coalesce(d.n_nodes, 0)::bigint AS n_nodes,
           coalesce(q.n, 0) AS n_quarantined, jsonb_array_length(segments) AS n_segments,
           effort->'found' AS found
    FROM ragstore.collection
    LEFT JOIN (SELECT collection_id, count(*) AS n, sum(n_nodes) AS n_nodes FROM ragstore.document
               WHERE deleted_at IS NULL AND revision > 0 GROUP BY 1) AS d USING (collection_id)
    LEFT JOIN (SELECT collection_id, count(*) AS n FROM ragstore.quarantine GROUP BY 1) AS q USING (collection_id)
) AS c ON true ORDER BY c.name
"""

_MISSING_TABLES = """
SELECT name FROM ragstore.collection WHERE to_regclass(format('ragstore.%I', 'data_' || name)) IS NULL ORDER BY name
"""


@dataclass(frozen=True, slots=True)
class CollectionGauges:
    """What is live in one collection, what was set aside, and how well its vectors are found.

    Args:
        found: what searches found when it was measured; None where it was not.
    """

    name: str
    n_documents: int
    n_nodes: int
    n_quarantined: int
    n_segments: int
    found: Found | None


@dataclass(frozen=True, slots=True)
class LedgerGauges:
    """The ledger at one moment.

    Args:
        oldest_due_s: since when MongoDB waits for something that is due, 0 where nothing is.
        n_runs_expired: runs whose lease ran out and that nobody has recovered yet.
    """

    n_outbox: int
    oldest_due_s: float
    n_runs: int
    n_runs_expired: int
    collections: list[CollectionGauges]


def read_gauges(pool: PostgresPool) -> LedgerGauges:
    """All of it, as one snapshot but for nodes without a document, which are counted after it.

    Raises:
        StoreError
    """
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(GAUGES)
        rows = cursor.fetchall()
    n_outbox, oldest_due_s, n_runs, n_runs_expired = rows[0][:4]
    more = nodes_without_document(pool)
    each = [
        CollectionGauges(name, n_documents, n_nodes + more.get(name, 0), n_quarantined, n_segments, to_found(found))
        for name, n_documents, n_nodes, n_quarantined, n_segments, found in (
            row[4:] for row in rows if row[4] is not None
        )
    ]
    return LedgerGauges(n_outbox, oldest_due_s, n_runs, n_runs_expired, each)


def missing_tables(pool: PostgresPool) -> list[str]:
    """Names of collections whose vector table is not there."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(_MISSING_TABLES)
        return [row[0] for row in cursor.fetchall()]


def ping(pool: PostgresPool) -> None:
    """Raises StoreError where PostgreSQL does not answer."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
