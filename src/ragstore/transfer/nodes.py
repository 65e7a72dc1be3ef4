"""Conversion of stored LlamaIndex nodes, also of old versions, to ragstore's nodes; LlamaIndex is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from ragstore.errors import InvalidNodeError
from ragstore.model.document import MAX_DOCUMENT_ID_BYTES
from ragstore.model.node import MAX_NODE_BYTES, TYPE_KEYS, Node, check_node, content_and_text
from ragstore.model.storable import storable_content, storable_metadata, storable_text

_CLASS_OF_TYPE = {"1": "TextNode", "2": "ImageNode", "3": "IndexNode", "4": "Document", "5": "Node"}
_WITH_RESOURCES = ("Document", "ImageDocument", "Node")
_SOURCE = "1"


def node_of_body(node_id: str, body: Any) -> Node:
    """The node of an entry of a document store, ``{"__data__": …, "__type__": …}``.

    Raises:
        InvalidNodeError: it is no such entry, or one of both stores would refuse the node.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("__data__"), Mapping):
        raise InvalidNodeError(f"node {storable_text(node_id)[:100]} has no content", hint="", node_id=node_id)
    data = dict(body["__data__"])
    if "extra_info" in data and "metadata" not in data:
        data = _of_legacy(data)
    class_name = _class_name(str(data.get("class_name") or ""), str(body.get("__type__") or ""))
    return node_of_content(node_id, class_name, data)


def node_of_content(node_id: str, class_name: str, data: Mapping[str, Any]) -> Node:
    """The node of LlamaIndex's ``BaseNode.to_dict()``, of any version.

    Raises:
        InvalidNodeError: one of both stores would refuse the node.
    """
    try:
        return _node(node_id, class_name, dict(data))
    except InvalidNodeError as error:
        if error.facts.get("node_id"):
            raise
        shown = storable_text(node_id)[:100]
        raise InvalidNodeError(f"node {shown}: {error.message}", hint=error.hint, node_id=shown) from error


def node_of_row(node_id: str, row: Mapping[str, Any], content: Mapping[str, Any] | None, text: str) -> Node:
    """The node of a row of ``PGVectorStore``.

    Args:
        row: the column ``metadata_``.
        content: the ``_node_content`` in it; None if a version before 0.8 wrote the row.
    """
    if content is not None:
        class_name = _class_name(str(row.get("_node_type") or content.get("class_name") or ""), "")
        return node_of_content(node_id, class_name, dict(content) | _text_part(class_name, content, text))
    own = ("_node_content", "_node_type", "document_id", "doc_id", "ref_doc_id")
    source = row.get("ref_doc_id") or row.get("document_id") or row.get("doc_id")
    data: dict[str, Any] = {"metadata": {k: v for k, v in row.items() if k not in own}, "text": text}
    if isinstance(source, str) and source != "None":
        data["relationships"] = {_SOURCE: {"node_id": source, "node_type": "4", "metadata": {}, "hash": None}}
    return node_of_content(node_id, "TextNode", data)


def source_hash(node: Node) -> str | None:
    """Hash of the document version that the node was split from; None if the node does not say."""
    source = (node.content.get("relationships") or {}).get(_SOURCE)
    found = source.get("hash") if isinstance(source, Mapping) else None
    return found if isinstance(found, str) else None


def _node(node_id: str, class_name: str, data: dict[str, Any]) -> Node:
    _check_id(node_id)
    data |= {"id_": node_id, "embedding": _embedding(data.get("embedding")), "class_name": class_name}
    data["relationships"] = data.get("relationships") or {}
    source_id = _source_id(data)
    metadata = storable_metadata(data.get("metadata") or {})
    data["metadata"] = metadata
    content, text = content_and_text(class_name, _in_todays_shape(class_name, data))
    content, text = storable_content(content), storable_text(text)
    node = Node(
        node_id=node_id,
        document_id=source_id or (node_id if TYPE_KEYS[class_name] == "4" else None),
        text=text,
        metadata=metadata,
        content=content,
        class_name=class_name,
        type_key=TYPE_KEYS[class_name],
        start_char=_int4(content.get("start_char_idx")),
        end_char=_int4(content.get("end_char_idx")),
    )
    _check_size(node)
    return node


def _embedding(given: Any) -> list[float] | None:
    """The embedding that a document store got with the node; None if it is no vector."""
    if not isinstance(given, list) or not all(isinstance(each, int | float) for each in given):
        return None
    return [float(each) for each in given] if given and all(map(isfinite, given)) else None


def _in_todays_shape(class_name: str, data: dict[str, Any]) -> dict[str, Any]:
    """The content in the current format: until 0.12 a document stored its text as a text node does."""
    if class_name not in _WITH_RESOURCES:
        return data
    text = data.pop("text", None)
    if data.get("text_resource") is None and text:
        data["text_resource"] = {"text": text}
    return data


def _text_part(class_name: str, content: Mapping[str, Any], text: str) -> dict[str, Any]:
    if class_name in _WITH_RESOURCES and content.get("text_resource") is not None:
        return {"text_resource": {**content["text_resource"], "text": text}}
    return {"text": text}


def _of_legacy(data: dict[str, Any]) -> dict[str, Any]:
    """The current content of a node from before version 0.6, as LlamaIndex itself still reads it."""
    relationships: dict[str, Any] = {
        kind: {"node_id": str(other), "node_type": None, "metadata": {}, "hash": None}
        for kind, other in (data.get("relationships") or {}).items()
    }
    kept = {name: data[name] for name in ("image", "index_id", "class_name") if data.get(name)}
    return {
        **kept,
        "metadata": data["extra_info"] or {},
        "relationships": relationships,
        "text": data.get("text") or "",
    }


def _class_name(named: str, type_key: str) -> str:
    """The class of a node as LlamaIndex reads it: for a foreign class, LlamaIndex's own class of that type."""
    if named in TYPE_KEYS and type_key in ("", TYPE_KEYS[named]):
        return named
    return _CLASS_OF_TYPE.get(type_key, "TextNode")


def _source_id(content: Mapping[str, Any]) -> str | None:
    source = content["relationships"].get(_SOURCE)
    found = source.get("node_id") if isinstance(source, Mapping) else None
    if not isinstance(found, str):
        return None
    _check_id(found)
    if not 1 <= len(found.encode()) <= MAX_DOCUMENT_ID_BYTES:
        raise InvalidNodeError(
            f"belongs to a document whose id has {len(found.encode())} bytes",
            hint=f"ids have 1 to {MAX_DOCUMENT_ID_BYTES} bytes",
        )
    return found


def _int4(value: Any) -> int | None:
    return value if isinstance(value, int) and -(2**31) <= value < 2**31 else None


def _check_id(text: str) -> None:
    if text != storable_text(text):
        shown = storable_text(text)[:100]
        raise InvalidNodeError(f"id {shown!r} holds a NUL or a lone surrogate", hint="use ids that are text")


def _check_size(node: Node) -> None:
    import orjson

    check_node(node)
    size = len(orjson.dumps(node.content)) + len(node.text.encode())
    if size > MAX_NODE_BYTES:
        raise InvalidNodeError(
            f"node {node.node_id} has {size:,} bytes, more than {MAX_NODE_BYTES:,}",
            hint="split it into smaller nodes, and keep images and long texts out of the metadata",
            node_id=node.node_id,
        )
