"""LlamaIndex's vector index where its documents are known, and are updated without a gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.data_structs.struct_type import IndexStructType
from llama_index.core.indices.registry import INDEX_STRUCT_TYPE_TO_INDEX_CLASS
from llama_index.core.ingestion import arun_transformations, run_transformations
from llama_index.core.storage.docstore.types import RefDocInfo

from ragstore.llama.document_store import RagstoreDocumentStore

_TYPE = cast("IndexStructType", "ragstore_vector_store")
"""Under this key ``load_index_from_storage`` finds the class below; stored is LlamaIndex's own type."""


class NoNodes(dict[str, str]):
    """The node ids of a vector index's struct: none, because the ledger knows them.

    Upstream keeps all of them there, in one document, and every writer overwrites the others' additions.
    """

    def __setitem__(self, key: str, value: str) -> None:
        """Nothing is kept."""

    def __delitem__(self, key: str) -> None:
        """Nothing was kept."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""


@dataclass
class RagstoreIndexDict(IndexDict):
    """The struct of a collection's vector index."""

    @classmethod
    def get_type(cls) -> IndexStructType:
        """The key of ``RagstoreVectorIndex`` in LlamaIndex's registry."""
        return _TYPE


class RagstoreVectorIndex(VectorStoreIndex):
    """A ``VectorStoreIndex`` that knows its documents and replaces one at once.

    LlamaIndex's own deletes a document before it embeds the new version: meanwhile nobody finds it.
    """

    index_struct_cls = RagstoreIndexDict

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """All documents with their nodes and metadata."""
        return self.docstore.get_all_ref_doc_info() or {}

    def update_ref_doc(self, document: Document, **update_kwargs: Any) -> None:
        """Replace a document and its nodes, in one transaction where it has no more than ``insert_batch_size``."""
        with self._callback_manager.as_trace("update_ref_doc"):
            insert_kwargs = update_kwargs.get("insert_kwargs", {})
            self._own_docstore.begin_document(document.id_, document.hash)
            nodes = run_transformations(
                [document], self._transformations, show_progress=self._show_progress, **insert_kwargs
            )
            if nodes:
                self.insert_nodes(nodes, **insert_kwargs)
                self._own_docstore.end_document(document.id_)
            else:
                self.delete_ref_doc(document.id_, delete_from_docstore=True, **update_kwargs.get("delete_kwargs", {}))

    async def aupdate_ref_doc(self, document: Document, **update_kwargs: Any) -> None:
        """As ``update_ref_doc``."""
        with self._callback_manager.as_trace("aupdate_ref_doc"):
            insert_kwargs = update_kwargs.get("insert_kwargs", {})
            self._own_docstore.begin_document(document.id_, document.hash)
            nodes = await arun_transformations(
                [document], self._transformations, show_progress=self._show_progress, **insert_kwargs
            )
            if nodes:
                await self.ainsert_nodes(nodes, **insert_kwargs)
                await self._own_docstore.aend_document(document.id_)
            else:
                delete_kwargs = update_kwargs.get("delete_kwargs", {})
                await self.adelete_ref_doc(document.id_, delete_from_docstore=True, **delete_kwargs)

    @property
    def _own_docstore(self) -> RagstoreDocumentStore:
        return cast("RagstoreDocumentStore", self.docstore)


INDEX_STRUCT_TYPE_TO_INDEX_CLASS[_TYPE] = RagstoreVectorIndex
