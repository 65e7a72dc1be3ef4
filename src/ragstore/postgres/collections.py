"""Collections: making, finding and listing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ragstore.errors import CollectionNotFoundError, StoreSetupError
from ragstore.model.collection import Chunking, Collection, CollectionSummary, EmbeddingSpace, Segment, TableForm
from ragstore.postgres import statements
from ragstore.postgres.pool import Cursor, PostgresPool

_UNDEFINED_TABLE = "42P01"
_PLAIN = TableForm()


def create_collection(
    pool: PostgresPool,
    name: str,
    *,
    space: EmbeddingSpace,
    chunking: Chunking,
    text_search_config: str,
    form: TableForm = _PLAIN,
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
                "vector_type": form.vector_type,
                "filter_keys": list(form.filter_keys),
            },
        )
        if cursor.rowcount:
            cursor.execute(statements.ENSURE_COLLECTION_TABLE, {"name": name})
            cursor.execute(statements.RESTORE_REVISIONS, {"name": name})
        cursor.execute(statements.GET_COLLECTION, {"name": name})
        return to_collection(cursor.fetchone())


def find_collection(pool: PostgresPool, name: str) -> Collection | None:
    """The collection of that name, if there is one."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statements.GET_COLLECTION, {"name": name})
        row = cursor.fetchone()
        return to_collection(row) if row else None


def get_collection(pool: PostgresPool, name: str) -> Collection:
    """The collection of that name.

    Raises:
        CollectionNotFoundError: there is none.
    """
    found = find_collection(pool, name)
    if found is None:
        raise CollectionNotFoundError(
            f"no collection named {name!r}",
            hint=f"make it with 'ragstore ingest PATH -c {name}'",
            in_python=f"make it with create_collection({name!r}) or ingest(path, collection={name!r})",
            name=name,
        )
    return found


def hold(cursor: Cursor, collection: Collection) -> None:
    """Keep this collection from being dropped until the transaction ends; before any other lock.

    Raises:
        CollectionNotFoundError: it was dropped; one of the same name made since is another.
    """
    cursor.execute(statements.HOLD_COLLECTION, {"collection_id": collection.collection_id})
    if not cursor.rowcount:
        raise dropped(collection)


def hold_named(cursor: Cursor, name: str) -> Collection | None:
    """The collection that has this name now, kept from being dropped until the transaction ends."""
    cursor.execute(statements.HOLD_COLLECTION_BY_NAME, {"name": name})
    row = cursor.fetchone()
    return to_collection(row) if row else None


def dropped(collection: Collection) -> CollectionNotFoundError:
    """What is told to who goes on using a collection."""
    return CollectionNotFoundError(
        f"collection {collection.name!r} is gone: it was dropped",
        hint=f"'ragstore ingest PATH -c {collection.name}' makes a new one of that name",
        in_python=f"create_collection({collection.name!r}) makes a new one; take its context and index again",
        name=collection.name,
    )


@contextmanager
def told_when_dropped(pool: PostgresPool, collection: Collection) -> Iterator[None]:
    """For readers, who hold nothing: say that the collection was dropped, not that its table is missing.

    Raises:
        CollectionNotFoundError: it was dropped.
    """
    try:
        yield
    except StoreSetupError as error:
        found = find_collection(pool, collection.name)
        if error.facts.get("sqlstate") == _UNDEFINED_TABLE and (
            found is None or found.collection_id != collection.collection_id
        ):
            raise dropped(collection) from error
        raise


def list_collections(pool: PostgresPool) -> list[CollectionSummary]:
    """All collections with their sizes, by name."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statements.LIST_COLLECTIONS)
        return [CollectionSummary(*row) for row in cursor.fetchall()]


def to_segments(found: Any) -> tuple[Segment, ...]:
    """Segments from the form in which the ledger keeps them."""
    return tuple(Segment(*values) for values in found)


def to_collection(row: tuple[Any, ...] | None) -> Collection:
    """A row of ``statements.COLLECTION_COLUMNS``."""
    assert row is not None
    collection_id, name, model, dim, metric, chunk_size, chunk_overlap, config, segments, filter_keys, vector_type = row
    return Collection(
        collection_id=collection_id,
        name=name,
        space=EmbeddingSpace(model, dim, metric),
        chunking=Chunking(chunk_size, chunk_overlap),
        text_search_config=config,
        segments=to_segments(segments),
        filter_keys=tuple(filter_keys),
        vector_type=vector_type,
    )
