"""Where documents came from, as the ledger knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragstore.model.collection import Collection
from ragstore.postgres import statements
from ragstore.postgres.pool import PostgresPool

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class KnownSource:
    """A source unit that the ledger names; ``revision`` is 0 where it is only in quarantine."""

    document_id: str
    source_uri: str
    revision: int


def page_of_sources(
    pool: PostgresPool, collection: Collection, folders: Sequence[str], *, after: str, quarantined: bool = False
) -> list[KnownSource]:
    """The next live documents that an ingest read from below these folders, in the order of their ids.

    Those whose URI is escaped come from anywhere. A page with fewer than ``PAGE`` of them is the last.

    Args:
        after: the last id of the page before, the empty string for the first page.
        quarantined: what is in quarantine instead, live or not.
    """
    statement = statements.PAGE_QUARANTINED_SOURCES if quarantined else statements.PAGE_SOURCES
    parameters = {
        "collection_id": collection.collection_id,
        "folders": list(folders),
        "after": after,
        "limit": PAGE,
    }
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [KnownSource(*row) for row in cursor.fetchall()]


def count_live(pool: PostgresPool, collection: Collection) -> int:
    """Live documents of a collection, wherever they came from."""
    with pool.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(statements.COUNT_LIVE, {"collection_id": collection.collection_id})
        row = cursor.fetchone()
        return int(row[0]) if row else 0


def forget_quarantined(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> None:
    """Take these out of quarantine: there is nothing left to set aside."""
    if document_ids:
        with pool.transaction() as cursor:
            cursor.execute(
                statements.CLEAR_QUARANTINE,
                {"collection_id": collection.collection_id, "document_ids": list(document_ids)},
            )
