"""Conversion of LlamaIndex nodes into ragstore's nodes and vectors, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.schema import Node as MultimodalNode
from llama_index.core.storage.docstore.utils import json_to_doc

from ragstore.errors import InvalidNodeError
from ragstore.model.node import MAX_NODE_BYTES, TYPE_KEYS, LiveNode, Node, content_with_text
from ragstore.model.run import Vectors
from ragstore.model.storable import storable_content, storable_metadata, storable_text
from ragstore.mongo.structs import MAX_BYTES, encoded_size
from ragstore.postgres.search import Row

_DOCUMENT_TYPE = TYPE_KEYS["Document"]
_MEDIA = ("image_resource", "audio_resource", "video_resource")
_BY_ITSELF = {"embedding", "text", "metadata", "relationships"}
_ALWAYS_FITS = MAX_BYTES // 8
"""Bytes of JSON that always fit: in MongoDB's format a digit and a comma, 2 bytes, become at most 13."""
_ROOM_FOR_ID = 4_096
_CLASS_OF_TYPE = {"1": "TextNode", "2": "ImageNode", "3": "IndexNode", "4": "Document", "5": "Node"}


def to_node(node: BaseNode, *, own_document: bool = False, embedding: list[float] | None = None) -> Node:
    """The form in which both stores keep a LlamaIndex node.

    Args:
        own_document: True as in the document store: a node without a source is a document of its own, and an embedding
            is part of the node. A node of class ``Document`` is always a document of its own.
        embedding: the embedding with which the document store got the node before, and which it must still return.

    Raises:
        InvalidNodeError: names the node and what is wrong with it.
    """
    try:
        made = _to_node(node, own_document)
        kept = node.embedding if own_document else embedding
        return made if kept is None else replace(made, content=made.content | {"embedding": _kept(kept)})
    except InvalidNodeError as error:
        named = storable_text(str(node.node_id))[:100]
        if error.facts.get("node_id"):
            raise
        raise InvalidNodeError(f"node {named}: {error.message}", hint=error.hint, node_id=named) from error
    except ValueError as error:
        # Serialisation errors of Pydantic and of LlamaIndex are ValueErrors.
        named = storable_text(str(node.node_id))[:100]
        raise InvalidNodeError(
            f"node {named} cannot be written as JSON: {error}",
            hint="keep objects out of the node; an IndexNode's obj must be a node, a model or JSON",
            node_id=named,
        ) from error


def to_vectors(nodes: Sequence[BaseNode], dim: int) -> Vectors:
    """The nodes' embeddings, of shape ``(n_nodes, dim)``.

    Raises:
        InvalidNodeError: a node has no embedding, or one of another length.
    """
    vectors = np.empty((len(nodes), dim), dtype=np.float32)
    for i, node in enumerate(nodes):
        if node.embedding is None or len(node.embedding) != dim:
            n = 0 if node.embedding is None else len(node.embedding)
            wrong = f"an embedding of {n} dimensions where the collection has {dim}"
            raise InvalidNodeError(
                f"node {node.node_id} has {wrong if n else 'no embedding'}",
                hint="embed it with the model that the collection was made with",
                node_id=node.node_id,
            )
        try:
            with np.errstate(over="ignore"):  # a value too large for float32 becomes inf, refused later
                vectors[i] = node.embedding
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidNodeError(
                f"the vector of node {node.node_id} has a value that is no number of a vector: {error}",
                hint="check what the embedding model returned for it",
                node_id=node.node_id,
            ) from error
    return vectors


def from_live(live: LiveNode) -> BaseNode:
    """The LlamaIndex node as it was added."""
    return from_body(live.type_key, live.content)


def from_row(row: Row) -> BaseNode:
    """The LlamaIndex node of a hit that was fetched with its body."""
    class_name = row.class_name or ""
    content = orjson.loads(row.content or "{}")
    content["embedding"] = None
    return from_body(TYPE_KEYS.get(class_name, "1"), content_with_text(class_name, content, row.text))


def from_body(type_key: str, content: dict[str, Any]) -> BaseNode:
    """The LlamaIndex node of a body as MongoDB stores it."""
    return json_to_doc({TYPE_KEY: type_key, DATA_KEY: content})


def source_hash(node: BaseNode) -> str | None:
    """Hash of the document version that the node was split from; None if the node does not say."""
    source = node.source_node
    return source.hash if source is not None else None


def neighbours(nodes: Sequence[BaseNode]) -> frozenset[str]:
    """Ids of the previous, next, parent and child nodes that these nodes name."""
    return named_by(nodes, [kind for kind in NodeRelationship if kind != NodeRelationship.SOURCE])


def named_by(nodes: Sequence[BaseNode], kinds: Sequence[NodeRelationship]) -> frozenset[str]:
    """Ids of the nodes to which these have a relationship of one of these kinds."""
    named: set[str] = set()
    for node in nodes:
        for kind in kinds:
            related = node.relationships.get(kind)
            if related is not None:
                named.update(each.node_id for each in (related if isinstance(related, list) else [related]))
    return frozenset(named)


def _to_node(node: BaseNode, own_document: bool) -> Node:
    _check_id(node.node_id)
    metadata = storable_metadata(node.metadata)
    text = storable_text(node.get_content(metadata_mode=MetadataMode.NONE))
    content = _plain_content(node, metadata) or storable_content(_content(node, metadata))
    class_name = node.class_name()
    if class_name not in TYPE_KEYS:
        class_name = _CLASS_OF_TYPE.get(str(node.get_type()), "TextNode")
    _check_size(node.node_id, class_name, content, text)
    type_key = TYPE_KEYS[class_name]
    document_id = node.ref_doc_id
    if document_id is None and (own_document or type_key == _DOCUMENT_TYPE):
        document_id = node.node_id
    if document_id is not None:
        _check_id(document_id)
    return Node(
        node_id=node.node_id,
        document_id=document_id,
        text=text,
        metadata=metadata,
        content=content,
        class_name=class_name,
        type_key=type_key,
        start_char=getattr(node, "start_char_idx", None),
        end_char=getattr(node, "end_char_idx", None),
    )


def _kept(embedding: Sequence[float]) -> list[float]:
    values = [float(value) for value in embedding]
    if not np.isfinite(values).all():
        raise InvalidNodeError(
            "the embedding has a value that is not finite", hint="check what the embedding model returned for it"
        )
    return values


def _plain_content(node: BaseNode, metadata: dict[str, Any]) -> dict[str, Any] | None:
    """The content of a plain ``TextNode``, in a third of the time that ``_content`` takes; None for other nodes."""
    relations = node.relationships
    if type(node) is not TextNode or not all(type(related) is RelatedNodeInfo for related in relations.values()):
        return None
    content = storable_content(node.model_dump(mode="json", exclude=_BY_ITSELF))
    content["embedding"], content["text"], content["metadata"] = None, "", metadata
    content["relationships"] = {str(kind.value): _plain_related(related) for kind, related in relations.items()}
    return content


def _plain_related(related: Any) -> dict[str, Any]:
    plain = storable_content(related.model_dump(mode="json", exclude=_BY_ITSELF))
    plain["metadata"] = storable_metadata(related.metadata)
    return plain


def _content(node: BaseNode, metadata: dict[str, Any]) -> dict[str, Any]:
    """``BaseNode.to_dict()`` in JSON types, without text and embedding."""
    changes: dict[str, Any] = {
        "metadata": metadata,
        "embedding": None,
        "relationships": {kind: _related(related) for kind, related in node.relationships.items()},
    }
    if isinstance(node, TextNode):
        changes["text"] = ""
    elif isinstance(node, MultimodalNode) and node.text_resource is not None:
        changes["text_resource"] = node.text_resource.model_copy(update={"text": ""})
    content: dict[str, Any] = node.model_copy(update=changes).model_dump(mode="json")
    if isinstance(node, MultimodalNode):
        # A Document repeats its text under this key.
        content.pop("text", None)
        for name in _MEDIA:
            resource = getattr(node, name)
            if resource is not None and resource.data is not None:
                # LlamaIndex leaves out the bytes, which it holds as base64.
                content[name]["data"] = resource.data.decode("ascii")
    return content


def _related(related: Any) -> Any:
    if isinstance(related, list):
        return [_related(each) for each in related]
    if isinstance(related, RelatedNodeInfo) and related.metadata:
        return related.model_copy(update={"metadata": storable_metadata(related.metadata)})
    return related


def _check_size(node_id: str, class_name: str, content: dict[str, Any], text: str) -> None:
    size, most = len(orjson.dumps(content)) + len(text.encode()), MAX_NODE_BYTES
    if _ALWAYS_FITS < size <= most:
        size, most = encoded_size(content_with_text(class_name, content, text)), MAX_BYTES - _ROOM_FOR_ID
    if size > most:
        raise InvalidNodeError(
            f"node {node_id} has {size:,} bytes, more than {most:,}",
            hint="split it into smaller nodes, and keep images and long texts out of the metadata",
            node_id=node_id,
        )


def _check_id(text: str) -> None:
    if text != storable_text(text):
        raise InvalidNodeError(
            f"id {storable_text(text)[:100]!r} holds a NUL or a lone surrogate",
            hint="use ids that are text",
            node_id=storable_text(text)[:100],
        )
