"""Reads of live nodes and documents for the LlamaIndex classes: by id, by filter, or all in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ragstore.model.collection import Collection
from ragstore.model.filters import Filter
from ragstore.model.node import TYPE_KEYS, LiveNode, Node, content_with_text
from ragstore.model.run import RefDoc, Vectors
from ragstore.postgres import outbox, statements
from ragstore.postgres.filters import to_sql
from ragstore.postgres.names import array, quoted_table
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.run import fetch, fetch_first, fetch_ids, fetch_values, pages
from ragstore.postgres.vectors import decoded_vector

_PAGE = 1_000

# Rows of an ingest have a chunk hash and were staged with stamp 0; all other writes use the row's own stamp.
STAMPS = """
SELECT node_id, id, chunk_hash IS NOT NULL FROM {table} WHERE node_id = ANY(%(ids)s::text[])
UNION ALL
SELECT node_id, stamp, false FROM ragstore.body
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(ids)s::text[])
"""

# Both tables number their writes by one sequence.
IDS_AS_PUT = """
SELECT node_id FROM (
    SELECT node_id::text, id FROM {table}
    UNION ALL
    SELECT node_id, stamp FROM ragstore.body WHERE collection_id = %(collection_id)s
) AS live (node_id, stamp) ORDER BY stamp
"""

MISSING = """
SELECT named.id FROM unnest(%(ids)s::text[]) AS named (id)
WHERE NOT EXISTS (SELECT FROM {table} t WHERE t.node_id = named.id)
    AND NOT EXISTS (SELECT FROM ragstore.body b
                    WHERE b.collection_id = %(collection_id)s AND b.node_id = named.id)
"""

_SUMMARY = """
SELECT jsonb_object_keys(body::jsonb -> 'summary_id_to_node_ids') AS node_id FROM ragstore.index_struct
WHERE collection_id = %(collection_id)s AND kind = 'document_summary'
"""

HAS_OTHERS = f"""
WITH summary AS MATERIALIZED ({_SUMMARY})
SELECT EXISTS (SELECT FROM {{table}} t WHERE NOT EXISTS (SELECT FROM summary WHERE summary.node_id = t.node_id))
"""

# A row without a node says that there are vectors of summaries.
BEFORE_ADDING = f"""
SELECT node_id, content -> 'embedding' FROM ragstore.body
WHERE collection_id = %(collection_id)s AND node_id = ANY(%(ids)s::text[])
    AND jsonb_typeof(content -> 'embedding') = 'array'
UNION ALL
SELECT node_id, content -> 'embedding' FROM (
    SELECT node_id, (metadata_ ->> '_node_content')::jsonb AS content FROM {{table}}
    WHERE node_id = ANY(%(ids)s::text[])
) AS rows WHERE jsonb_typeof(content -> 'embedding') = 'array'
UNION ALL
SELECT NULL, 'true' WHERE EXISTS (SELECT FROM ({_SUMMARY}) AS summary JOIN {{table}} t USING (node_id))
"""

HASHES = """
SELECT document_id, doc_hash FROM ragstore.live_document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(ids)s::text[])
"""

REVISIONS = """
SELECT document_id, revision FROM ragstore.live_document
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(ids)s::text[])
"""

# The document itself comes first, if it is live; after the last id the list goes on with the first ones.
HASHES_FROM = """
SELECT document_id, doc_hash FROM (
    (SELECT document_id, doc_hash FROM ragstore.live_document
     WHERE collection_id = %(collection_id)s AND document_id >= %(first)s
     ORDER BY document_id LIMIT %(limit)s)
    UNION ALL
    (SELECT document_id, doc_hash FROM ragstore.live_document
     WHERE collection_id = %(collection_id)s AND document_id < %(first)s
     ORDER BY document_id LIMIT %(limit)s)
) AS circle LIMIT %(limit)s
"""

# Documents of an ingest have a fingerprint: LlamaIndex must not find them missing in its own listing.
ALL_HASHES = """
SELECT document_id, doc_hash FROM ragstore.live_document
WHERE collection_id = %(collection_id)s AND doc_hash IS NOT NULL AND fingerprint IS NULL AND document_id > %(after)s
ORDER BY document_id LIMIT %(limit)s
"""

PARTS_WITHOUT_VECTOR = """
SELECT node_id, stamp, type_key, content, document_id FROM ragstore.body
WHERE collection_id = %(collection_id)s AND document_id IS DISTINCT FROM node_id AND node_id > %(after)s
ORDER BY node_id LIMIT %(limit)s
"""

FIND_NODES = """
SELECT node_id, id, metadata_->>'_node_type', metadata_->>'_node_content', text, {embedding} FROM {table}
WHERE {condition} ORDER BY id
"""


NODES_OF_DOCUMENTS = """
SELECT document_id, node_id, text, metadata_->>'_node_type', metadata_->>'_node_content', ordinal, start_char, end_char,
       chunk_hash, vector_send(embedding::vector)
FROM {table} WHERE document_id = ANY(%(document_ids)s::text[]) ORDER BY document_id, ordinal, id
"""

WITH_BODIES = """
SELECT DISTINCT document_id FROM ragstore.body
WHERE collection_id = %(collection_id)s AND document_id = ANY(%(document_ids)s::text[])
"""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A live node with its vector, shape ``(dim,)``."""

    node: Node
    vector: Vectors


def nodes_of_documents(
    pool: PostgresPool, collection: Collection, document_ids: Sequence[str]
) -> dict[str, list[NodeRow]]:
    """The nodes with a vector of these documents, in their order, by document."""
    found: dict[str, list[NodeRow]] = {}
    for document_id, node_id, text, class_name, content, ordinal, start, end, chunk_hash, sent in fetch(
        pool, NODES_OF_DOCUMENTS, collection, document_ids=array(document_ids)
    ):
        content = orjson.loads(content)  # noqa: PLW2901
        known = None if chunk_hash is None else bytes(chunk_hash)
        type_key = TYPE_KEYS.get(class_name, "1")
        node = Node(
            node_id, document_id, text, content["metadata"], content, class_name, type_key, ordinal, start, end, known
        )
        found.setdefault(document_id, []).append(NodeRow(node, decoded_vector(sent)))
    return found


def with_bodies(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> set[str]:
    """The ones among these documents that have nodes without a vector."""
    return set(fetch_ids(pool, WITH_BODIES, collection, document_ids=array(document_ids)))


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state of a live node; ``staged``: MongoDB may have it with stamp 0."""

    stamp: int
    staged: bool


@dataclass(frozen=True, slots=True)
class NodeQuery:
    """Conditions on nodes with a vector; all that are given must hold.

    Args:
        document_ids: an empty sequence allows no node.
        node_ids: an empty sequence allows no node.
    """

    node_ids: Sequence[str] | None = None
    document_ids: Sequence[str] | None = None
    filter: Filter | None = None


def stamps(pool: PostgresPool, collection: Collection, ids: Sequence[str]) -> dict[str, Stamp]:
    """The states of the live ones among these nodes, by id."""
    rows = fetch(pool, STAMPS, collection, ids=list(ids))
    return {node_id: Stamp(stamp, staged) for node_id, stamp, staged in rows}


def live_nodes(pool: PostgresPool, collection: Collection, ids: Sequence[str]) -> list[LiveNode]:
    """The live ones among these nodes, in any order."""
    with pool.transaction() as cursor:
        return outbox.live_nodes(cursor, collection, ids)


def node_ids_as_put(pool: PostgresPool, collection: Collection) -> list[str]:
    """Ids of all live nodes, in the order in which they were last written."""
    return fetch_ids(pool, IDS_AS_PUT, collection)


def missing(pool: PostgresPool, collection: Collection, ids: Sequence[str]) -> set[str]:
    """The ones among these nodes that are not live."""
    return set(fetch_ids(pool, MISSING, collection, ids=list(ids)))


def has_vectors_but_of_summaries(pool: PostgresPool, collection: Collection) -> bool:
    """Whether there are vectors of nodes other than the summaries of a document summary index."""
    return bool(fetch_first(pool, HAS_OTHERS, collection))


def before_adding(
    pool: PostgresPool, collection: Collection, ids: Sequence[str]
) -> tuple[dict[str, list[float]], bool]:
    """Embeddings that live nodes had when they were put into the document store, by node id.

    Returns:
        The embeddings, and whether any node with a vector is a summary of a document summary index.
    """
    given: dict[Any, Any] = dict(fetch(pool, BEFORE_ADDING, collection, ids=list(ids)))
    return given, bool(given.pop(None, False))


def find_nodes(
    pool: PostgresPool, collection: Collection, query: NodeQuery, *, with_embeddings: bool
) -> list[tuple[LiveNode, Vectors | None]]:
    """Nodes with a vector that a query allows, oldest first, with their vectors of shape ``(dim,)`` if wanted."""
    conditions, parameters = _condition(query)
    statement = FIND_NODES.format(
        table=quoted_table(collection),
        condition=" AND ".join(conditions) or "true",
        embedding="vector_send(embedding::vector)" if with_embeddings else "NULL",
    )
    return [
        (
            LiveNode(
                node_id,
                stamp,
                TYPE_KEYS.get(class_name, "1"),
                content_with_text(class_name, orjson.loads(content), text),
            ),
            None if sent is None else decoded_vector(sent),
        )
        for node_id, stamp, class_name, content, text, sent in fetch_values(pool, statement, parameters)
    ]


def document_hashes(pool: PostgresPool, collection: Collection, ids: Sequence[str]) -> dict[str, str | None]:
    """Hashes of the live ones among these documents, by id; None for one that may be incomplete."""
    return dict(fetch(pool, HASHES, collection, ids=list(ids)))


def revisions(pool: PostgresPool, collection: Collection, ids: Sequence[str]) -> dict[str, int]:
    """Revisions of the live ones among these documents, by id; each write of a document increases its revision."""
    return dict(fetch(pool, REVISIONS, collection, ids=list(ids)))


def hashes_from(pool: PostgresPool, collection: Collection, first: str, limit: int) -> dict[str, str | None]:
    """As ``document_hashes``, for this document and those that follow it; ``limit`` in all."""
    if limit == 1:
        return document_hashes(pool, collection, [first])
    return dict(fetch(pool, HASHES_FROM, collection, first=first, limit=limit))


def iter_hashes(pool: PostgresPool, collection: Collection) -> Iterator[tuple[str, str]]:
    """(id, hash) of all live documents that LlamaIndex code wrote and completed, in the order of their ids."""
    for rows in pages(pool, ALL_HASHES, collection, limit=_PAGE):
        yield from rows


def iter_parts_without_vector(pool: PostgresPool, collection: Collection) -> Iterator[tuple[LiveNode, str | None]]:
    """Nodes without a vector that are not documents themselves, each with the id of its document."""
    for rows in pages(pool, PARTS_WITHOUT_VECTOR, collection, limit=_PAGE):
        for *node, document_id in rows:
            yield LiveNode(*node), document_id


def ref_docs(pool: PostgresPool, collection: Collection, document_ids: Sequence[str]) -> list[RefDoc]:
    """The ledger's state of these documents; ``node_ids`` is None for one that is not live."""
    with pool.transaction() as cursor:
        return outbox.ref_docs(cursor, collection, document_ids)


def iter_ref_docs(pool: PostgresPool, collection: Collection) -> Iterator[RefDoc]:
    """All live documents, in the order of their ids."""
    for rows in pages(pool, statements.PAGE_DOCUMENT_IDS, collection, limit=_PAGE):
        found = ref_docs(pool, collection, [row[0] for row in rows])
        yield from sorted((doc for doc in found if doc.node_ids is not None), key=lambda doc: doc.document_id)


def _condition(query: NodeQuery) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    parameters: list[Any] = []
    for column, ids in (("node_id", query.node_ids), ("document_id", query.document_ids)):
        if ids is not None:
            conditions.append(f"{column} = ANY(%s::text[])")
            parameters.append(list(ids))
    if query.filter is not None:
        text, values = to_sql(query.filter)
        conditions.append(text)
        parameters += values
    return conditions, parameters
