"""The storage context and the vector index of a collection."""

from __future__ import annotations

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding

from ragstore.errors import UsageError
from ragstore.llama.backend import Backend
from ragstore.llama.document_store import RagstoreDocumentStore
from ragstore.llama.embedding import RagstoreEmbedding
from ragstore.llama.graph_store import RagstoreGraphStore
from ragstore.llama.image_store import NoImageStore
from ragstore.llama.index import NoNodes, RagstoreIndexDict, RagstoreVectorIndex
from ragstore.llama.index_store import RagstoreIndexStore
from ragstore.llama.property_graph_store import RagstorePropertyGraphStore
from ragstore.llama.shared import shared_by_faces
from ragstore.llama.vector_store import RagstoreVectorStore
from ragstore.model.collection import Collection

_EXTERNAL = "external"


def storage_context(backend: Backend, collection: Collection) -> StorageContext:
    """A StorageContext whose stores are one collection: what is put there is durable when the call returns.

    So ``persist()`` writes nothing. Its image store refuses images, which need a collection of their own.
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
        embed_model: instead of the collection's own; needed where that is ``external``.

    Raises:
        UsageError: the collection's vectors come from outside and no model was given.
    """
    context = storage_context(backend, collection)
    shared_by_faces(backend, collection).writing.has_index = True
    embed_model = embed_model or own_embed_model(backend, collection)
    struct = RagstoreIndexDict(index_id=collection.name, nodes_dict=NoNodes())
    return RagstoreVectorIndex(index_struct=struct, storage_context=context, embed_model=embed_model)


def own_embed_model(backend: Backend, collection: Collection) -> RagstoreEmbedding:
    """The collection's own model, for LlamaIndex; loaded when first used.

    Raises:
        UsageError: its vectors come from outside.
    """
    if collection.space.model == _EXTERNAL:
        raise UsageError(
            f"the vectors of collection {collection.name!r} come with the nodes",
            hint="give embed_model=",
            collection=collection.name,
        )
    return RagstoreEmbedding(lambda: backend.embedder(collection), name=collection.space.model)
