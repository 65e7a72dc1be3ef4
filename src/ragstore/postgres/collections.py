"""Collections: making, finding and listing them."""

from __future__ import annotations

from typing import Any

from ragstore.errors import CollectionNotFoundError
from ragstore.model.collection import Chunking, Collection, CollectionSummary, EmbeddingSpace, IndexState
from ragstore.postgres import statements
from ragstore.postgres.pool import Cursor, PostgresPool


def create_collection(
    pool: PostgresPool, name: str, *, space: EmbeddingSpace, chunking: Chunking, text_search_config: str
) -> Collection:
    """Make a collection and its vector table, or return the one of that name as it is.

    Crash safety:
        One transaction: the row and its table exist both or not at all.
    """
    with pool.transaction() as cursor:
        cursor.execute(
            statements.CREATE_COLLECTION,
            {
                "name": name,
                "model": space.model,
                "dim": space.dim,
                "metric": space.metric,
                "chunk_size": chunking.chunk_size,
                "chunk_overlap": chunking.chunk_overlap,
                "text_search_config": text_search_config,
            },
        )
        if cursor.rowcount:
            cursor.execute(statements.ENSURE_COLLECTION_TABLE, {"name": name})
        cursor.execute(statements.GET_COLLECTION, {"name": name})
        return _collection(cursor.fetchone())


def find_collection(pool: PostgresPool, name: str) -> Collection | None:
    """The collection of that name, if there is one."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statements.GET_COLLECTION, {"name": name})
        row = cursor.fetchone()
        return _collection(row) if row else None


def get_collection(pool: PostgresPool, name: str) -> Collection:
    """The collection of that name.

    Raises:
        CollectionNotFoundError: there is none.
    """
    found = find_collection(pool, name)
    if found is None:
        raise CollectionNotFoundError(
            f"no collection named {name!r}", hint=f"make it with 'ragstore ingest PATH -c {name}'", name=name
        )
    return found


def get_collection_by_id(cursor: Cursor, collection_id: int) -> Collection | None:
    """The collection of that id, inside a caller's transaction."""
    cursor.execute(statements.GET_COLLECTION_BY_ID, {"collection_id": collection_id})
    row = cursor.fetchone()
    return _collection(row) if row else None


def list_collections(pool: PostgresPool) -> list[CollectionSummary]:
    """All collections with their sizes, by name."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statements.LIST_COLLECTIONS)
        return [CollectionSummary(*row) for row in cursor.fetchall()]


def set_index_state(cursor: Cursor, collection: Collection, state: IndexState) -> None:
    """Record whether queries can rely on the collection's HNSW index."""
    cursor.execute(statements.SET_INDEX_STATE, {"state": state, "collection_id": collection.collection_id})


def _collection(row: tuple[Any, ...] | None) -> Collection:
    assert row is not None
    collection_id, name, model, dim, metric, chunk_size, chunk_overlap, config, index_state = row
    return Collection(
        collection_id=collection_id,
        name=name,
        space=EmbeddingSpace(model, dim, metric),
        chunking=Chunking(chunk_size, chunk_overlap),
        text_search_config=config,
        index_state=index_state,
    )
