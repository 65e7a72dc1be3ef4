"""Property graph store of a collection: LlamaIndex's interface on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.graph_stores.simple_labelled import SimplePropertyGraphStore
from llama_index.core.graph_stores.types import LabelledNode, PropertyGraphStore, Relation, Triplet
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from ragstore.errors import EmbeddingSpaceError, UsageError
from ragstore.llama.backend import Backend, NotCopied, engine_on
from ragstore.llama.graph_nodes import (
    checked_vector,
    to_condition,
    to_graph_node,
    to_graph_relation,
    to_labelled,
    to_selection,
    to_triplet,
)
from ragstore.model.collection import Collection
from ragstore.model.storable import storable_text
from ragstore.postgres import graph

_NO_DOCUMENT = "None"
"""The document id that LlamaIndex writes for a chunk without a document."""


class RagstorePropertyGraphStore(NotCopied, PropertyGraphStore):
    """The property graph of a collection. Every call writes to the database, and every process sees it.

    Works as ``SimplePropertyGraphStore``, without its defects:

    - ``delete`` removes the selected nodes and the relations that lose an end. There it also removes the other ends,
      leaves their relations dangling, and removes every node if only names, or an empty list, are given.
    - For an empty list (``ids=[]``) ``get`` finds nothing, not everything.
    - A relation that is written again gets its new properties, as a node does; ``get_rel_map`` finds each one once.
    - An entity or relation that was extracted from chunks, see its property ``triplet_source_id``, is deleted with the
      last of these chunks.
    - A chunk needs an id: there it is a hash that differs from process to process.
    """

    supports_structured_queries: bool = False
    supports_vector_queries: bool = True

    def __init__(self, backend: Backend, collection: Collection) -> None:
        self._pool = backend.pool
        self._collection = collection

    @property
    def client(self) -> Any:
        """A SQLAlchemy engine on ragstore's pool."""
        return engine_on(self._pool)

    def get(self, properties: dict[str, Any] | None = None, ids: list[str] | None = None) -> list[LabelledNode]:
        """Nodes that have one of the properties and one of the ids, if given; oldest first."""
        return [to_labelled(n) for n in graph.get_nodes(self._pool, self._collection, to_selection(properties, ids))]

    def get_triplets(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> list[Triplet]:
        """Relations with their ends that match all given arguments, oldest first; none if no argument is given.

        Args:
            entity_names: an end has one of these as its name or id.
            relation_names: the relation has one of these labels.
            properties: the relation or an end has one of these properties.
            ids: an end has one of these ids.
        """
        if not (entity_names or relation_names or properties or ids):
            return []
        wanted = to_selection(properties, ids, entity_names, relation_names)
        return [to_triplet(path) for path in graph.get_paths(self._pool, self._collection, wanted)]

    def get_rel_map(
        self,
        graph_nodes: list[LabelledNode],
        depth: int = 2,
        limit: int = 30,
        ignore_rels: list[str] | None = None,
    ) -> list[Triplet]:
        """Relations of these nodes and of all nodes fewer than ``depth`` steps away, the nearest first."""
        node_ids = [storable_text(node.id) for node in graph_nodes]
        if not node_ids or depth < 1 or limit < 1:
            return []
        paths = graph.paths_near(
            self._pool, self._collection, node_ids, depth=depth, limit=limit, ignored=ignore_rels or []
        )
        return [to_triplet(path) for path in paths]

    def upsert_nodes(self, nodes: Sequence[LabelledNode]) -> None:
        """Write entities and chunks; a node with the same id is replaced.

        Raises:
            InvalidNodeError: names the node; nothing was written.

        Crash safety:
            All or none; durable when it returns.
        """
        stored = [to_graph_node(node) for node in nodes]
        if stored:
            graph.put_nodes(self._pool, self._collection, stored)

    def upsert_relations(self, relations: list[Relation]) -> None:
        """Write relations; an end that is no node yet becomes an entity of that name.

        Raises:
            InvalidNodeError: names the relation; nothing was written.

        Crash safety:
            All or none; durable when it returns.
        """
        quoted = {end for each in relations for end in (each.source_id, each.target_id) if '"' in end}
        chunks = graph.known_nodes(self._pool, self._collection, sorted(quoted)) if quoted else set()
        stored = [to_graph_relation(each, chunks) for each in relations]
        if stored:
            graph.put_relations(self._pool, self._collection, stored)

    def delete(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> None:
        """Remove the nodes that match all given arguments; with ``relation_names`` only relations, not their ends.

        Crash safety:
            One transaction, together with all that was extracted only from removed chunks.
        """
        if relation_names:
            wanted = to_selection(properties, ids, entity_names, relation_names)
            graph.delete_relations(self._pool, self._collection, wanted)
        elif entity_names or properties or ids:
            graph.delete_nodes(self._pool, self._collection, to_selection(properties, ids, entity_names))

    def delete_llama_nodes(self, node_ids: list[str] | None = None, ref_doc_ids: list[str] | None = None) -> None:
        """Remove these chunks, all chunks of these documents, and what was extracted only from them.

        Crash safety:
            One transaction.
        """
        documents = [storable_text(each) for each in ref_doc_ids or () if each != _NO_DOCUMENT]
        chunks = [storable_text(each) for each in node_ids or ()]
        if documents or chunks:
            graph.delete_chunks(self._pool, self._collection, chunks, documents)

    def structured_query(self, query: str, param_map: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Refused: the graph has no query language.

        Raises:
            UsageError
        """
        raise UsageError("the property graph store has no query language", hint="use get, get_triplets or get_rel_map")

    def vector_query(self, query: VectorStoreQuery, **kwargs: Any) -> tuple[list[LabelledNode], list[float]]:  # noqa: ARG002
        """Entities and their cosine similarities, best first; every entity that the filters allow is compared.

        Raises:
            UsageError, FilterError
            EmbeddingSpaceError: the entities have vectors, but of other lengths.
        """
        vector = query.query_embedding
        if vector is None or query.similarity_top_k < 1 or query.mode != VectorStoreQueryMode.DEFAULT:
            raise UsageError(
                "a property graph is searched with a vector, for at least one entity",
                hint="give query_embedding, similarity_top_k and the default mode",
            )
        checked = checked_vector(vector, "the query")
        found = graph.nearest_entities(
            self._pool, self._collection, checked, top_k=query.similarity_top_k, condition=to_condition(query)
        )
        if not found:
            self._refuse_other_dim(len(checked))
        return [to_labelled(node) for node, _ in found], [score for _, score in found]

    def persist(self, persist_path: str = "", fs: Any = None) -> None:
        """Nothing to do: every call is durable when it returns."""

    def get_schema(self, refresh: bool = False) -> dict[str, list[str]]:  # noqa: ARG002 - it is always fresh
        """The labels of nodes and of relations that are in use."""
        of_nodes, of_relations = graph.labels(self._pool, self._collection)
        return {"nodes": of_nodes, "relations": of_relations}

    def save_networkx_graph(self, name: str = "kg.html") -> None:
        """Draw the whole graph into an HTML file, as ``SimplePropertyGraphStore`` does; needs ``pyvis``."""
        drawn = SimplePropertyGraphStore()
        drawn.upsert_nodes(self.get())
        every = to_selection(None, None)
        drawn.upsert_relations([to_triplet(path)[1] for path in graph.get_paths(self._pool, self._collection, every)])
        try:
            drawn.save_networkx_graph(name)
        except ImportError as error:
            raise UsageError(
                f"a graph is drawn by {error.name}, which is missing", hint="pip install networkx pyvis"
            ) from error

    # Asynchronous forms. They run in a thread, because a connection must not be bound to one event loop.

    async def aget(self, properties: dict[str, Any] | None = None, ids: list[str] | None = None) -> list[LabelledNode]:
        """As ``get``."""
        return await asyncio.to_thread(self.get, properties, ids)

    async def aget_triplets(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> list[Triplet]:
        """As ``get_triplets``."""
        return await asyncio.to_thread(self.get_triplets, entity_names, relation_names, properties, ids)

    async def aget_rel_map(
        self,
        graph_nodes: list[LabelledNode],
        depth: int = 2,
        limit: int = 30,
        ignore_rels: list[str] | None = None,
    ) -> list[Triplet]:
        """As ``get_rel_map``."""
        return await asyncio.to_thread(self.get_rel_map, graph_nodes, depth, limit, ignore_rels)

    async def aget_llama_nodes(self, node_ids: list[str]) -> list[BaseNode]:
        """As ``get_llama_nodes``."""
        return await asyncio.to_thread(self.get_llama_nodes, node_ids)

    async def aupsert_nodes(self, nodes: Sequence[LabelledNode]) -> None:
        """As ``upsert_nodes``."""
        await asyncio.to_thread(self.upsert_nodes, nodes)

    async def aupsert_relations(self, relations: list[Relation]) -> None:
        """As ``upsert_relations``."""
        await asyncio.to_thread(self.upsert_relations, relations)

    async def adelete(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> None:
        """As ``delete``."""
        await asyncio.to_thread(self.delete, entity_names, relation_names, properties, ids)

    async def adelete_llama_nodes(
        self, node_ids: list[str] | None = None, ref_doc_ids: list[str] | None = None
    ) -> None:
        """As ``delete_llama_nodes``."""
        await asyncio.to_thread(self.delete_llama_nodes, node_ids, ref_doc_ids)

    async def avector_query(self, query: VectorStoreQuery, **kwargs: Any) -> tuple[list[LabelledNode], list[float]]:
        """As ``vector_query``."""
        return await asyncio.to_thread(self.vector_query, query, **kwargs)

    async def aget_schema(self, refresh: bool = False) -> Any:
        """As ``get_schema``."""
        return await asyncio.to_thread(self.get_schema, refresh)

    def _refuse_other_dim(self, dim: int) -> None:
        dims = graph.embedding_dims(self._pool, self._collection)
        if dims and dim not in dims:
            raise EmbeddingSpaceError(
                f"the entities of collection {self._collection.name!r} have vectors of {dims} dimensions, not {dim}",
                hint="use the embedding model that the graph was made with",
                collection=self._collection.name,
            )
