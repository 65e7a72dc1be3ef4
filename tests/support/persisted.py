"""What plain LlamaIndex persists as JSON, and what it answers from that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery

from tests.support.llama_faces import HashEmbedding, a_splitter

Answers = list[list[tuple[str, float]]]


def a_persist_dir(folder: Path, documents: Sequence[Document], index_id: str = "manuals") -> Path:
    """As a program of plain LlamaIndex leaves it."""
    index = VectorStoreIndex.from_documents(
        list(documents), embed_model=HashEmbedding(), transformations=[a_splitter()], show_progress=False
    )
    index.set_index_id(index_id)
    index.storage_context.persist(folder)
    return folder


def loaded(folder: Path | str, index_id: str | None = None, **kwargs: object) -> VectorStoreIndex:
    """What plain LlamaIndex loads there."""
    context = StorageContext.from_defaults(persist_dir=str(folder), **kwargs)  # type: ignore[arg-type]
    index = load_index_from_storage(
        context, index_id=index_id, embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    assert isinstance(index, VectorStoreIndex)
    return index


def answers(index: VectorStoreIndex, questions: Sequence[str], top_k: int = 10) -> Answers:
    """The hits of each question: node id and similarity."""
    retriever = index.as_retriever(similarity_top_k=top_k)
    return [[(hit.node_id, hit.score or 0.0) for hit in retriever.retrieve(question)] for question in questions]


def assert_equal_answers(found: Answers, expected: Answers) -> None:
    """The same nodes in the same order; those that are as near as each other in any order."""
    assert len(found) == len(expected)
    for hits, wanted in zip(found, expected, strict=True):
        assert np.allclose([score for _, score in hits], [score for _, score in wanted], atol=1e-5)
        assert same_but_for_ties(hits, wanted), (hits, wanted)


def same_but_for_ties(hits: Sequence[tuple[str, float]], wanted: Sequence[tuple[str, float]]) -> bool:
    last = wanted[-1][1] if wanted else 0.0
    near = {node_id for node_id, score in wanted if score > last + 1e-5}
    return near <= {node_id for node_id, _ in hits} and len({node_id for node_id, _ in hits}) == len(wanted)


def by_vector(index: VectorStoreIndex, vector: Sequence[float], top_k: int = 10) -> list[tuple[str, float]]:
    """What the vector store itself finds."""
    result = index.vector_store.query(VectorStoreQuery(query_embedding=list(vector), similarity_top_k=top_k))
    ids = result.ids or [node.node_id for node in result.nodes or []]
    return list(zip(ids, result.similarities or [], strict=True))


def embedded_nodes(texts: Sequence[str], document_id: str | None = None) -> list[TextNode]:
    """Nodes with vectors, and so ids of their own."""
    nodes = a_splitter().get_nodes_from_documents([Document(text=text, id_=document_id or text) for text in texts])
    for node in nodes:
        node.embedding = HashEmbedding().vector_of(node.get_content())
    return [node for node in nodes if isinstance(node, TextNode)]
