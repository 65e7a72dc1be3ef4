"""Conversion of entries of vector stores to ragstore's nodes, whether LlamaIndex wrote them or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ragstore.errors import InvalidNodeError
from ragstore.model.node import Node
from ragstore.model.storable import storable_text
from ragstore.transfer.nodes import node_of_row
from ragstore.transfer.systems.reader import Record

CONTENT = "_node_content"
_SOURCES = ("ref_doc_id", "document_id", "doc_id")
_DEFAULT_TEXT_KEY = "text"
"""Where LlamaIndex's stores put a text that is not in the node's content."""


@dataclass(frozen=True, slots=True)
class RecordKeys:
    """Keys of entries that LlamaIndex did not write; ``a.b`` is the key ``b`` in the object ``a``.

    Args:
        text: key of the text; None if only the system's own place is looked at.
        document: key of the document's id; None if entries belong to no document.
    """

    text: str | None
    document: str | None


def has_node_content(record: Record) -> bool:
    """Whether LlamaIndex wrote the entry."""
    return _content(record) is not None


def node_id_of(record: Record) -> str:
    """The node id; some systems give an entry an id that is longer, or spelled in another way."""
    content = _content(record)
    found = content.get("id_") if content else None
    return found if isinstance(found, str) and found else record.record_id


def text_of(record: Record, keys: RecordKeys) -> str | None:
    """The text, from where the entry has it; None if it is nowhere."""
    if record.text:
        return record.text
    content = _content(record)
    if content is not None:
        resource = content.get("text_resource")
        found = content.get("text") or (resource.get("text") if isinstance(resource, Mapping) else None)
        found = found or record.metadata.get(keys.text or _DEFAULT_TEXT_KEY)
    else:
        found = value_at(record.metadata, keys.text) if keys.text else None
    return found if isinstance(found, str) else None if record.text is None else record.text


def node_of_record(record: Record, keys: RecordKeys) -> Node:
    """The node of an entry.

    Raises:
        InvalidNodeError: it has no id or no text, or one of both stores would refuse it.
    """
    if not record.record_id:
        raise InvalidNodeError("an entry has no id", hint="")
    node_id, content, text = node_id_of(record), _content(record), text_of(record, keys)
    if content is not None:
        return node_of_row(node_id, record.metadata, content, text or "")
    if text is None:
        raise InvalidNodeError(f"node {storable_text(node_id)[:100]} has no text", hint="", node_id=node_id)
    return node_of_row(node_id, _metadata(record, keys), None, text)


def named_document(record: Record) -> str | None:
    """The document that an unusable entry says it belongs to."""
    found = record.metadata.get("ref_doc_id")
    return storable_text(found) if isinstance(found, str) and found != "None" else None


def value_at(metadata: Mapping[str, Any], key: str) -> Any:
    """The value of a key, or of a path of keys with dots between; None if there is none."""
    if key in metadata:
        return metadata[key]
    head, dot, rest = key.partition(".")
    inner = metadata.get(head)
    return value_at(inner, rest) if dot and isinstance(inner, Mapping) else None


def keys_of(metadata: Mapping[str, Any]) -> list[str]:
    """The keys with which a person may name a text or a document."""
    found: list[str] = []
    for name, value in metadata.items():
        found += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else [name]
    return found


def _content(record: Record) -> dict[str, Any] | None:
    held = record.metadata.get(CONTENT)
    if isinstance(held, Mapping):
        return dict(held)
    try:
        value = orjson.loads(held) if isinstance(held, str | bytes) else None
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _without(metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    if key in metadata:
        return {name: value for name, value in metadata.items() if name != key}
    head, _, rest = key.partition(".")
    inner = metadata.get(head)
    return {**metadata, head: _without(inner, rest)} if isinstance(inner, Mapping) else dict(metadata)


def _metadata(record: Record, keys: RecordKeys) -> dict[str, Any]:
    """The metadata of an entry that LlamaIndex did not write, with its document where LlamaIndex names it."""
    metadata = _without(record.metadata, keys.text) if keys.text else dict(record.metadata)
    document = value_at(record.metadata, keys.document) if keys.document else None
    if set(metadata) == {"metadata"} and isinstance(metadata["metadata"], Mapping):
        # LangChain and others keep what the user gave one level below.
        metadata = dict(metadata["metadata"])
    if keys.document:
        metadata = {name: value for name, value in metadata.items() if name not in _SOURCES or name == keys.document}
        if isinstance(document, str | int) and str(document):
            metadata["ref_doc_id"] = str(document)
    return metadata
