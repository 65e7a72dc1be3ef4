"""Stores of other systems, each filled by LlamaIndex's own integration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery

from tests.support.llama_faces import DIM, HashEmbedding, a_document, a_splitter
from tests.systems.engines import chroma_server
from tests.systems.pinecone_server import KEY, pinecone_server

N_NODES = int(os.environ.get("RAGSTORE_TEST_NODES", "500"))
PER_DOCUMENT = 10


def unit(text: str) -> list[float]:
    """A vector of length 1, under which every metric gives the same order."""
    vector = np.array(HashEmbedding().vector_of(text))
    return [float(x) for x in vector / np.linalg.norm(vector)]


def documents(n_nodes: int) -> list[Document]:
    return [a_document(f"d{i}", n_sentences=PER_DOCUMENT, year=2000 + i % 20) for i in range(n_nodes // PER_DOCUMENT)]


def nodes_of(given: Sequence[Document]) -> list[TextNode]:
    nodes = [node for node in a_splitter().get_nodes_from_documents(list(given)) if isinstance(node, TextNode)]
    for node in nodes:
        node.embedding = unit(node.text)
    return nodes


@dataclass
class Filled:
    """A store with nodes in it.

    Args:
        place: what ``--from`` takes.
        query: the ids of the nodes that LlamaIndex's integration finds for a vector, best first.
        secret: that ``place`` needs.
        noted: what the report says of it.
    """

    place: str
    query: Callable[[Sequence[float], int], list[str]]
    secret: str | None = None
    noted: dict[str, int] = field(default_factory=dict)


Fill = Callable[[Path, Sequence[TextNode]], AbstractContextManager[Filled]]


def found_by(store: BasePydanticVectorStore) -> Callable[[Sequence[float], int], list[str]]:
    def query(vector: Sequence[float], k: int) -> list[str]:
        result = store.query(VectorStoreQuery(query_embedding=list(vector), similarity_top_k=k))
        return [node.node_id for node in result.nodes or []] or list(result.ids or [])

    return query


@contextmanager
def chroma(folder: Path, nodes: Sequence[TextNode]) -> Iterator[Filled]:
    import chromadb
    from llama_index.vector_stores.chroma import ChromaVectorStore

    client = chromadb.PersistentClient(path=str(folder / "chroma"))
    store = ChromaVectorStore(chroma_collection=client.get_or_create_collection("manuals"))  # compares by l2
    store.add(list(nodes))
    yield Filled(f"chroma:{folder / 'chroma'}#manuals", found_by(store))


@contextmanager
def chroma_over_http(folder: Path, nodes: Sequence[TextNode]) -> Iterator[Filled]:
    import chromadb
    from llama_index.vector_stores.chroma import ChromaVectorStore

    with chroma_server(folder) as port:
        client = chromadb.HttpClient(host="127.0.0.1", port=port)
        collection = client.create_collection("manuals", metadata={"hnsw:space": "cosine"})
        store = ChromaVectorStore(chroma_collection=collection)
        store.add(list(nodes))
        yield Filled(f"chroma+http://127.0.0.1:{port}#manuals", found_by(store))


@contextmanager
def qdrant(folder: Path, nodes: Sequence[TextNode]) -> Iterator[Filled]:
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(folder / "qdrant"))
    QdrantVectorStore("manuals", client=client).add(list(nodes))
    client.close()

    def query(vector: Sequence[float], k: int) -> list[str]:
        # The local engine lets one client at a time open a folder.
        reopened = QdrantClient(path=str(folder / "qdrant"))
        try:
            return found_by(QdrantVectorStore("manuals", client=reopened))(vector, k)
        finally:
            reopened.close()

    yield Filled(f"qdrant:{folder / 'qdrant'}#manuals", query)


@contextmanager
def milvus(folder: Path, nodes: Sequence[TextNode]) -> Iterator[Filled]:
    from llama_index.vector_stores.milvus import MilvusVectorStore
    from milvus_lite.server_manager import server_manager_instance

    def opened() -> MilvusVectorStore:
        return MilvusVectorStore(uri=str(folder / "milvus.db"), collection_name="manuals", dim=DIM)  # dot product

    store = opened()
    store.add(list(nodes))
    store.client.flush("manuals")
    store.client.close()
    # The engine runs in this process and keeps the file, which only one process can have open.
    server_manager_instance.release_server(str(folder / "milvus.db"))

    def query(vector: Sequence[float], k: int) -> list[str]:
        reopened = opened()
        try:
            return found_by(reopened)(vector, k)
        finally:
            reopened.client.close()

    yield Filled(f"milvus:{folder / 'milvus.db'}#manuals", query)


@contextmanager
def faiss(folder: Path, nodes: Sequence[TextNode]) -> Iterator[Filled]:
    import faiss as library
    from llama_index.vector_stores.faiss import FaissVectorStore

    yield _persisted(folder, nodes, FaissVectorStore(library.IndexFlatL2(DIM)))


@contextmanager
def faiss_map(folder: Path, nodes: Sequence[TextNode]) -> Iterator[Filled]:
    import faiss as library
    from llama_index.vector_stores.faiss import FaissMapVectorStore

    yield _persisted(folder, nodes, FaissMapVectorStore(library.IndexIDMap2(library.IndexFlatIP(DIM))))


def _persisted(folder: Path, nodes: Sequence[TextNode], store: Any) -> Filled:
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(list(nodes), storage_context=context, embed_model=HashEmbedding())
    context.persist(str(folder / "faiss"))
    numbers = index.index_struct.nodes_dict

    def query(vector: Sequence[float], k: int) -> list[str]:
        return [numbers[number] for number in found_by(store)(vector, k)]

    return Filled(f"faiss:{folder / 'faiss'}", query)


@contextmanager
def pinecone(folder: Path, nodes: Sequence[TextNode]) -> Iterator[Filled]:
    from llama_index.vector_stores.pinecone import PineconeVectorStore
    from pinecone import Pinecone

    with pinecone_server() as url:
        index = Pinecone(api_key=KEY).Index(host=url)
        store = PineconeVectorStore(pinecone_index=index, namespace="manuals")
        store.add(list(nodes))
        PineconeVectorStore(pinecone_index=index, namespace="other").add(list(nodes[:3]))
        yield Filled(f"pinecone+{url}#manuals", found_by(store), secret=KEY, noted={"other_vector_stores": 1})


VECTOR_STORES: dict[str, Fill] = {
    "chroma": chroma,
    "chroma-server": chroma_over_http,
    "qdrant": qdrant,
    "milvus": milvus,
    "faiss": faiss,
    "faiss-map": faiss_map,
    "pinecone": pinecone,
}
