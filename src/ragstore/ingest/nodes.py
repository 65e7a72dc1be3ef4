"""Nodes made from chunks, in LlamaIndex's form but without importing LlamaIndex, and a document's metadata."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from ragstore.errors import LimitExceededError
from ragstore.model.chunk import Chunk, ParsedDocument
from ragstore.model.document import SourceItem
from ragstore.model.node import Node, check_node
from ragstore.model.run import new_node_id
from ragstore.model.storable import storable_metadata

_SOURCE, _PREVIOUS, _NEXT = "1", "2", "3"
_TEXT_NODE, _DOCUMENT = "1", "4"
_FILE_KEYS = ["file_path", "file_name", "file_type"]


MAX_NODES = 250_000
"""Most nodes of one document: its entry in MongoDB, which is limited to 16 MB, names them all."""


def document_metadata(item: SourceItem, parsed: ParsedDocument) -> dict[str, Any]:
    """Metadata of the whole document; the file keys have the names that LlamaIndex's readers use.

    Raises:
        InvalidNodeError: the document contains metadata that the stores cannot hold.
    """
    return storable_metadata({**parsed.metadata, **file_metadata(item.document_id)})


def file_metadata(document_id: str) -> dict[str, Any]:
    """What a document's metadata say of its file."""
    path = PurePath(document_id)
    return {"file_path": document_id, "file_name": path.name, "file_type": path.suffix.lstrip(".").lower()}


def build_nodes(item: SourceItem, parsed: ParsedDocument) -> list[Node]:
    """One node for each chunk, with new ids.

    Raises:
        InvalidNodeError: a node that one of the stores would refuse.
        LimitExceededError: more nodes than MAX_NODES.
    """
    if len(parsed.chunks) > MAX_NODES:
        raise LimitExceededError(
            f"{item.document_id} has {len(parsed.chunks):,} chunks, more than the {MAX_NODES:,} of one document",
            hint="split the file, or use a collection with a larger RAGSTORE_CHUNK_SIZE",
        )
    of_document = document_metadata(item, parsed)
    ids = [new_node_id() for _ in parsed.chunks]
    source = _related(item.document_id, _DOCUMENT, parsed.content_hash)
    nodes = []
    for i, chunk in enumerate(parsed.chunks):
        relationships = {_SOURCE: source}
        if i > 0:
            relationships[_PREVIOUS] = _related(ids[i - 1], _TEXT_NODE)
        if i + 1 < len(ids):
            relationships[_NEXT] = _related(ids[i + 1], _TEXT_NODE)
        metadata = of_document | _place(chunk)
        node = Node(
            node_id=ids[i],
            document_id=item.document_id,
            text=chunk.text,
            metadata=metadata,
            content=_content(ids[i], chunk, metadata, relationships),
            ordinal=i,
            start_char=chunk.start_char,
            end_char=chunk.end_char,
            chunk_hash=chunk.chunk_hash,
        )
        check_node(node)
        nodes.append(node)
    return nodes


def _place(chunk: Chunk) -> dict[str, Any]:
    return ({"headings": list(chunk.headings)} if chunk.headings else {}) | chunk.place


def _related(node_id: str, node_type: str, content_hash: str | None = None) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "node_type": node_type,
        "metadata": {},
        "hash": content_hash,
        "class_name": "RelatedNodeInfo",
    }


def _content(node_id: str, chunk: Chunk, metadata: dict[str, Any], relationships: dict[str, Any]) -> dict[str, Any]:
    """The same as ``TextNode.to_dict()`` without its text; a test compares it with LlamaIndex's result."""
    return {
        "id_": node_id,
        "embedding": None,
        "metadata": metadata,
        "excluded_embed_metadata_keys": list(metadata),
        "excluded_llm_metadata_keys": _FILE_KEYS,
        "relationships": relationships,
        "metadata_template": "{key}: {value}",
        "metadata_separator": "\n",
        "text": "",
        "mimetype": "text/plain",
        "start_char_idx": chunk.start_char,
        "end_char_idx": chunk.end_char,
        "text_template": "{metadata_str}\n\n{content}",
        "class_name": "TextNode",
    }
