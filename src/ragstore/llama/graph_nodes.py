"""Conversion of graph nodes, relations and queries from LlamaIndex's form to ragstore's, and back."""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from llama_index.core.graph_stores.types import (
    TRIPLET_SOURCE_KEY,
    ChunkNode,
    EntityNode,
    LabelledNode,
    Relation,
    Triplet,
)
from llama_index.core.vector_stores.types import VectorStoreQuery

from ragstore.errors import InvalidNodeError
from ragstore.llama.filters import to_restriction
from ragstore.model.collection import MAX_DIM
from ragstore.model.graph import MAX_RELATION_BYTES, GraphNode, GraphRelation, Path, Selection, checked_key
from ragstore.model.node import MAX_NODE_BYTES
from ragstore.model.storable import storable_content, storable_text
from ragstore.postgres.filters import Sql, to_sql
from ragstore.postgres.vectors import LONGEST, SHORTEST, lengths


def to_graph_node(node: LabelledNode) -> GraphNode:
    """The form in which PostgreSQL stores a node.

    Raises:
        InvalidNodeError: names the node and what is wrong with it.
    """
    is_chunk = isinstance(node, ChunkNode)
    if not isinstance(node, (EntityNode, ChunkNode)):
        raise InvalidNodeError(
            f"a graph cannot hold a {type(node).__name__}", hint="use EntityNode or ChunkNode, or a class made from one"
        )
    if isinstance(node, ChunkNode) and node.id_ is None:
        raise InvalidNodeError(
            f"chunk {node.text[:50]!r} has no id", hint="give id_: its hash is another in every process"
        )
    node_id = checked_key(storable_text(node.id), "node id")
    properties = _storable(node.properties, f"node {node_id}")
    text = storable_text(node.text) if isinstance(node, ChunkNode) else None
    name = storable_text(node.name) if isinstance(node, EntityNode) else None
    size = len(orjson.dumps(properties)) + len((text or "").encode())
    if size > MAX_NODE_BYTES:
        raise InvalidNodeError(
            f"node {node_id} has {size:,} bytes, more than {MAX_NODE_BYTES:,}",
            hint="split it into smaller nodes, and keep images and long texts out of its properties",
            node_id=node_id,
        )
    embedding = None if node.embedding is None else checked_vector(node.embedding, f"node {node_id}")
    sources = () if is_chunk else _sources(properties)
    return GraphNode(node_id, storable_text(node.label), name, text, properties, embedding, sources)


def to_graph_relation(relation: Relation, chunks: Ids[str]) -> GraphRelation:
    """The form in which PostgreSQL stores a relation.

    Args:
        chunks: ids of chunks that contain a quotation mark. In the name of an entity, as in its id, the mark becomes a
            space.

    Raises:
        InvalidNodeError: names the relation and what is wrong with it.
    """

    def end(named: str) -> str:
        node_id = storable_text(named if named in chunks else named.replace('"', " "))
        return checked_key(node_id, "end of a relation")

    label = checked_key(storable_text(relation.label), "label", MAX_RELATION_BYTES)
    properties = _storable(relation.properties, f"relation {label}")
    return GraphRelation(end(relation.source_id), label, end(relation.target_id), properties, _sources(properties))


def to_labelled(node: GraphNode) -> LabelledNode:
    """The LlamaIndex node as it was added."""
    embedding = None if node.embedding is None else list(node.embedding)
    if node.name is None:
        return ChunkNode(
            id_=node.node_id,
            text=node.text or "",
            label=node.label,
            properties=node.properties,
            embedding=embedding,
        )
    return EntityNode(name=node.name, label=node.label, properties=node.properties, embedding=embedding)


def to_triplet(path: Path) -> Triplet:
    """A relation with the nodes at its ends."""
    source, relation, target = path
    edge = Relation(
        label=relation.label,
        source_id=relation.source_id,
        target_id=relation.target_id,
        properties=relation.properties,
    )
    return to_labelled(source), edge, to_labelled(target)


def to_selection(
    properties: dict[str, Any] | None,
    ids: Sequence[str] | None,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Selection:
    """The nodes to select. An empty list of ids selects nothing; any other empty argument does not restrict."""
    named = [each for name in names or () for each in (name, name.replace('"', " "))]
    return Selection(
        properties=_storable(properties, "a property") if properties else None,
        node_ids=None if ids is None else [storable_text(each) for each in ids],
        names=[storable_text(each) for each in named] if named else None,
        labels=[storable_text(each) for each in labels] if labels else None,
    )


def to_condition(query: VectorStoreQuery) -> Sql:
    """The SQL condition on a row ``n`` of graph nodes for a query's filters, node ids and document ids.

    Raises:
        FilterError
    """
    allowed = to_restriction(query.filters, document_ids=query.doc_ids, node_ids=query.node_ids or None)
    texts, values = ["true"], []
    if allowed.filter is not None:
        text, own = to_sql(allowed.filter, "n.properties", document="(n.properties ->> 'ref_doc_id')")
        texts.append(text)
        values += own
    if allowed.node_ids is not None:
        texts.append("n.node_id = ANY(%s::text[])")
        values.append(list(allowed.node_ids))
    if allowed.document_ids is not None:
        texts.append("n.properties ->> 'ref_doc_id' = ANY(%s::text[])")
        values.append(list(allowed.document_ids))
    return " AND ".join(texts), values


def checked_vector(vector: Sequence[float], whose: str) -> list[float]:
    """The vector as PostgreSQL stores it.

    Args:
        whose: names the owner in the error message.

    Raises:
        InvalidNodeError: it is empty, too long, or has a value that is not finite.
    """
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(vector, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0, dtype=np.float32)
    if values.ndim == 1 and 1 <= len(values) <= MAX_DIM and np.isfinite(values).all():
        (length,) = lengths(values[np.newaxis])
        if length == 0 or SHORTEST <= length <= LONGEST:
            return [float(each) for each in values]
    raise InvalidNodeError(
        f"the vector of {whose} cannot be stored",
        hint=f"it must have 1 to {MAX_DIM:,} finite values and a length of 1e-18 to 1e18; check what the embedding "
        "model returned",
    )


def _sources(properties: dict[str, Any]) -> tuple[str, ...]:
    source = properties.get(TRIPLET_SOURCE_KEY)
    return (source,) if isinstance(source, str) else ()


def _storable(properties: dict[str, Any], whose: str) -> dict[str, Any]:
    try:
        return storable_content(properties)
    except InvalidNodeError as error:
        raise InvalidNodeError(f"{whose}: {error.message}", hint=error.hint) from error
