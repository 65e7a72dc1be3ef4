"""Nodes (chunk, metadata and relationships as one unit of storage) and index structs, as stores keep them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ragstore.errors import InvalidNodeError

MAX_NODE_BYTES = 12_000_000
"""MongoDB refuses 16 MiB; the rest is room for field names and the copy of the metadata."""

MAX_NODE_ID_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Node:
    """One node as it is written to both stores, without its vector.

    Args:
        document_id: the document it belongs to, None for a node that LlamaIndex code added without a source.
        metadata: exactly the user's metadata, in storable form (see ``storable``).
        content: LlamaIndex's ``BaseNode.to_dict()`` without text and embedding.
        class_name: LlamaIndex's class, e.g. ``TextNode``.
        type_key: LlamaIndex's ``ObjectType`` value, e.g. ``"1"``.
        ordinal: position in its document, 0-based.
        chunk_hash: 16 bytes, equal if the embedded text is equal; None if unknown.
    """

    node_id: str
    document_id: str | None
    text: str
    metadata: dict[str, Any]
    content: dict[str, Any]
    class_name: str = "TextNode"
    type_key: str = "1"
    ordinal: int = 0
    start_char: int | None = None
    end_char: int | None = None
    chunk_hash: bytes | None = field(default=None, repr=False)


TYPE_KEYS = {"TextNode": "1", "ImageNode": "2", "IndexNode": "3", "Document": "4", "ImageDocument": "4", "Node": "5"}
"""LlamaIndex's ``ObjectType`` of each class that its docstores can read back."""


def content_with_text(class_name: str, content: dict[str, Any], text: str) -> dict[str, Any]:
    """The content with the text in the field in which the class keeps it."""
    if class_name in ("Node", "Document", "ImageDocument"):
        resource = content.get("text_resource")
        if resource is None and not text:
            # LlamaIndex distinguishes no text from empty text; they have different hashes.
            return content
        return content | {"text_resource": (resource or {}) | {"text": text}}
    return content | {"text": text}


def content_and_text(class_name: str, content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The inverse of ``content_with_text``: the content without its text, and the text."""
    if class_name in ("Node", "Document", "ImageDocument"):
        resource = content.get("text_resource")
        if resource is None:
            return content, ""
        return content | {"text_resource": resource | {"text": ""}}, resource.get("text") or ""
    return content | {"text": ""}, content.get("text") or ""


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A live node as PostgreSQL keeps it.

    Args:
        stamp: number that orders the writes of one node id in both stores.
        content: LlamaIndex's ``BaseNode.to_dict()`` with its text.
    """

    node_id: str
    stamp: int
    type_key: str
    content: dict[str, Any]


def check_node(node: Node) -> None:
    """Raise InvalidNodeError for a node that one of the stores would refuse, so that neither gets it."""
    if not 1 <= len(node.node_id.encode()) <= MAX_NODE_ID_BYTES or "\0" in node.node_id:
        raise InvalidNodeError(
            f"node id of {len(node.node_id.encode())} bytes cannot be stored",
            hint=f"use 1 to {MAX_NODE_ID_BYTES} bytes without NUL",
            node_id=node.node_id[:100],
        )
    # A character is at most 4 bytes: only long texts need to be encoded to be measured.
    if len(node.text) * 4 > MAX_NODE_BYTES and len(node.text.encode()) > MAX_NODE_BYTES:
        raise InvalidNodeError(
            f"node {node.node_id} has more than {MAX_NODE_BYTES:,} bytes of text",
            hint="split it into smaller nodes, see RAGSTORE_CHUNK_SIZE",
            node_id=node.node_id,
        )


NAMESPACE = "index_store"
"""Namespace of the structs of all collections, in MongoDB and in the outbox."""

VECTOR_STORE = "vector_store"
"""LlamaIndex's type of a vector index."""


@dataclass(frozen=True, slots=True)
class Struct:
    """An index struct as it is stored.

    Args:
        kind: LlamaIndex's type, e.g. ``list``.
        payload: the struct's JSON in ASCII, as LlamaIndex writes it.
        stamp: number that orders the writes of one id in both stores; None if another program than ragstore wrote it.
    """

    index_id: str
    kind: str
    payload: str
    stamp: int | None = None

    def is_same(self, other: Struct) -> bool:
        """Whether both have the same kind and payload."""
        return (self.kind, self.payload) == (other.kind, other.payload)
