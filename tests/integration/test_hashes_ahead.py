"""Hashes that are asked for one after the other are read many at once, and never hide what changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from pymongo.database import Database

from tests.support.llama_faces import HashEmbedding, a_document, a_splitter
from tests.support.plain_stack import CountingEmbedding, Ours, build, counted, load
from tests.support.servers import Servers


@pytest.fixture
def ours(test_servers: Servers, settings: Any, mongo_database: Database[dict[str, Any]]) -> Iterator[Ours]:
    stack = Ours(settings.postgres_url.get_secret_value(), test_servers.mongo_url, mongo_database.name)
    yield stack
    stack.close()


def documents(n: int, version: int = 1) -> list[Document]:
    """In an order that is not that of their ids."""
    return [a_document(f"d{i * 37 % 101}", version, 1) for i in range(n)]


def a_run(context: Any, docs: list[Document], model: Any = None) -> int:
    pipeline = IngestionPipeline(
        transformations=[a_splitter(), model or HashEmbedding()],
        docstore=context.docstore,
        vector_store=context.vector_store,
        docstore_strategy=DocstoreStrategy.UPSERTS,
        disable_cache=True,
    )
    return len(pipeline.run(documents=docs))


def test_a_run_over_unchanged_documents_asks_a_few_statements(ours: Ours) -> None:
    docs = documents(100)
    assert a_run(ours.context(), docs) == 100
    with counted(ours) as (stack, trips):
        context = stack.context()
        context.docstore.get_document_hash("d1")
        trips.reset()
        assert a_run(context, docs) == 0
        # Of them the run itself; a statement a document would be a hundred.
        assert trips.all <= 15


def test_a_refresh_of_unchanged_documents_asks_a_few_statements(ours: Ours) -> None:
    docs = documents(100)
    build(ours.context(), docs)
    with counted(ours) as (stack, trips):
        index = load(stack.context())
        trips.reset()
        assert index.refresh_ref_docs(docs) == [False] * 100
        assert trips.all <= 15


def test_changed_and_new_documents_are_found_among_unchanged_ones(ours: Ours) -> None:
    build(ours.context(), documents(60))
    index = load(ours.context())
    new = [document if i % 7 else a_document(document.id_, 2, 1) for i, document in enumerate(documents(80))]
    assert index.refresh_ref_docs(new) == [not i % 7 or i >= 60 for i in range(80)]
    assert index.refresh_ref_docs(new) == [False] * 80


def test_what_the_program_itself_deleted_is_added_again_at_once(ours: Ours) -> None:
    docs = documents(50)
    context = ours.context()
    build(context, docs)
    index = load(context)
    assert not any(index.refresh_ref_docs(docs))
    deletions = [
        lambda: index.delete_ref_doc("d37"),
        lambda: context.docstore.delete_document("d37"),
        lambda: context.vector_store.delete("d37"),
        lambda: context.vector_store.delete_nodes(
            [n for info in [context.docstore.get_ref_doc_info("d37")] if info for n in info.node_ids]
        ),
        context.vector_store.clear,
    ]
    for delete in deletions:
        delete()
        assert index.refresh_ref_docs(docs)[1] is True
        assert not any(index.refresh_ref_docs(docs))


def test_outside_of_a_run_a_hash_is_what_is_stored_now(ours: Ours) -> None:
    docs = documents(20)
    build(ours.context(), docs)
    index = load(ours.context())
    assert not any(index.refresh_ref_docs(docs))
    other = Ours(ours.postgres_url, ours.mongo_url, ours.mongo_name)
    other.context().docstore.delete_ref_doc("d37")
    other.close()
    assert index.docstore.get_document_hash("d37") is None


def test_nothing_is_embedded_again(ours: Ours) -> None:
    docs, model = documents(30), CountingEmbedding()
    a_run(ours.context(), docs, model)
    assert model.n_embedded == 30
    a_run(ours.context(), docs, model)
    assert model.n_embedded == 30
