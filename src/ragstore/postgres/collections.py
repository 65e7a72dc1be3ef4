"""Collections in the ledger: create, find, hold and list them, and decode their rows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg2

from ragstore.errors import CollectionNotFoundError, EpochEndedError, MissingTableError, StoreSetupError
from ragstore.model.collection import (
    Chunking,
    Collection,
    CollectionSummary,
    Effort,
    EmbeddingSpace,
    Found,
    FoundInSegment,
    Segment,
    TableForm,
)
from ragstore.postgres import statements
from ragstore.postgres.names import quoted_literal
from ragstore.postgres.pool import Cursor, PostgresPool

_UNDEFINED_TABLE = "42P01"
_TRIES = 3
_PLAIN = TableForm()
_MAX_NAMED = 8

_CONFIGS = """
SELECT n.nspname, c.cfgname, pg_ts_config_is_visible(c.oid) FROM pg_ts_config c
JOIN pg_namespace n ON n.oid = c.cfgnamespace ORDER BY c.cfgname
"""


def create_collection(
    pool: PostgresPool,
    name: str,
    *,
    space: EmbeddingSpace,
    chunking: Chunking,
    text_search_config: str,
    form: TableForm = _PLAIN,
) -> Collection:
    """Create a collection and its vector table, or return the existing one of that name unchanged.

    Raises:
        StoreSetupError: the server has no such text search configuration.

    Crash safety:
        One transaction: the row and its table exist both or not at all.
    """
    with pool.transaction() as cursor:
        _require_config(cursor, text_search_config)
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


def _require_config(cursor: Cursor, name: str) -> None:
    """Refuse a text search configuration that the server does not have, before anything is created."""
    schema, _, bare = name.rpartition(".")
    cursor.execute(_CONFIGS)
    configs = cursor.fetchall()
    if any(config == bare and (found == schema if schema else is_visible) for found, config, is_visible in configs):
        return
    known = [config if is_visible else f"{found}.{config}" for found, config, is_visible in configs]
    near = difflib.get_close_matches(name, known, n=_MAX_NAMED) or known
    usual = [each for each in ("simple", "english", "german", "french", "spanish") if each in known]
    named = list(dict.fromkeys([*near[: _MAX_NAMED - len(usual)], *usual]))
    raise StoreSetupError(
        f"PostgreSQL has no text search configuration {name!r}",
        hint=f"set RAGSTORE_TEXT_SEARCH_CONFIG to one of {', '.join(named)} … (SELECT cfgname FROM pg_ts_config)",
        known=known,
    )


def find_collection(pool: PostgresPool, name: str) -> Collection | None:
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statements.GET_COLLECTION, {"name": name})
        row = cursor.fetchone()
        return to_collection(row) if row else None


def get_collection(pool: PostgresPool, name: str) -> Collection:
    """The collection of that name.

    Raises:
        CollectionNotFoundError: it does not exist.
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
    """Lock a collection against a drop and the end of its epoch, until the transaction ends; always the first lock.

    Raises:
        CollectionNotFoundError: it was dropped; a newer one of the same name is another collection.
        EpochEndedError: it was read in an epoch that is over.
    """
    cursor.execute(statements.HOLD_COLLECTION, hold_parameters(collection))
    if not cursor.rowcount:
        raise why_not_held(cursor, collection)


def hold_parameters(collection: Collection) -> dict[str, int]:
    """Parameters of ``HOLD_COLLECTION``."""
    return {"collection_id": collection.collection_id, "epoch": collection.epoch}


def why_not_held(cursor: Cursor, collection: Collection) -> EpochEndedError | CollectionNotFoundError:
    """The error that says why a collection could not be held."""
    cursor.execute("SELECT epoch FROM ragstore.epoch WHERE is_only")
    row = cursor.fetchone()
    if row is not None and row[0] != collection.epoch:
        return EpochEndedError(
            f"epoch {collection.epoch} is over: 'ragstore reconcile' began epoch {row[0]} after a restore",
            hint="run the same command again; a program must open ragstore again",
            epoch=collection.epoch,
            now=row[0],
        )
    return dropped(collection)


def hold_named(cursor: Cursor, name: str) -> Collection | None:
    """The collection that has this name now, if any; it cannot be dropped until the transaction ends."""
    cursor.execute(statements.HOLD_COLLECTION_BY_NAME, {"name": name})
    row = cursor.fetchone()
    return to_collection(row) if row else None


def dropped(collection: Collection) -> CollectionNotFoundError:
    """The error for further use of a dropped collection."""
    return CollectionNotFoundError(
        f"collection {collection.name!r} is gone: it was dropped",
        hint=f"'ragstore ingest PATH -c {collection.name}' makes a new one of that name",
        in_python=f"create_collection({collection.name!r}) makes a new one; take its context and index again",
        name=collection.name,
    )


@contextmanager
def reporting_drop(pool: PostgresPool, collection: Collection) -> Iterator[None]:
    """Raise CollectionNotFoundError instead of MissingTableError if the collection was dropped; for readers.

    Raises:
        CollectionNotFoundError: it was dropped.
    """
    try:
        yield
    except MissingTableError as error:
        found = find_collection(pool, collection.name)
        if found is None or found.collection_id != collection.collection_id:
            raise dropped(collection) from error
        raise


def list_collections(pool: PostgresPool) -> list[CollectionSummary]:
    """All collections with their sizes, by name."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statements.LIST_COLLECTIONS)
        rows = cursor.fetchall()
    found = [CollectionSummary(*(*row[:8], to_found(row[8]), row[9])) for row in rows]
    more = nodes_without_document(pool)
    return [replace(each, nodes=each.nodes + more.get(each.name, 0)) for each in found]


def nodes_without_document(pool: PostgresPool) -> dict[str, int]:
    """Number of nodes without a document in each collection, which the ledger does not count; read from an index."""
    for attempt in range(1, _TRIES + 1):
        with pool.autocommit() as connection, connection.cursor() as cursor:
            cursor.execute(statements.COLLECTION_TABLES)
            counts = " UNION ALL ".join(
                f"SELECT {quoted_literal(name)}, count(*) FROM {table} WHERE document_id IS NULL"
                for name, table in cursor.fetchall()
            )
            try:
                cursor.execute(counts or "SELECT NULL, 0 WHERE false")
                return dict(cursor.fetchall())
            except psycopg2.Error as error:
                # A collection was dropped between the two statements.
                if error.pgcode != _UNDEFINED_TABLE or attempt == _TRIES:
                    raise
    return {}


def to_segments(found: Any) -> tuple[Segment, ...]:
    """Segments from their JSON in the ledger."""
    # int(): these values become part of SQL text.
    return tuple(Segment(*map(int, values)) for values in found)


def to_effort(found: Any) -> Effort | None:
    """An effort from its JSON in the ledger; None for ``{}``."""
    if not found:
        return None
    whole = {name: int(found[name]) for name in ("entries", "members", "n_nodes")}
    return Effort(**whole, found=to_found(found.get("found")), measured_at=found.get("measured_at", 0.0))


def to_found(found: Any) -> Found | None:
    """The result of a measurement from its JSON in the ledger."""
    if not found:
        return None
    return Found(**found | {"of_segments": tuple(FoundInSegment(**each) for each in found["of_segments"])})


def to_collection(row: tuple[Any, ...] | None) -> Collection:
    """A row that begins with ``statements.COLLECTION_COLUMNS``."""
    assert row is not None
    collection_id, name, model, dim, metric, chunk_size, chunk_overlap, config, segments, *rest = row
    filter_keys, vector_type, effort, epoch = rest[:4]
    return Collection(
        collection_id=collection_id,
        name=name,
        space=EmbeddingSpace(model, dim, metric),
        chunking=Chunking(chunk_size, chunk_overlap),
        text_search_config=config,
        segments=to_segments(segments),
        filter_keys=tuple(filter_keys),
        vector_type=vector_type,
        epoch=epoch,
        effort=to_effort(effort),
    )
