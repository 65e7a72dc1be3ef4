"""Document store of a collection: LlamaIndex's MongoDB document store on ragstore's two databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.storage.docstore.mongodb import MongoDocumentStore
from llama_index.storage.kvstore.mongodb import MongoDBKVStore

from ragstore.llama.backend import Backend, NotCopied, single_database_error
from ragstore.llama.instrumentation import own_operation, this_operation
from ragstore.llama.nodes import from_body, from_live
from ragstore.llama.shared import Shared
from ragstore.llama.structs import is_built_by_summaries, mixed_vectors_error
from ragstore.model.collection import Collection
from ragstore.model.run import RefDoc
from ragstore.postgres import live
from ragstore.postgres.pool import PostgresPool

_AT_ONCE = 1_000


class RagstoreDocumentStore(NotCopied, MongoDocumentStore):
    """The nodes and documents of a collection, live ones only.

    A node is read from MongoDB if MongoDB has its current state, else from PostgreSQL. Hashes and the list of a
    document's nodes come from the ledger; a document has a hash there only once it is complete in both stores.
    """

    def __init__(self, backend: Backend, shared: Shared) -> None:
        self._backend = backend
        self._current = current = shared.writer.current
        self._writer = shared.writer
        self._opened = shared.opened
        self._prefetch = shared.prefetch
        kvstore = MongoDBKVStore(backend.client, db_name=backend.database.name)
        super().__init__(kvstore, namespace=current.get().name, batch_size=_AT_ONCE)

    @classmethod
    def from_uri(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused: the store uses two databases."""
        raise single_database_error(cls.__name__)

    @classmethod
    def from_host_and_port(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused, as ``from_uri``."""
        raise single_database_error(cls.__name__)

    # Nodes

    @property
    def docs(self) -> dict[str, BaseNode]:
        """All live nodes in the order in which they were added; reads the whole collection."""
        nodes: dict[str, BaseNode] = {}
        ids = live.node_ids_as_put(self._backend.pool, self._current.get())
        for i in range(0, len(ids), _AT_ONCE):
            found = self._found(ids[i : i + _AT_ONCE])
            nodes |= {node_id: found[node_id] for node_id in ids[i : i + _AT_ONCE] if node_id in found}
        return nodes

    def add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int | None = None,  # noqa: ARG002 - all are written at once
        store_text: bool = True,
    ) -> None:
        """Add nodes to both stores, with their embeddings; a node that the vector store has keeps its vector.

        Raises:
            InvalidNodeError: names the node; nothing was written.
            ValueError: a node exists and ``allow_update`` is false.
        """
        self._add(docs, allow_update, store_text, this_operation())

    def get_document(self, doc_id: str, raise_error: bool = True) -> BaseNode | None:
        """The node or document with this id."""
        found = self._found([doc_id]).get(doc_id)
        if found is None:
            self._opened.leave_out([doc_id])
            if raise_error:
                raise ValueError(f"doc_id {doc_id} not found.")
        return found

    def get_nodes(self, node_ids: list[str], raise_error: bool = True) -> list[BaseNode]:
        """The nodes with these ids, in the same order, read in batches.

        If an index in memory names a node that another process deleted, the node is left out here and in the index.
        """
        nodes: list[BaseNode] = []
        for i in range(0, len(node_ids), _AT_ONCE):
            batch = node_ids[i : i + _AT_ONCE]
            found = self._found(batch)
            missing = [node_id for node_id in batch if node_id not in found]
            if missing:
                stale = self._opened.leave_out(missing)
                unknown = [node_id for node_id in missing if node_id not in stale]
                if unknown and raise_error:
                    raise ValueError(f"doc_id {unknown[0]} not found.")
            nodes += [found[node_id] for node_id in batch if node_id in found]
        return nodes

    def get_node_dict(self, node_id_dict: dict[int, str]) -> dict[int, BaseNode]:
        """The nodes with these ids, under the given keys."""
        found = {node.node_id: node for node in self.get_nodes(list(node_id_dict.values()))}
        return {key: found[node_id] for key, node_id in node_id_dict.items() if node_id in found}

    def document_exists(self, doc_id: str) -> bool:
        """Whether the node is live."""
        return bool(live.stamps(self._backend.pool, self._current.get(), [doc_id]))

    def delete_document(self, doc_id: str, raise_error: bool = True) -> None:
        """Delete the document with this id and all its nodes, or else the node with this id, from both stores."""
        self._prefetch.forget()
        n_deleted = self._writer.delete_document_or_node(doc_id)
        if not self._opened.leave_out([doc_id]) and n_deleted:
            self._opened.deleted(self._missing)
        if not n_deleted and raise_error:
            raise ValueError(f"doc_id {doc_id} not found.")

    # Documents

    def delete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        """Delete a document, its hash and all its nodes from both stores.

        Within ``update_ref_doc`` and a pipeline's upserts the old version stays until the new one replaces it.
        """
        self._delete_ref_doc(ref_doc_id, raise_error, this_operation())

    def get_ref_doc_info(self, ref_doc_id: str) -> RefDocInfo | None:
        """Nodes and metadata of a document that was split into nodes."""
        found = live.ref_docs(self._backend.pool, self._current.get(), [ref_doc_id])
        return next((info for _, info in _infos(found)), None)

    def get_all_ref_doc_info(self) -> dict[str, RefDocInfo] | None:
        """Nodes and metadata of all documents that were split into nodes."""
        return all_ref_doc_info(self._backend.pool, self._current.get())

    def set_document_hash(self, doc_id: str, doc_hash: str) -> None:
        """Set a document's hash; it is recorded once all its nodes are in both stores."""
        self._writer.docstore_used()
        self._set_hash(doc_id, doc_hash, own_operation())

    def set_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        """Set the hashes of documents that are added next."""
        self._set_hashes(doc_hashes, own_operation())

    def get_document_hash(self, doc_id: str) -> str | None:
        """The hash of a complete document, or of a node."""
        self._writer.docstore_used()
        return self._hash(doc_id)

    def get_all_document_hashes(self) -> dict[str, str]:
        """Hash → id of all documents that LlamaIndex code added; without those that an ingest read.

        LlamaIndex looks hashes up in the keys and takes the values as all ids. So if several documents have the same
        hash, the keys of all but the first are the hash followed by the id.
        """
        self._writer.docstore_used()
        return self._hashes()

    # Asynchronous forms. They run in a thread, because a connection must not be bound to one event loop.

    async def async_add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int | None = None,  # noqa: ARG002
        store_text: bool = True,
    ) -> None:
        """As ``add_documents``."""
        await asyncio.to_thread(self._add, docs, allow_update, store_text, this_operation())

    async def aget_document(self, doc_id: str, raise_error: bool = True) -> BaseNode | None:
        """As ``get_document``."""
        return await asyncio.to_thread(self.get_document, doc_id, raise_error)

    async def aget_nodes(self, node_ids: list[str], raise_error: bool = True) -> list[BaseNode]:
        """As ``get_nodes``."""
        return await asyncio.to_thread(self.get_nodes, node_ids, raise_error)

    async def aget_node_dict(self, node_id_dict: dict[int, str]) -> dict[int, BaseNode]:
        """As ``get_node_dict``."""
        return await asyncio.to_thread(self.get_node_dict, node_id_dict)

    async def adocument_exists(self, doc_id: str) -> bool:
        """As ``document_exists``."""
        return await asyncio.to_thread(self.document_exists, doc_id)

    async def adelete_document(self, doc_id: str, raise_error: bool = True) -> None:
        """As ``delete_document``."""
        await asyncio.to_thread(self.delete_document, doc_id, raise_error)

    async def adelete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        """As ``delete_ref_doc``."""
        await asyncio.to_thread(self._delete_ref_doc, ref_doc_id, raise_error, this_operation())

    async def aget_ref_doc_info(self, ref_doc_id: str) -> RefDocInfo | None:
        """As ``get_ref_doc_info``."""
        return await asyncio.to_thread(self.get_ref_doc_info, ref_doc_id)

    async def aget_all_ref_doc_info(self) -> dict[str, RefDocInfo] | None:
        """As ``get_all_ref_doc_info``."""
        return await asyncio.to_thread(self.get_all_ref_doc_info)

    async def aset_document_hash(self, doc_id: str, doc_hash: str) -> None:
        """As ``set_document_hash``."""
        self._writer.docstore_used()
        await asyncio.to_thread(self._set_hash, doc_id, doc_hash, own_operation())

    async def aset_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        """As ``set_document_hashes``."""
        await asyncio.to_thread(self._set_hashes, doc_hashes, own_operation())

    async def aget_document_hash(self, doc_id: str) -> str | None:
        """As ``get_document_hash``."""
        self._writer.docstore_used()
        return await asyncio.to_thread(self._hash, doc_id)

    async def aget_all_document_hashes(self) -> dict[str, str]:
        """As ``get_all_document_hashes``."""
        self._writer.docstore_used()
        return await asyncio.to_thread(self._hashes)

    def _hash(self, doc_id: str) -> str | None:
        self._writer.flush_hashes()
        hashes = self._prefetch.find(doc_id, partial(live.hashes_from, self._backend.pool, self._current.get()))
        if doc_id in hashes:
            return hashes[doc_id]
        node = self.get_document(doc_id, raise_error=False)
        return node.hash if node is not None else None

    def _hashes(self) -> dict[str, str]:
        self._writer.flush_hashes()
        pool, collection = self._backend.pool, self._current.get()
        hashes: dict[str, str] = {}
        for document_id, doc_hash in live.iter_hashes(pool, collection):
            hashes[doc_hash if doc_hash not in hashes else f"{doc_hash} {document_id}"] = document_id
        documents = set(hashes.values())
        for node, owner in live.iter_parts_without_vector(pool, collection):
            if owner in documents:
                hashes.setdefault(from_live(node).hash, owner)
        return hashes

    def _add(self, docs: Sequence[BaseNode], allow_update: bool, store_text: bool, owner: int) -> None:
        if not docs:
            return
        pool, collection = self._backend.pool, self._current.get()
        if is_built_by_summaries() and live.has_vectors_but_of_summaries(pool, collection):
            raise mixed_vectors_error(collection)
        if not allow_update:
            self._refuse_existing([node.node_id for node in docs])
        self._prefetch.forget([each for node in docs for each in (node.node_id, node.ref_doc_id)])
        self._writer.add_documents(docs, store_text=store_text, owner=owner)

    def _set_hash(self, doc_id: str, doc_hash: str, owner: int) -> None:
        self._prefetch.forget([doc_id])
        self._writer.set_hash(doc_id, doc_hash, owner=owner)

    def _set_hashes(self, doc_hashes: dict[str, str], owner: int) -> None:
        self._prefetch.forget(doc_hashes)
        self._writer.set_hashes(doc_hashes, owner=owner)

    def _delete_ref_doc(self, ref_doc_id: str, raise_error: bool, owner: int) -> None:
        self._prefetch.forget([ref_doc_id])
        was_live = self._writer.delete_or_replace(ref_doc_id, owner=owner)
        self._opened.deleted(self._missing)
        if not was_live and raise_error:
            raise ValueError(f"ref_doc_id {ref_doc_id} not found.")

    def _missing(self, ids: Sequence[str]) -> set[str]:
        return live.missing(self._backend.pool, self._current.get(), ids)

    def _found(self, ids: Sequence[str]) -> dict[str, BaseNode]:
        pool, collection = self._backend.pool, self._current.get()
        stamps = live.stamps(pool, collection, ids)
        found: dict[str, BaseNode] = {}
        if not stamps:
            return found
        for body in self._backend.nodes.get_nodes(collection.name, list(stamps)):
            expected = stamps[body["_id"]]
            if body.get("stamp") == expected.stamp or (body.get("stamp") == 0 and expected.staged):
                found[body["_id"]] = from_body(body["__type__"], body["__data__"])
        behind = [node_id for node_id in stamps if node_id not in found]
        if behind:
            # MongoDB gets their current state soon; PostgreSQL has every node in full.
            found |= {node.node_id: from_live(node) for node in live.live_nodes(pool, collection, behind)}
        return found

    def _refuse_existing(self, ids: Sequence[str]) -> None:
        existing = live.stamps(self._backend.pool, self._current.get(), ids)
        if existing:
            raise ValueError(f"node_id {min(existing)} already exists. Set allow_update to True to overwrite.")


def all_ref_doc_info(pool: PostgresPool, collection: Collection) -> dict[str, RefDocInfo]:
    """Nodes and metadata of all documents that were split into nodes."""
    return dict(_infos(live.iter_ref_docs(pool, collection)))


def _infos(documents: Sequence[RefDoc] | Iterator[RefDoc]) -> Iterator[tuple[str, RefDocInfo]]:
    for document in documents:
        if document.node_ids:
            metadata: dict[str, Any] = document.metadata
            yield document.document_id, RefDocInfo(node_ids=document.node_ids, metadata=metadata)
