"""The same question by LlamaIndex alone: PGVectorStore, WordLlama, a retriever. Run by its path, not imported."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import wordllama
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.vector_stores.postgres import PGVectorStore
from wordllama import WordLlama

table, question = sys.argv[1:]
url = re.sub("^postgres(ql)?://", "", os.environ["RAGSTORE_POSTGRES_URL"])


class WordLlamaEmbedding(BaseEmbedding):
    """WordLlama as LlamaIndex wants it."""

    model: Any = None

    def _get_text_embedding(self, text: str) -> list[float]:
        values: list[float] = self.model.embed([text], norm=True)[0].tolist()
        return values

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


model = WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
store = PGVectorStore.from_params(
    connection_string=f"postgresql+psycopg2://{url}",
    async_connection_string=f"postgresql+asyncpg://{url}",
    table_name=table,
    embed_dim=256,
    perform_setup=False,
)
index = VectorStoreIndex.from_vector_store(store, embed_model=WordLlamaEmbedding(model=model))
for hit in index.as_retriever(similarity_top_k=10).retrieve(question):
    sys.stdout.write(f"{hit.score} {hit.text}\n")
