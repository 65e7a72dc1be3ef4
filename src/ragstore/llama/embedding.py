"""A collection's embedding model as LlamaIndex's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from ragstore.embedding import Embedder

_BATCH_SIZE = 1_000
"""Texts in one call; the model cuts it into batches of its own."""


class RagstoreEmbedding(BaseEmbedding):
    """Any of ragstore's models, loaded when first used."""

    _load: Callable[[], Embedder] = PrivateAttr()

    def __init__(self, load: Callable[[], Embedder], *, name: str) -> None:
        super().__init__(model_name=name, embed_batch_size=_BATCH_SIZE)
        self._load = load

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex shows."""
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
