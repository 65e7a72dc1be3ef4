"""Where LlamaIndex would keep the vectors of images: nowhere, said at once instead of lost at exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult

from ragstore.errors import UsageError


class NoImageStore(BasePydanticVectorStore):
    """Holds nothing and refuses to: images have vectors of a space of their own, which is another collection's."""

    stores_text: bool = True
    collection_name: str

    @property
    def client(self) -> Any:
        """None."""
        return None

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002
        """Refused.

        Raises:
            UsageError: says how to give images a place.
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
        """Nothing to delete."""

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:  # noqa: ARG002
        """Nothing is found."""
        return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
