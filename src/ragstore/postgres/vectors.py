"""Vectors: finding those that can be reused, and the index that makes search fast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragstore.errors import StoreError
from ragstore.model.collection import Collection
from ragstore.model.run import Vectors
from ragstore.postgres.collections import set_index_state
from ragstore.postgres.names import quoted_table
from ragstore.postgres.pool import Connection, PostgresPool
from ragstore.telemetry.failpoint import Failpoint, reached

MAX_INDEXED_DIM = 4_000
"""pgvector indexes up to 2,000 dimensions of float32 and up to 4,000 of float16."""

_MAX_FLOAT32_DIM = 2_000
LOCK_SPACE = 0x5241_4753  # "RAGS": of the lock on building an index; keeps ours apart from other programs

_REUSABLE = """
SELECT DISTINCT ON (chunk_hash) chunk_hash, vector_send(embedding) FROM {table}
WHERE chunk_hash = ANY(%(hashes)s) ORDER BY chunk_hash
"""
_IS_WANTED = """
SELECT count(*) >= %(n)s, (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = '{table}'::regclass)
FROM (SELECT 1 FROM {table} LIMIT %(n)s) AS probe
"""
_INDEX_VALID = """
SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'ragstore' AND c.relname = %(name)s
"""


def reusable_vectors(pool: PostgresPool, collection: Collection, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
    """Vectors of live nodes that were embedded from the same text: chunk hash → shape ``(dim,)``."""
    if not hashes:
        return {}
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(_REUSABLE.format(table=quoted_table(collection)), {"hashes": list(set(hashes))})
        return {
            bytes(chunk_hash): np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)
            for chunk_hash, sent in cursor.fetchall()
        }


def refresh_statistics(pool: PostgresPool, collection: Collection) -> None:
    """Tell the planner about a bulk of new rows now; autovacuum would be a minute late.

    Where this role may not, PostgreSQL passes over it with a warning that nobody sees.
    """
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {quoted_table(collection)}")


def index_expression(collection: Collection) -> str:
    """What the HNSW index is on, and what a query must order by to use it."""
    if collection.space.dim <= _MAX_FLOAT32_DIM:
        return "embedding"
    return f"(embedding::halfvec({collection.space.dim}))"


def holdable(collection: Collection, vectors: Vectors) -> NDArray[np.bool_]:
    """Which of these vectors, shape ``(n_nodes, dim)``, the HNSW index can hold.

    Beyond 2,000 dimensions it is of float16, which has no values above 65,504, and none but 0 below 0.00000003.
    """
    if not _MAX_FLOAT32_DIM < collection.space.dim <= MAX_INDEXED_DIM:
        return np.ones(len(vectors), dtype=np.bool_)
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    has_vanished = ~halves.any(axis=1) & vectors.any(axis=1)
    return np.asarray(np.isfinite(halves).all(axis=1) & ~has_vanished, dtype=np.bool_)


def ensure_index(pool: PostgresPool, collection: Collection, *, min_nodes: int) -> bool:
    """Build the collection's HNSW index once it has ``min_nodes``; returns whether queries can use it.

    Below that an exact scan is as fast. Returns at once when another process is building, and where the table belongs
    to another role: then ``ragstore maintain`` builds.

    Crash safety:
        Built concurrently: readers and writers go on. An index that a killed build left behind is invalid, is
        never used, and is built again here.
    """
    if collection.index_state == "ready":
        return True
    if collection.space.dim > MAX_INDEXED_DIM:
        return False
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(_IS_WANTED.format(table=quoted_table(collection)), {"n": min_nodes})
        has_enough, owns = cursor.fetchone() or (False, False)
        if not has_enough or not (owns or _is_valid(connection, collection)):
            return False
        # Waiting for a lock would hold a snapshot that CREATE INDEX CONCURRENTLY in turn waits for.
        key = {"space": LOCK_SPACE, "id": collection.collection_id}
        cursor.execute("SELECT pg_try_advisory_lock(%(space)s, %(id)s)", key)
        row = cursor.fetchone()
        if not (row and row[0]):
            return False
        try:
            if not _is_valid(connection, collection):
                set_index_state(cursor, collection, "building")
                reached(Failpoint.INDEX_BUILD_BEGUN)
                _build(connection, collection)
            reached(Failpoint.INDEX_BUILT)
            set_index_state(cursor, collection, "ready")
        finally:
            if not connection.closed:
                cursor.execute("SELECT pg_advisory_unlock(%(space)s, %(id)s)", key)
    return True


def _build(connection: Connection, collection: Collection) -> None:
    name, dim = index_name(collection), collection.space.dim
    operators = "vector_cosine_ops" if dim <= _MAX_FLOAT32_DIM else "halfvec_cosine_ops"
    with connection.cursor() as cursor:
        cursor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS ragstore."{name}"')
        cursor.execute("SET maintenance_work_mem = '512MB'")
        # A limit that is right for queries would end every build of a large index.
        cursor.execute("SET statement_timeout = 0")
        try:
            cursor.execute(
                f'CREATE INDEX CONCURRENTLY "{name}" ON {quoted_table(collection)} '
                f"USING hnsw ({index_expression(collection)} {operators})"
            )
        finally:
            if not connection.closed:
                cursor.execute("RESET maintenance_work_mem")
                cursor.execute("RESET statement_timeout")
    if not _is_valid(connection, collection):
        raise StoreError(
            f"PostgreSQL left the index of collection {collection.name!r} invalid",
            hint="run the same command again: it builds the index anew; queries are exact meanwhile",
        )


def _is_valid(connection: Connection, collection: Collection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_INDEX_VALID, {"name": index_name(collection)})
        row = cursor.fetchone()
        return bool(row and row[0])


def index_name(collection: Collection) -> str:
    """Name of the collection's HNSW index, unquoted."""
    return f"{collection.table}_embedding_idx"
