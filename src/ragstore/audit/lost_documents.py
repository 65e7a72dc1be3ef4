"""Documents that the ledger lost, put together from what the stores remember of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ragstore.audit.lost_nodes import LostBody, had_vector, readable
from ragstore.mongo.scan import MongoScan, origin_of
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.rebuild import FirstRow, LostDocument, first_rows
from ragstore.postgres.scan import PostgresScan

_OF_A_NODE = ("headings", "page")


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """What is known of a lost document.

    Args:
        bodies: its nodes that PostgreSQL has not.
        reason: why it cannot be brought back; None where it can.
    """

    document: LostDocument
    bodies: list[LostBody] = field(default_factory=list)
    reason: str | None = None


def find_lost(pool: PostgresPool, postgres: PostgresScan, mongo: MongoScan, document_id: str) -> FoundDocument:
    """Everything that rows, bodies and entries say of a document; its nodes are in memory at once."""
    entry = mongo.entries_of("ref_doc_info", [document_id]).get(document_id, {})
    named = [str(i) for i in entry.get("node_ids") or ()]
    states = postgres.states([*named, document_id])
    bodies = mongo.bodies_of([i for i in [*named, document_id] if not states.knows(i)])
    lost = [
        LostBody(body, document_id, None, named.index(i) if i in named else 0, i in named and had_vector(body))
        for i, body in bodies.items()
        if readable(body) and _is_ours(body)
    ]
    first = (first_rows(pool, postgres.collection, [document_id]) if postgres.has_table else {}).get(document_id)
    doc_hash = mongo.entries_of("metadata", [document_id]).get(document_id, {}).get("doc_hash")
    document = _document(document_id, entry, first or _first(lost), str(doc_hash) if doc_hash else None)
    held = states.live.keys() | {each.body["_id"] for each in lost}
    if first is None and not held.issuperset(named):
        return FoundDocument(document, [], "some of its nodes are in neither store; ingest it again")
    if first is None and not lost:
        return FoundDocument(document, [], "none of its nodes is left; ingest it again")
    return FoundDocument(document, lost)


def _document(document_id: str, entry: dict[str, Any], first: FirstRow | None, doc_hash: str | None) -> LostDocument:
    metadata = first.user_metadata if first else {}
    source = ((first.content.get("relationships") or {}) if first else {}).get("1") or {}
    staged = first is not None and first.staged
    content_hash = source.get("hash") if staged and isinstance(source, dict) else None
    path = metadata.get("file_path")
    stamp = entry.get("stamp")
    own = entry.get("metadata")
    return LostDocument(
        document_id=document_id,
        source_uri=path if isinstance(path, str) and path else document_id,
        revision=stamp if isinstance(stamp, int) else 0,
        from_ingest=staged,
        content_hash=content_hash,
        doc_hash=doc_hash or content_hash,
        metadata=own if isinstance(own, dict) else {k: v for k, v in metadata.items() if k not in _OF_A_NODE},
    )


def _first(lost: list[LostBody]) -> FirstRow | None:
    if not lost:
        return None
    body = min(lost, key=lambda each: each.ordinal).body
    return FirstRow(body["__data__"]["metadata"], body.get("stamp") == 0, body["__data__"])


def _is_ours(body: dict[str, Any]) -> bool:
    stamp = origin_of(body).stamp
    return isinstance(stamp, int) and not isinstance(stamp, bool)
