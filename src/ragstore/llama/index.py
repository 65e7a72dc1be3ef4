"""Vector index of a collection that knows its documents, and the index struct that stays empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from llama_index.core import VectorStoreIndex
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.data_structs.struct_type import IndexStructType
from llama_index.core.indices.registry import INDEX_STRUCT_TYPE_TO_INDEX_CLASS
from llama_index.core.storage.docstore.types import RefDocInfo

from ragstore.llama.vector_store import RagstoreVectorStore

_TYPE = cast("IndexStructType", "ragstore_vector_store")
"""The key under which ``load_index_from_storage`` finds ``RagstoreVectorIndex``; LlamaIndex's own type is stored."""


class NoNodes(dict[str, str]):
    """The node ids in a vector index's struct: always empty, because the ledger has them.

    LlamaIndex keeps all of them in this one document, and every writer overwrites the additions of the others.
    """

    def __setitem__(self, key: str, value: str) -> None:
        """Ignored: nothing is kept."""

    def __delitem__(self, key: str) -> None:
        """Ignored: nothing was kept."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Ignored: nothing is kept."""


@dataclass(eq=False)
class RagstoreIndexDict(IndexDict):  # noqa: PLW1641 - mutable, as LlamaIndex's own
    """The struct of a collection's vector index; equal to a struct of LlamaIndex's own class with the same fields."""

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, IndexDict) else NotImplemented

    @classmethod
    def get_type(cls) -> IndexStructType:
        """The key of ``RagstoreVectorIndex`` in LlamaIndex's registry."""
        return _TYPE


class RagstoreVectorIndex(VectorStoreIndex):
    """A ``VectorStoreIndex`` that knows its documents."""

    index_struct_cls = RagstoreIndexDict

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """All documents with their nodes and metadata."""
        return self.docstore.get_all_ref_doc_info() or {}


_upstreams_ref_doc_info: Any = VectorStoreIndex.__dict__["ref_doc_info"]


def _ref_doc_info(index: VectorStoreIndex) -> dict[str, RefDocInfo]:
    store = index.vector_store
    if isinstance(store, RagstoreVectorStore):
        return store.ref_doc_info()
    found: dict[str, RefDocInfo] = _upstreams_ref_doc_info.fget(index)
    return found


# ``from_documents`` and ``from_vector_store`` make an index of LlamaIndex's own class, whose ``ref_doc_info`` raises.
setattr(VectorStoreIndex, "ref_doc_info", property(_ref_doc_info, doc=_upstreams_ref_doc_info.__doc__))  # noqa: B010

INDEX_STRUCT_TYPE_TO_INDEX_CLASS[_TYPE] = RagstoreVectorIndex
