"""Storage context, vector index and embedding model of a collection, and an image store that refuses images."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult

from ragstore.embedding import Embedder
from ragstore.errors import UsageError
from ragstore.llama.backend import Backend
from ragstore.llama.document_store import RagstoreDocumentStore
from ragstore.llama.graph_store import RagstoreGraphStore
from ragstore.llama.index import NoNodes, RagstoreIndexDict, RagstoreVectorIndex
from ragstore.llama.index_store import RagstoreIndexStore
from ragstore.llama.property_graph_store import RagstorePropertyGraphStore
from ragstore.llama.shared import shared_by_faces
from ragstore.llama.vector_store import RagstoreVectorStore
from ragstore.model.collection import Collection

_EXTERNAL = "external"


def storage_context(backend: Backend, collection: Collection) -> StorageContext:
    """A StorageContext whose stores all use one collection. Every write is durable when the call returns.

    So ``persist()`` writes nothing. The image store refuses images: they need a collection of their own.
    """
    shared = shared_by_faces(backend, collection)
    return StorageContext.from_defaults(
        docstore=RagstoreDocumentStore(backend, shared),
        index_store=RagstoreIndexStore(backend, collection, shared),
        vector_store=RagstoreVectorStore(backend, shared),
        image_store=NoImageStore(collection_name=collection.name),
        graph_store=RagstoreGraphStore(backend, collection),
        property_graph_store=RagstorePropertyGraphStore(backend, collection),
    )


def vector_index(
    backend: Backend, collection: Collection, *, embed_model: BaseEmbedding | None = None
) -> VectorStoreIndex:
    """The collection's vector index; nothing is read or written until it is used.

    Args:
        embed_model: used in place of the collection's own; required if that is ``external``.

    Raises:
        UsageError: the collection's vectors come from outside and no model was given.
    """
    context = storage_context(backend, collection)
    shared_by_faces(backend, collection).writer.has_index = True
    embed_model = embed_model or own_embed_model(backend, collection)
    struct = RagstoreIndexDict(index_id=collection.name, nodes_dict=NoNodes())
    return RagstoreVectorIndex(index_struct=struct, storage_context=context, embed_model=embed_model)


def own_embed_model(backend: Backend, collection: Collection) -> RagstoreEmbedding:
    """The collection's own embedding model in LlamaIndex's form; loaded when first used.

    Raises:
        UsageError: the collection's vectors come from outside.
    """
    if collection.space.model == _EXTERNAL:
        raise UsageError(
            f"the vectors of collection {collection.name!r} come with the nodes",
            hint="give embed_model=",
            collection=collection.name,
        )
    return RagstoreEmbedding(lambda: backend.embedder(collection), name=collection.space.model)


class NoImageStore(BasePydanticVectorStore):
    """An image store that is always empty: images have another embedding space, so they need another collection."""

    stores_text: bool = True
    collection_name: str

    @property
    def client(self) -> Any:
        """None: there is no client."""
        return None

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002
        """Refused, unless there are no nodes.

        Raises:
            UsageError: its hint says where images can be stored.
        """
        if not nodes:
            return []
        raise UsageError(
            f"collection {self.collection_name!r} has no place for the vectors of images",
            hint="make a second collection (model='external', dim=…) and put its vector store here: "
            "context.add_vector_store(rs.storage_context('images').vector_store, 'image')",
            collection=self.collection_name,
        )

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Does nothing: there is nothing to delete."""

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:  # noqa: ARG002
        """An empty result."""
        return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])


_BATCH_SIZE = 1_000
"""Texts per call; the model splits them into its own batches."""


class RagstoreEmbedding(BaseEmbedding):
    """A ragstore embedding model as a LlamaIndex model; loaded when first used."""

    _load: Callable[[], Embedder] = PrivateAttr()

    def __init__(self, load: Callable[[], Embedder], *, name: str) -> None:
        super().__init__(model_name=name, embed_batch_size=_BATCH_SIZE)
        self._load = load

    @classmethod
    def class_name(cls) -> str:
        """The class name that LlamaIndex shows."""
        return "RagstoreEmbedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._load().embed_documents(texts).tolist()
        return vectors

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._load().embed_query(query).tolist()
        return vector

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)
