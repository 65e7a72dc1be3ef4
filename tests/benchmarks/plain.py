"""LlamaIndex's own stores on the same servers, set up as its documentation says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ragstore.model.collection import Collection
from ragstore.model.run import PlannedRevision, Vectors
from ragstore.mongo.client import Client
from ragstore.postgres.names import quoted_table
from tests.benchmarks.databases import NAME, bare_connection

if TYPE_CHECKING:
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.schema import BaseNode, TransformComponent
    from llama_index.core.vector_stores import MetadataFilters
    from llama_index.storage.docstore.mongodb import MongoDocumentStore
    from llama_index.vector_stores.postgres import PGVectorStore

_HNSW = "USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64)"
_EF_SEARCH = 40


class PlainStack:
    """PGVectorStore, MongoDocumentStore and MongoIndexStore.

    Args:
        client: of MongoDB; stays open.
        table: of PGVectorStore, and namespace in MongoDB; names must differ within one bench.
        hnsw: let the store use an HNSW index, which ``copy_from`` builds.
    """

    def __init__(self, postgres_url: str, client: Client, table: str, dim: int, *, hnsw: bool = True) -> None:
        from llama_index.vector_stores.postgres import PGVectorStore

        self._postgres_url, self._client = postgres_url, client
        self.name = table
        self.table = f"public.data_{table}"
        self.dim = dim
        url = re.sub("^postgres(ql)?://", "", postgres_url)
        self.vectors: PGVectorStore = PGVectorStore.from_params(
            connection_string=f"postgresql+psycopg2://{url}",
            async_connection_string=f"postgresql+asyncpg://{url}",
            table_name=table,
            embed_dim=dim,
        )
        self.vectors.add([])  # creates the table
        if hnsw:  # set later than the table is made, which so has no index before it has rows
            self.vectors.hnsw_kwargs = {"hnsw_ef_search": _EF_SEARCH, "hnsw_m": 16, "hnsw_ef_construction": 64}

    def close(self) -> None:
        """Close its connections to PostgreSQL."""
        asyncio.run(self.vectors.close())

    def docstore(self) -> MongoDocumentStore:
        """Documents and nodes in MongoDB."""
        from llama_index.storage.docstore.mongodb import MongoDocumentStore
        from llama_index.storage.kvstore.mongodb import MongoDBKVStore

        kvstore = MongoDBKVStore(mongo_client=self._client, db_name=NAME)
        return MongoDocumentStore(kvstore, namespace=f"plain_{self.name}")

    def context(self) -> StorageContext:
        """All three stores."""
        from llama_index.core import StorageContext
        from llama_index.storage.index_store.mongodb import MongoIndexStore
        from llama_index.storage.kvstore.mongodb import MongoDBKVStore

        kvstore = MongoDBKVStore(mongo_client=self._client, db_name=NAME)
        return StorageContext.from_defaults(
            docstore=self.docstore(),
            index_store=MongoIndexStore(kvstore, namespace=f"plain_{self.name}"),
            vector_store=self.vectors,
        )

    def index(self) -> VectorStoreIndex:
        """An index that keeps its nodes in both stores; by default PGVectorStore's are in PostgreSQL only."""
        from llama_index.core import MockEmbedding, VectorStoreIndex

        return VectorStoreIndex(
            nodes=[],
            storage_context=self.context(),
            embed_model=MockEmbedding(embed_dim=self.dim),
            store_nodes_override=True,
        )

    def pipeline(self, *transformations: TransformComponent) -> IngestionPipeline:
        """A pipeline that stores documents in PGVectorStore and MongoDocumentStore, in place of earlier ones of the same id."""
        from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline

        return IngestionPipeline(
            transformations=list(transformations),
            docstore=self.docstore(),
            vector_store=self.vectors,  # without it the strategy would be another one
            docstore_strategy=DocstoreStrategy.UPSERTS,
            disable_cache=True,
        )

    def copy_from(self, collection: Collection) -> None:
        """Bring its table to the rows of a collection, server to server, and build the HNSW index."""
        source, index = quoted_table(collection), f"data_{self.name}_embedding_idx"
        copied = (
            f"INSERT INTO {self.table} (text, metadata_, node_id, embedding) "
            f"SELECT text, metadata_, node_id, embedding::vector FROM {source} AS ours "
            f"WHERE NOT EXISTS (SELECT FROM {self.table} AS theirs WHERE theirs.node_id = ours.node_id)"
        )
        for statement in (
            f"DROP INDEX IF EXISTS public.{index}",
            copied,
            f"DELETE FROM {self.table} WHERE node_id NOT IN (SELECT node_id FROM {source})",
            f"CREATE INDEX {index} ON {self.table} {_HNSW}",
            f"VACUUM ANALYZE {self.table}",
        ):
            with bare_connection(self._postgres_url) as connection, connection.cursor() as cursor:
                cursor.execute("SET maintenance_work_mem = '512MB'")
                cursor.execute(statement)

    def forget(self, node_ids: Sequence[str]) -> None:
        """Delete rows with one statement; PGVectorStore would send one for each node."""
        with bare_connection(self._postgres_url) as connection, connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {self.table} WHERE node_id = ANY(%s)", (list(node_ids),))

    def find(self, vector: Vectors, top_k: int = 10, filters: MetadataFilters | None = None) -> list[str]:
        """Ids of the nearest nodes, best first."""
        from llama_index.core.vector_stores import VectorStoreQuery

        query = VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=top_k, filters=filters)
        return list(self.vectors.query(query).ids or [])


def llama_nodes(revisions: Sequence[PlannedRevision]) -> list[BaseNode]:
    """The same nodes as LlamaIndex has them, with their vectors."""
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

    made: list[BaseNode] = []
    for revision in revisions:
        source: dict[Any, Any] = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=revision.document_id)}
        for node, vector in zip(revision.nodes, revision.vectors, strict=True):
            made.append(
                TextNode(
                    id_=node.node_id,
                    text=node.text,
                    metadata=node.metadata,
                    relationships=source,
                    embedding=vector.tolist(),
                )
            )
    return made
