"""Vectors in PostgreSQL: decode, reuse, limits of what can be stored, and table statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ragstore.errors import InvalidNodeError
from ragstore.model.collection import Collection
from ragstore.model.run import Vectors
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import PostgresPool

MAX_INDEXED_DIM = 4_000
"""Most float16 numbers that fit into a page of PostgreSQL, as a segment's vectors must."""

SHORTEST, LONGEST = 1e-18, 1e18
"""Lengths of vectors that pgvector can compare: in its sums of squares, float32, others become 0 or infinite."""

_SMALLEST, _LARGEST = 1e-4, 65_504.0
"""Limits of a vector's largest value: float16 has no larger number, and smaller ones have few digits or none."""

_BULK_SHARE = 0.1
"""Share of a table's rows; the same as autovacuum's."""

# reltuples is -1 if the table was never analysed.
_IS_BULK = "SELECT %(n)s > %(share)s * reltuples FROM pg_class WHERE oid = %(table)s::regclass"
_REUSABLE = """
SELECT DISTINCT ON (chunk_hash) chunk_hash, vector_send(embedding::vector) FROM {table}
WHERE chunk_hash = ANY(%(hashes)s) ORDER BY chunk_hash
"""

# Earlier than autovacuum, which checks once a minute and waits until a tenth of a table has changed.
CHANGED_MUCH = """
SELECT s.relname FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
WHERE s.schemaname = 'ragstore' AND s.n_mod_since_analyze > greatest(1000, 0.05 * c.reltuples)
    AND pg_has_role(c.relowner, 'USAGE') ORDER BY 1
"""

OWNER_OF_OTHERS = """
SELECT pg_get_userbyid(relowner) FROM pg_class
WHERE oid = 'ragstore.document'::regclass AND NOT pg_has_role(relowner, 'USAGE')
"""


def decoded_vector(sent: bytes | memoryview) -> Vectors:
    """The vector, shape ``(dim,)``, that ``vector_send`` returned: two int16 (dim, unused), then big-endian float32."""
    return np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)


def reusable_vectors(pool: PostgresPool, collection: Collection, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
    """Vectors of live nodes with the same text, by chunk hash; shape ``(dim,)`` each."""
    if not hashes:
        return {}
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(_REUSABLE.format(table=quoted_table(collection)), {"hashes": list(set(hashes))})
        return {bytes(chunk_hash): decoded_vector(sent) for chunk_hash, sent in cursor.fetchall()}


def refresh_statistics(pool: PostgresPool, collection: Collection, *, n_changed: int | None = None) -> None:
    """Update the planner's statistics after many new rows, because autovacuum would be a minute late.

    If this role has no right to, PostgreSQL skips the table with a warning that is not shown.

    Args:
        n_changed: new rows; if they are few compared with the table, this is left to autovacuum, because ANALYZE reads
            as much of the table for one new row as for many.
    """
    with pool.autocommit() as connection, connection.cursor() as cursor:
        if n_changed is not None:
            cursor.execute(_IS_BULK, {"table": quoted_table(collection), "n": n_changed, "share": _BULK_SHARE})
            row = cursor.fetchone()
            if not (row and row[0]):
                return
        cursor.execute(analyze(quoted_table(collection)))


def analyze(table: str) -> str:
    """Statement that updates a table's statistics, unless an index build or VACUUM has locked the table.

    An ANALYZE that waits for its lock holds a snapshot, for which a concurrent build in turn waits: a deadlock.
    """
    return f"ANALYZE (SKIP_LOCKED) {table}"


def refresh_changed(pool: PostgresPool) -> list[str]:
    """Update the statistics of ragstore's tables that changed much; returns their names."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(CHANGED_MUCH)
        names = [row[0] for row in cursor.fetchall()]
        for name in names:
            cursor.execute(analyze(f'ragstore."{name}"'))
    return names


def other_owner(pool: PostgresPool) -> str | None:
    """The role that owns the tables; None if this role owns them or is a member of the owner."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(OWNER_OF_OTHERS)
        row = cursor.fetchone()
        return str(row[0]) if row else None


def as_stored(collection: Collection, vectors: Vectors) -> Vectors:
    """Vectors as they will be read back: with fewer digits if they are stored as float16."""
    return vectors.astype(np.float16).astype(np.float32) if collection.vector_type == "halfvec" else vectors


def unholdable(collection: Collection, vectors: Vectors) -> int | None:
    """Position of the first of these vectors, shape ``(n_nodes, dim)``, that the collection cannot hold.

    Its length must be SHORTEST to LONGEST, or, if vectors are stored as float16, its largest value 0.0001 to 65,504.
    A zero vector is allowed.
    """
    if not len(vectors):
        return None
    if collection.vector_type == "vector":
        measure, least, most = lengths(vectors), SHORTEST, LONGEST
    else:
        measure, least, most = np.abs(vectors).max(axis=1), _SMALLEST, _LARGEST
    fits = (measure == 0) | ((measure >= least) & (measure <= most))
    return None if fits.all() else int(np.argmin(fits))


def lengths(vectors: Vectors) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Length of each of these vectors, without overflow; shape ``(n,)``."""
    found: np.ndarray[Any, np.dtype[np.float64]] = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return found


def cannot_hold(collection: Collection, owner: str, **facts: str) -> InvalidNodeError:
    """The error for an ``unholdable`` vector; ``owner`` says whose it is."""
    form = "float32, in which they are compared: its length must be 1e-18 to 1e18"
    if collection.vector_type == "halfvec":
        form = f"float16, in which collection {collection.name!r} stores them"
    return InvalidNodeError(
        f"the vector of {owner} has values too large, or all too small, for {form}",
        hint="bring the vectors to length 1: that changes no cosine",
        **facts,
    )
