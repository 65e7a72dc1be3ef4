"""Triplet graph of a collection: plain (subject, relation, object) rows."""

from __future__ import annotations

from collections.abc import Sequence

from ragstore.model.collection import Collection
from ragstore.postgres.graph import LOCK_GRAPH, LOCK_SPACE
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.run import fetch, fetch_ids

Triplet = tuple[str, str, str]

PUT = (
    LOCK_GRAPH
    + """
INSERT INTO ragstore.triplet (collection_id, subject, relation, object)
SELECT %(collection_id)s, subject, relation, object
FROM unnest(%(subject)s::text[], %(relation)s::text[], %(object)s::text[])
    WITH ORDINALITY AS new (subject, relation, object, position)
ORDER BY position
ON CONFLICT DO NOTHING
"""
)

DELETE = """
DELETE FROM ragstore.triplet WHERE collection_id = %(collection_id)s
    AND (subject, relation, object) = (%(subject)s, %(relation)s, %(object)s)
"""

GET = """
SELECT relation, object FROM ragstore.triplet
WHERE collection_id = %(collection_id)s AND subject = %(subject)s ORDER BY triplet_id
"""

SUBJECTS = """
SELECT subject FROM ragstore.triplet WHERE collection_id = %(collection_id)s
GROUP BY subject ORDER BY min(triplet_id) LIMIT %(limit)s
"""

RELATIONS = """
SELECT DISTINCT relation FROM ragstore.triplet WHERE collection_id = %(collection_id)s ORDER BY relation
"""

# The first triplets (at most ``limit``) of every subject that can be reached in fewer than ``depth`` steps.
NEAR = """
WITH RECURSIVE reached (subject, depth) AS (
    SELECT unnest(%(subjects)s::text[]), 1
    UNION
    SELECT next.object, r.depth + 1 FROM reached r CROSS JOIN LATERAL (
        SELECT object FROM ragstore.triplet
        WHERE collection_id = %(collection_id)s AND subject = r.subject ORDER BY triplet_id LIMIT %(limit)s
    ) AS next WHERE r.depth < %(depth)s
)
SELECT r.subject, t.relation, t.object FROM (SELECT DISTINCT subject FROM reached) AS r CROSS JOIN LATERAL (
    SELECT relation, object, triplet_id FROM ragstore.triplet
    WHERE collection_id = %(collection_id)s AND subject = r.subject ORDER BY triplet_id LIMIT %(limit)s
) AS t ORDER BY t.triplet_id
"""


def put_triplets(pool: PostgresPool, collection: Collection, triplets: Sequence[Triplet]) -> None:
    """Add triplets; an existing one keeps its position in the order.

    Crash safety:
        One transaction.
    """
    columns = {name: [t[i] for t in triplets] for i, name in enumerate(("subject", "relation", "object"))}
    fetch(pool, PUT, collection, space=LOCK_SPACE, **columns)


def delete_triplet(pool: PostgresPool, collection: Collection, triplet: Triplet) -> None:
    """Delete a triplet, if it exists.

    Crash safety:
        One transaction.
    """
    subject, relation, object_ = triplet
    fetch(pool, DELETE, collection, subject=subject, relation=relation, object=object_)


def triplets_of(pool: PostgresPool, collection: Collection, subject: str) -> list[tuple[str, str]]:
    """(relation, object) of a subject, oldest first."""
    return [(relation, object_) for relation, object_ in fetch(pool, GET, collection, subject=subject)]


def subjects(pool: PostgresPool, collection: Collection, *, limit: int) -> list[str]:
    """The first ``limit`` subjects, oldest first."""
    return fetch_ids(pool, SUBJECTS, collection, limit=limit)


def relations(pool: PostgresPool, collection: Collection) -> list[str]:
    return fetch_ids(pool, RELATIONS, collection)


def triplets_near(
    pool: PostgresPool, collection: Collection, subjects: Sequence[str], *, depth: int, limit: int
) -> dict[str, list[tuple[str, str]]]:
    """(relation, object) of each subject that is reached from these subjects, oldest first.

    Args:
        depth: steps, at least 1, which means only these subjects.
        limit: most triplets of each subject.
    """
    near: dict[str, list[tuple[str, str]]] = {}
    for subject, *rest in fetch(pool, NEAR, collection, subjects=list(subjects), depth=depth, limit=limit):
        near.setdefault(subject, []).append((rest[0], rest[1]))
    return near
