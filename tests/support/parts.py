"""The protocol's parts put together on the test's databases, without the program around them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg2
from pymongo import MongoClient

from ragstore.ingest.nodes import build_nodes, document_metadata
from ragstore.model.chunk import Chunk, ParsedDocument
from ragstore.model.collection import Chunking, Collection, EmbeddingSpace
from ragstore.model.document import SourceItem
from ragstore.model.run import Action, PlannedRevision
from ragstore.mongo.client import database
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.collections import create_collection
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Publisher, Timing
from ragstore.protocol.recover import Recoverer
from ragstore.settings import Settings
from tests.support.oracle import Oracle

DIM = 8


@dataclass(frozen=True)
class Parts:
    """One worker."""

    pool: PostgresPool
    ledger: Ledger
    nodes: NodeStore
    publisher: Publisher
    recoverer: Recoverer
    collection: Collection
    oracle: Oracle


@contextmanager
def open_parts(
    settings: Settings,
    *,
    url: str | None = None,
    worker: str = "elsewhere/1/2/3",
    timing: Timing | None = None,
    nodes_class: type[NodeStore] = NodeStore,
) -> Iterator[Parts]:
    """Args: url: another way to PostgreSQL, such as a proxy; worker: by default one whose death nobody can see."""
    assert settings.mongo_url is not None
    direct = postgres_url(settings)
    pool = PostgresPool(url or direct, size=4, idle_in_transaction_s=10)
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongo_url.get_secret_value(), tz_aware=True)
    mongo = database(client, settings.mongo_database)
    ledger, nodes = Ledger(pool), nodes_class(mongo)
    timing = timing or Timing(lease_ttl_s=30, grace_s=0)
    publisher = Publisher(ledger, nodes, worker=worker, timing=timing)
    recoverer = Recoverer(pool, ledger, nodes, grace_s=timing.grace_s)
    collection = create_collection(
        pool, "docs", space=EmbeddingSpace("external", DIM), chunking=Chunking(32, 0), text_search_config="english"
    )
    oracle = Oracle(direct, mongo)
    try:
        yield Parts(pool, ledger, nodes, publisher, recoverer, collection, oracle)
    finally:
        publisher.close()
        pool.close()
        client.close()


def postgres_url(settings: Settings) -> str:
    assert settings.postgres_url is not None
    return settings.postgres_url.get_secret_value()


def mongo_url(settings: Settings) -> str:
    assert settings.mongo_url is not None
    return settings.mongo_url.get_secret_value()


def a_revision(
    document_id: str,
    text: str,
    *,
    planned_from: int = 0,
    action: Action = "added",
    replaces: tuple[str, int] | None = None,
) -> PlannedRevision:
    """A revision with one node a paragraph."""
    chunks, start = [], 0
    for paragraph in text.split("\n\n"):
        chunks.append(Chunk(paragraph.strip(), start, start + len(paragraph.strip())))
        start += len(paragraph) + 2
    content_hash = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    parsed = ParsedDocument(content_hash, chunks, len(text))
    item = SourceItem(document_id, document_id, len(text.encode()), 1)
    chance = np.random.default_rng(len(text))
    return PlannedRevision(
        document_id=document_id,
        source_uri=document_id,
        planned_from=planned_from,
        action=action,
        nodes=build_nodes(item, parsed),
        vectors=chance.standard_normal((len(chunks), DIM)).astype(np.float32),
        fingerprint=content_hash,
        content_hash=content_hash,
        doc_hash=content_hash,
        size=item.size,
        mtime_ns=item.mtime_ns,
        metadata=document_metadata(item, parsed),
        replaces=replaces,
        n_embedded=len(chunks),
    )


def execute(settings: Settings, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Plain SQL on the test's database, committed."""
    connection = psycopg2.connect(postgres_url(settings))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
