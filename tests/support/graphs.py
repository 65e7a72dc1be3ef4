"""Graphs of tests, and what PostgreSQL holds of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core import Document, PropertyGraphIndex, StorageContext
from llama_index.core.graph_stores.types import KG_NODES_KEY, KG_RELATIONS_KEY, EntityNode, Relation
from llama_index.core.indices.property_graph import ImplicitPathExtractor
from llama_index.core.llms import MockLLM
from llama_index.core.schema import BaseNode, TransformComponent

from tests.support.llama_faces import Faces, HashEmbedding, a_splitter


def a_fact(i: int) -> tuple[str, str, str]:
    return f"subject {i % 50}", "has", f"object {i}"


def triplets_in(faces: Faces) -> list[tuple[Any, ...]]:
    return faces.sql("SELECT subject, relation, object FROM ragstore.triplet ORDER BY triplet_id")


class Facts(TransformComponent):
    """Extracts ``Ann knows Bob`` as two people and a relation, from each sentence of three words."""

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        for node in nodes:
            subject, label, object_ = node.get_content().strip(".").split()
            ends = [EntityNode(name=name, label="person") for name in (subject, object_)]
            node.metadata[KG_NODES_KEY] = [*node.metadata.get(KG_NODES_KEY, []), *ends]
            relation = Relation(label=label, source_id=ends[0].id, target_id=ends[1].id)
            node.metadata[KG_RELATIONS_KEY] = [*node.metadata.get(KG_RELATIONS_KEY, []), relation]
        return nodes


def graph_options() -> dict[str, Any]:
    """What a property graph index needs beside documents; no LLM is asked."""
    return {
        "kg_extractors": [Facts(), ImplicitPathExtractor()],
        "llm": MockLLM(),
        "embed_model": HashEmbedding(),
        "transformations": [a_splitter()],
        "use_async": False,
    }


def a_property_graph(context: StorageContext, *documents: Document) -> PropertyGraphIndex:
    return PropertyGraphIndex.from_documents(list(documents), storage_context=context, **graph_options())


def facts_in(faces: Faces) -> list[tuple[str, str, str]]:
    """Relations between people."""
    return faces.sql(
        "SELECT source_id, label, target_id FROM ragstore.graph_relation WHERE label = 'knows' ORDER BY 1, 3"
    )


def people_in(faces: Faces) -> list[str]:
    rows = faces.sql("SELECT name FROM ragstore.graph_node WHERE label = 'person' ORDER BY 1")
    return [row[0] for row in rows]
