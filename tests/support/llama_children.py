"""LlamaIndex operations in processes of their own, that may be killed at a failpoint or run at the same time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llama_index.core import (
    Document,
    DocumentSummaryIndex,
    SimpleKeywordTableIndex,
    SummaryIndex,
    TreeIndex,
    VectorStoreIndex,
)
from llama_index.core.graph_stores.types import EntityNode, Relation
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode

from ragstore.llama import RagstoreGraphStore
from tests.support.forkserver import a_process, context
from tests.support.graphs import a_property_graph
from tests.support.llama_faces import Faces, HashEmbedding, a_document, a_splitter, faces_on

INDEXES = (SummaryIndex, SimpleKeywordTableIndex, DocumentSummaryIndex, TreeIndex)
"""Kinds of index whose structs name nodes."""


@dataclass(frozen=True)
class Place:
    """Where a child finds the databases."""

    postgres_url: str
    mongo_url: str
    mongo_name: str

    def run(self, operation: str, *arguments: object, failpoint: str | None = None) -> bool:
        """Run an operation; returns whether it survived."""
        child = self.start(operation, *arguments, failpoint=failpoint)
        child.join(60)
        assert child.exitcode in (0, -signal.SIGKILL), f"{operation} ended with {child.exitcode}"
        return bool(child.exitcode == 0)

    def run_together(self, calls: Sequence[tuple[object, ...]]) -> None:
        """Run operations at the same time, each in a process; all must succeed."""
        barrier = context.Barrier(len(calls))
        children = [self.start(*call, barrier=barrier) for call in calls]  # type: ignore[arg-type]
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * len(calls)

    def start(self, operation: str, *arguments: object, failpoint: str | None = None, barrier: object = None):  # type: ignore[no-untyped-def]
        child = a_process(_child, self, operation, arguments, failpoint, barrier)
        child.start()
        return child


def _child(place: Place, operation: str, arguments: Sequence[object], failpoint: str | None, barrier) -> None:  # type: ignore[no-untyped-def]
    if failpoint is not None:
        os.environ.update(RAGSTORE_ENV="test", RAGSTORE_FAILPOINT=failpoint)
    with faces_on(place.postgres_url, place.mongo_url, place.mongo_name) as faces:
        if barrier is not None:
            barrier.wait(60)
        OPERATIONS[operation](faces, *arguments)


def from_documents(faces: Faces, documents: Sequence[Document], batch: int = 4) -> None:
    VectorStoreIndex.from_documents(
        list(documents),
        storage_context=faces.context(),
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
        insert_batch_size=batch,
    )


def refresh(faces: Faces, documents: Sequence[Document]) -> None:
    """On the index that ragstore makes."""
    faces.index().refresh_ref_docs(list(documents))


def refresh_plain(faces: Faces, documents: Sequence[Document]) -> None:
    """On LlamaIndex's own index class."""
    index = VectorStoreIndex(
        nodes=[], storage_context=faces.context(), embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    index.refresh_ref_docs(list(documents))


def insert(faces: Faces, documents: Sequence[Document]) -> None:
    index = faces.index()
    for document in documents:
        index.insert(document)


def ainsert(faces: Faces, documents: Sequence[Document]) -> None:
    index = faces.index()

    async def work() -> None:
        await asyncio.gather(*(index.ainsert(document) for document in documents))

    asyncio.run(work())


def insert_in_batches(faces: Faces, documents: Sequence[Document]) -> None:
    """Two nodes a call of the vector store."""
    index = faces.index()
    index._insert_batch_size = 2
    for document in documents:
        index.insert(document)


def insert_with_bodies(faces: Faces, documents: Sequence[Document]) -> None:
    index = faces.index()
    index._store_nodes_override = True
    for document in documents:
        index.insert(document)


def arefresh(faces: Faces, documents: Sequence[Document]) -> None:
    asyncio.run(faces.index().arefresh_ref_docs(list(documents)))


def update(faces: Faces, documents: Sequence[Document]) -> None:
    index = faces.index()
    for document in documents:
        index.update_ref_doc(document)


def again_and_again(faces: Faces, operation: str, name: str, versions: Sequence[int]) -> None:
    """Write one document in one version after the other, or delete it so often."""
    for version in versions:
        if operation == "delete":
            faces.context().docstore.delete_document(name, raise_error=False)
        else:
            OPERATIONS[operation](faces, [a_document(name, version, 4)])


def recover(faces: Faces) -> None:
    faces.backend.recoverer.recover()


def insert_nodes(faces: Faces, nodes: Sequence[TextNode]) -> None:
    faces.index().insert_nodes(list(nodes))


def put_triplets(faces: Faces, triplets: Sequence[tuple[str, str, str]]) -> None:
    store = faces.context().graph_store
    assert isinstance(store, RagstoreGraphStore)
    store.upsert_triplets(triplets[:10])
    store.upsert_triplets(triplets)
    for triplet in triplets[:20]:
        store.upsert_triplet(*triplet)


def put_relations(faces: Faces, relations: Sequence[Relation]) -> None:
    store = faces.context().property_graph_store
    assert store is not None
    for i in range(0, len(relations), 100):
        store.upsert_relations(list(relations[i : i + 100]))
        store.upsert_nodes([EntityNode(name=each.target_id, label="put") for each in relations[i : i + 100]])
    store.delete(ids=[relations[0].source_id])
    store.upsert_relations(list(relations))


def build_graph(faces: Faces, documents: Sequence[Document]) -> None:
    a_property_graph(faces.context(), *documents)


def build_index(faces: Faces, kind: str, documents: Sequence[Document]) -> None:
    SimpleKeywordTableIndex._extract_keywords = lambda self, text: set(text.lower().split())  # type: ignore[method-assign]
    {each.__name__: each for each in INDEXES}[kind].from_documents(
        list(documents),
        storage_context=faces.context(),
        llm=MockLLM(max_tokens=5),
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
    )


def pipeline(strategy: DocstoreStrategy, *, is_async: bool = False) -> Callable[[Faces, Sequence[Document]], None]:
    def run(faces: Faces, documents: Sequence[Document]) -> None:
        context = faces.context()
        made = IngestionPipeline(
            transformations=[a_splitter(), HashEmbedding()],
            docstore=context.docstore,
            vector_store=context.vector_store,
            docstore_strategy=strategy,
            disable_cache=True,
        )
        if is_async:
            asyncio.run(made.arun(documents=list(documents)))
        else:
            made.run(documents=list(documents))

    return run


OPERATIONS: dict[str, Callable[..., None]] = {
    "from_documents": from_documents,
    "refresh": refresh,
    "refresh_plain": refresh_plain,
    "insert": insert,
    "ainsert": ainsert,
    "insert_in_batches": insert_in_batches,
    "insert_with_bodies": insert_with_bodies,
    "arefresh": arefresh,
    "update": update,
    "again_and_again": again_and_again,
    "recover": recover,
    "insert_nodes": insert_nodes,
    "build_index": build_index,
    "put_triplets": put_triplets,
    "put_relations": put_relations,
    "build_graph": build_graph,
    "upserts": pipeline(DocstoreStrategy.UPSERTS),
    "aupserts": pipeline(DocstoreStrategy.UPSERTS, is_async=True),
    "duplicates_only": pipeline(DocstoreStrategy.DUPLICATES_ONLY),
    "upserts_and_delete": pipeline(DocstoreStrategy.UPSERTS_AND_DELETE),
}

OF_OTHER_THINGS = {
    "again_and_again",
    "recover",
    "insert_nodes",
    "put_triplets",
    "put_relations",
    "build_graph",
    "build_index",
}
"""Those that take something else than documents."""


def some_documents(version: int, names: str = "abc", n_sentences: int = 3) -> list[Document]:
    return [a_document(name, version, n_sentences) for name in names]
