"""Small programs whose start or memory rows 8 and 10 measure: ``python programs.py NAME ARGUMENT…``. Not to be imported.

Each imports what it needs itself, because the time of its imports is part of what is measured.
"""

import sys


def bare_query(table: str, question: str) -> None:
    """Answer a question with psycopg2, WordLlama and one statement."""
    import os
    from pathlib import Path

    import psycopg2
    import wordllama
    from wordllama import WordLlama

    url = os.environ["RAGSTORE_POSTGRES_URL"]
    model = WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    vector = str(model.embed([question], norm=True)[0].tolist())
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT text, metadata_, 1 - (embedding <=> %(vector)s) FROM {table} "
            "ORDER BY embedding <=> %(vector)s LIMIT 10",
            {"vector": vector},
        )
        for text, _metadata, score in cursor.fetchall():
            sys.stdout.write(f"{score} {text}\n")


def plain_query(table: str, question: str) -> None:
    """Answer the same question with LlamaIndex alone: PGVectorStore, WordLlama, a retriever."""
    import os
    import re
    from pathlib import Path
    from typing import Any

    import wordllama
    from llama_index.core import VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.vector_stores.postgres import PGVectorStore
    from wordllama import WordLlama

    class WordLlamaEmbedding(BaseEmbedding):
        """WordLlama as a model of LlamaIndex."""

        model: Any = None

        def _get_text_embedding(self, text: str) -> list[float]:
            values: list[float] = self.model.embed([text], norm=True)[0].tolist()
            return values

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    url = re.sub("^postgres(ql)?://", "", os.environ["RAGSTORE_POSTGRES_URL"])
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


def peak_memory(*command: str) -> None:
    """Run a command and print the most memory that it took, in bytes.

    From this small process, because a child's peak begins at the size of the process that started it.
    """
    import json
    import os
    import subprocess

    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    json.dump({"status": child.returncode, "bytes": usage.ru_maxrss * unit}, sys.stdout)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    vars()[name](*arguments)
