"""LlamaIndex stores that keep their data in ragstore: drop-in, atomic across both databases."""

from __future__ import annotations

from ragstore.llama.backend import Backend
from ragstore.llama.context import RagstoreEmbedding, own_embed_model, storage_context, vector_index
from ragstore.llama.document_store import RagstoreDocumentStore
from ragstore.llama.graph_store import RagstoreGraphStore
from ragstore.llama.index import RagstoreVectorIndex
from ragstore.llama.index_store import RagstoreIndexStore
from ragstore.llama.property_graph_store import RagstorePropertyGraphStore
from ragstore.llama.vector_store import RagstoreVectorStore

__all__ = [
    "Backend",
    "RagstoreDocumentStore",
    "RagstoreEmbedding",
    "RagstoreGraphStore",
    "RagstoreIndexStore",
    "RagstorePropertyGraphStore",
    "RagstoreVectorIndex",
    "RagstoreVectorStore",
    "own_embed_model",
    "storage_context",
    "vector_index",
]
