"""After each kind of work both stores hold the same nodes, each once, and what names them is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support.real_documents import write_corpus
from tests.support.stores import Stores


@pytest.fixture
def stores(settings: Settings) -> Stores:
    assert settings.postgres_url is not None and settings.mongo_url is not None
    urls = settings.postgres_url.get_secret_value(), settings.mongo_url.get_secret_value()
    return Stores(*urls, settings.mongo_database)


def test_both_stores_agree_after_adding_changing_moving_and_deleting(
    store: Ragstore, stores: Stores, tmp_path: Path
) -> None:
    n_documents = write_corpus(tmp_path / "docs")
    report = store.ingest(tmp_path / "docs")
    assert (report.added, report.failed) == (n_documents, 0)
    assert stores.assert_agree("default") == report.chunks
    assert len(stores.entries("default/ref_doc_info")) == n_documents

    documents = sorted((tmp_path / "docs" / "packages").iterdir())
    for document in documents[:20]:
        document.write_text(document.read_text() + "\n\nA sentence at the end.\n")
    for document in documents[20:40]:
        document.rename(document.with_stem(f"{document.stem}-renamed"))
    for document in documents[40:60]:
        store.delete(str(document))
    stores.assert_agree("default")
    for document in documents[40:60]:
        document.unlink()

    report = store.ingest(tmp_path / "docs")
    assert (report.updated, report.renamed, report.unchanged) == (20, 20, n_documents - 60)
    assert report.embedded <= 40 and report.reused > report.embedded
    n_nodes = stores.assert_agree("default")
    assert len(stores.entries("default/ref_doc_info")) == n_documents - 20
    assert store.ingest(tmp_path / "docs").unchanged == n_documents - 20
    assert stores.assert_agree("default") == n_nodes


def test_the_index_struct_stays_small_however_many_nodes_there_are(
    store: Ragstore, stores: Stores, tmp_path: Path
) -> None:
    from llama_index.core import Document, load_index_from_storage

    write_corpus(tmp_path / "docs")
    report = store.ingest(tmp_path / "docs")
    assert report.chunks > 2000
    index = store.index()
    index.insert(Document(text="A metaclass makes classes, as a baker makes bread.", doc_id="note"))
    index.storage_context.index_store.add_index_struct(index.index_struct)
    best = index.as_retriever(similarity_top_k=1).retrieve("a metaclass as a baker")
    assert [each.node.ref_doc_id for each in best] == ["note"]
    assert stores.assert_agree("default") == report.chunks + 1

    structs = stores.entries("index_store/data")
    assert len(structs) == 1
    assert all(len(str(struct)) < 1000 for struct in structs.values())
    again = load_index_from_storage(store.storage_context(), index_id="default", embed_model=index._embed_model)
    assert len(str(again.index_struct.to_dict())) < 1000
    question = "What is a metaclass?"
    assert [each.node.node_id for each in again.as_retriever(similarity_top_k=3).retrieve(question)] == [
        hit.node_id for hit in store.query(question, mode="vector", top_k=3)
    ]
