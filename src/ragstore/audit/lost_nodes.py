"""Lost nodes and documents, which only MongoDB has, in the form to restore, with a found or computed vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ragstore.embedding import Embedder
from ragstore.model.chunk import PLACE_KEYS, Chunk
from ragstore.model.collection import Collection
from ragstore.model.document import IN_CONTAINER
from ragstore.model.node import TYPE_KEYS, Node, content_and_text
from ragstore.model.run import Vectors
from ragstore.mongo.client import Document
from ragstore.mongo.scan import MongoScan, origin_of
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.rebuild import FirstRow, LostDocument, first_rows
from ragstore.postgres.scan import PostgresScan
from ragstore.postgres.vectors import reusable_vectors
from ragstore.protocol.repair import LostNode

EXTERNAL = "external"

_FILE_KEYS = ["file_path", "file_name", "file_type"]
_CHILD = "5"


@dataclass(frozen=True, slots=True)
class LostBody:
    """A lost node: its body in MongoDB, and its place in a document.

    Args:
        revision: revision of its document when the loss was found.
        ordinal: position among the nodes of its document.
    """

    body: Document
    document_id: str | None
    revision: int | None = None
    ordinal: int = 0
    has_vector: bool = True


def readable(body: Document) -> bool:
    """Whether a body holds a node with the body's id."""
    data = body.get("__data__")
    return (
        isinstance(data, dict)
        and data.get("id_") == body["_id"]
        and isinstance(data.get("metadata"), dict)
        and body.get("__type__") in TYPE_KEYS.values()
    )


def had_vector(body: Document) -> bool:
    """Whether the node had a vector, judged only by its body: parents and documents had none."""
    return body.get("__type__") != TYPE_KEYS["Document"] and _CHILD not in (body["__data__"].get("relationships") or {})


class Revival:
    """Makes lost nodes of one collection from their bodies.

    Args:
        embedder: loads the collection's model; called only if a vector must be computed.
    """

    def __init__(self, pool: PostgresPool, collection: Collection, embedder: Callable[[], Embedder]) -> None:
        self._pool = pool
        self._collection = collection
        self._embedder = embedder

    def can_revive(self, *, has_vector: bool) -> bool:
        """Whether a node can be restored: it had no vector, or its vector can be computed again."""
        return not has_vector or self._collection.space.model != EXTERNAL

    def revived(self, bodies: Sequence[LostBody]) -> list[LostNode]:
        """The nodes with their vectors; equal texts are embedded once, or not at all if a live row has the vector.

        If the vectors of the collection come from outside, nodes that had one are left out.

        Raises:
            ModelError: the model cannot be used.
        """
        wanted = [b for b in bodies if readable(b.body) and self.can_revive(has_vector=b.has_vector)]
        # In the order in which they were written; staged ones have stamp 0 and keep their order.
        wanted.sort(key=lambda each: each.body["stamp"] or 0)
        nodes = [node_of(b.body, b.document_id, b.ordinal) for b in wanted]
        texts = [embedded_text(node) if b.has_vector else None for node, b in zip(nodes, wanted, strict=True)]
        known = self._known(nodes)
        computed = self.embed(
            [text for text, node in zip(texts, nodes, strict=True) if text is not None and node.chunk_hash not in known]
        )
        lost = []
        for node, each, text in zip(nodes, wanted, texts, strict=True):
            vector = None if text is None else known[node.chunk_hash] if node.chunk_hash in known else computed[text]
            is_computed = vector is not None and node.chunk_hash not in known
            lost.append(LostNode(node, each.body["stamp"], each.revision, vector, is_computed))
        return lost

    def embed(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """A vector for each distinct text."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        return dict(zip(distinct, np.asarray(self._embedder().embed_documents(distinct), np.float32), strict=True))

    def _known(self, nodes: Sequence[Node]) -> dict[bytes | None, Vectors]:
        hashes = [n.chunk_hash for n in nodes if n.chunk_hash is not None]
        return dict(reusable_vectors(self._pool, self._collection, hashes).items())


def embedded_text(node: Node) -> str:
    """The text that a node's vector was computed from."""
    content = node.content
    if _is_from_ingest(content):
        return _chunk(node).embed_text
    excluded = set(content.get("excluded_embed_metadata_keys") or ())
    template = str(content.get("metadata_template") or "{key}: {value}")
    separator = str(content.get("metadata_separator") or content.get("metadata_seperator") or "\n")
    shown = separator.join(
        template.format(key=key, value=str(value)) for key, value in node.metadata.items() if key not in excluded
    ).strip()
    if not shown:
        return node.text
    whole = str(content.get("text_template") or "{metadata_str}\n\n{content}")
    return whole.format(metadata_str=shown, content=node.text).strip()


def node_of(body: Document, document_id: str | None, ordinal: int = 0) -> Node:
    """The node of a readable body, without its vector."""
    data: dict[str, Any] = body["__data__"]
    class_name = str(data.get("class_name") or "TextNode")
    if TYPE_KEYS.get(class_name) != body["__type__"]:
        class_name = next(name for name, key in TYPE_KEYS.items() if key == body["__type__"])
    content, text = content_and_text(class_name, data)
    node = Node(
        node_id=body["_id"],
        document_id=document_id,
        text=text,
        metadata=data["metadata"],
        content=content,
        class_name=class_name,
        type_key=body["__type__"],
        ordinal=ordinal,
        start_char=data.get("start_char_idx"),
        end_char=data.get("end_char_idx"),
    )
    if not _is_from_ingest(content):
        return node
    return replace(node, chunk_hash=_chunk(node).chunk_hash)


def _is_from_ingest(content: Mapping[str, Any]) -> bool:
    """Whether an ingest made the node: it embeds a chunk's text and no metadata."""
    return content.get("excluded_llm_metadata_keys") == _FILE_KEYS and content.get(
        "excluded_embed_metadata_keys"
    ) == list(content["metadata"])


def _chunk(node: Node) -> Chunk:
    return Chunk(node.text, node.start_char or 0, node.end_char or 0, tuple(node.metadata.get("headings", ())))


_OF_A_NODE = ("headings", *PLACE_KEYS)


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """A lost document with all that is known about it.

    Args:
        bodies: its nodes that PostgreSQL does not have.
        reason: why it cannot be restored; None if it can.
    """

    document: LostDocument
    bodies: list[LostBody] = field(default_factory=list)
    reason: str | None = None


def find_lost(pool: PostgresPool, postgres: PostgresScan, mongo: MongoScan, document_id: str) -> FoundDocument:
    """A lost document by its rows, bodies and entries; all its nodes are in memory at once."""
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
    found_ids = states.live.keys() | {each.body["_id"] for each in lost}
    if first is None and not found_ids.issuperset(named):
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
        # A member of a container is read from the container's file.
        source_uri=(path if isinstance(path, str) and path else document_id).partition(IN_CONTAINER)[0],
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
