from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Document, StorageContext, SummaryIndex, VectorStoreIndex

from ragstore.app import Ragstore
from ragstore.errors import RefusedError
from ragstore.settings import Settings
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_hierarchy, a_splitter, faces_on
from tests.support.parts import postgres_url
from tests.support.persisted import a_persist_dir, answers, assert_equal_answers, by_vector, loaded

DOCUMENTS = [a_document(name, file_path=f"/manuals/{name}.md", page=i, tags=["x", "ü"]) for i, name in enumerate("abc")]
QUESTIONS = [f"sentence {i} of {name}" for i in range(4) for name in "abc"]


@pytest.fixture
def faces(settings: Settings, store: Ragstore) -> Iterator[Faces]:
    store.create_collection("docs", model="external", dim=DIM)
    assert settings.mongo_url is not None
    with faces_on(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database) as opened:
        yield opened


def filled(store: Ragstore) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        DOCUMENTS,
        storage_context=store.storage_context("docs"),
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
    )


def test_plain_llamaindex_loads_it_and_answers_equally(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    index = filled(store)
    report = store.export(tmp_path / "storage", collection="docs")
    assert (report.documents, report.nodes, report.embedded, report.ok) == (3, 18, 0, True)
    plain = loaded(tmp_path / "storage")
    assert plain.index_id == "docs"
    assert_equal_answers(answers(plain, QUESTIONS), answers(index, QUESTIONS))
    ids = [row[0] for row in faces.sql("SELECT node_id FROM ragstore.data_docs")]
    assert {n.node_id: n for n in plain.docstore.get_nodes(ids)} == {
        n.node_id: n for n in index.docstore.get_nodes(ids)
    }
    assert sorted(os.listdir(tmp_path / "storage")) == [
        "default__vector_store.json",
        "docstore.json",
        "graph_store.json",
        "image__vector_store.json",
        "index_store.json",
    ]


def test_documents_can_be_refreshed_and_deleted_in_what_was_exported(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    filled(store)
    store.export(tmp_path / "storage", collection="docs")
    plain = loaded(tmp_path / "storage")
    assert plain.refresh_ref_docs([*DOCUMENTS[:2], a_document("c", version=2)]) == [False, False, True]
    plain.delete_ref_doc("a", delete_from_docstore=True)
    assert set(plain.ref_doc_info) == {"b", "c"}
    assert len(plain.docstore.docs) == 12


def test_filters_work_on_what_was_exported(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

    filled(store)
    store.export(tmp_path / "storage", collection="docs")
    filters = MetadataFilters(filters=[MetadataFilter(key="page", value=1)])
    found = loaded(tmp_path / "storage").as_retriever(similarity_top_k=99, filters=filters).retrieve("sentence")
    assert {hit.node.ref_doc_id for hit in found} == {"b"}


def test_exported_and_imported_again_it_is_the_same(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    index = filled(store)
    store.export(tmp_path / "storage", collection="docs")
    report = store.import_(tmp_path / "storage", collection="docs")
    assert (report.nodes, report.skipped, report.ok, report.noted.counts) == (0, 18, True, {})
    faces.assert_holds(*DOCUMENTS)
    assert_equal_answers(answers(index, QUESTIONS), answers(loaded(tmp_path / "storage"), QUESTIONS))


def test_an_imported_folder_comes_out_as_it_went_in(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    before = a_persist_dir(tmp_path / "before", DOCUMENTS)
    store.import_(before, collection="docs")
    store.export(tmp_path / "after", collection="docs")
    for name in ("docstore.json", "default__vector_store.json", "index_store.json", "graph_store.json"):
        plain, ours = (json.loads((folder / name).read_text()) for folder in (before, tmp_path / "after"))
        if name.startswith("default"):
            vectors = plain.pop("embedding_dict"), ours.pop("embedding_dict")
            assert vectors[0].keys() == vectors[1].keys()
            for node_id, vector in vectors[0].items():
                assert np.array_equal(np.float32(vector), np.float32(vectors[1][node_id]))
        if name.startswith("index"):
            plain, ours = (json.loads(each["index_store/data"]["manuals"]["__data__"]) for each in (plain, ours))
        assert ours == plain, name


def test_parents_whole_documents_summaries_and_triplets_go_too(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    from llama_index.core.node_parser import get_leaf_nodes

    text = " ".join(f"word{i}" for i in range(300))
    nodes = a_hierarchy().get_nodes_from_documents([Document(text=text, id_="long")])
    context = store.storage_context("docs")
    VectorStoreIndex(nodes=get_leaf_nodes(nodes), embed_model=HashEmbedding(), storage_context=context)
    context.docstore.add_documents([*nodes, Document(text="a whole one", id_="whole")])
    summary = SummaryIndex(nodes, storage_context=context)
    summary.set_index_id("in order")
    context.graph_store.upsert_triplet("pump", "needs", "oil")
    report = store.export(tmp_path / "storage", collection="docs")
    assert report.nodes == len(nodes) + 1
    plain = StorageContext.from_defaults(persist_dir=str(tmp_path / "storage"))
    assert plain.docstore.docs.keys() == context.docstore.docs.keys()
    assert {i: node.get_content() for i, node in plain.docstore.docs.items()} == {
        i: node.get_content() for i, node in context.docstore.docs.items()
    }
    assert plain.docstore.get_document_hash("whole") == context.docstore.get_document_hash("whole")
    assert plain.graph_store.get("pump") == [["needs", "oil"]]
    (in_order,) = [s for s in plain.index_store.index_structs() if s.index_id == "in order"]
    assert in_order.nodes == [node.node_id for node in nodes]  # type: ignore[attr-defined]


def test_it_is_of_one_moment_while_writers_go_on(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    index = filled(store)

    def insert(_: object) -> None:
        index.insert(a_document(f"later {len(faces.hashes())}"))

    store.export(tmp_path / "storage", collection="docs", progress=None)
    before = answers(loaded(tmp_path / "storage"), QUESTIONS)
    import ragstore.transfer.export as export

    tell_every, export._TELL_EVERY = export._TELL_EVERY, 5
    try:
        report = store.export(tmp_path / "again", collection="docs", progress=insert)
    finally:
        export._TELL_EVERY = tell_every
    assert len(faces.hashes()) > 3
    assert (report.documents, report.nodes) == (3, 18)
    assert_equal_answers(answers(loaded(tmp_path / "again"), QUESTIONS), before)


def test_what_is_exported_is_its_owners_alone(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    filled(store)
    store.export(tmp_path / "new", collection="docs")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "new").iterdir()} == {0o600}


def test_an_empty_collection_loads(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    assert store.export(tmp_path / "storage", collection="docs").nodes == 0
    assert by_vector(loaded(tmp_path / "storage"), [1.0] * DIM) == []


def test_a_folder_that_is_not_empty_is_refused_and_stays(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    filled(store)
    target = tmp_path / "storage"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(RefusedError, match="not empty"):
        store.export(target, collection="docs")
    assert os.listdir(target) == ["notes.txt"]


def test_overwriting_replaces_all_of_the_persist_dir_that_was_there(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    filled(store)
    target = a_persist_dir(tmp_path / "storage", [a_document("old")])
    (target / "old__vector_store.json").write_text("{}")
    (target / "notes.txt").write_text("mine")
    store.export(target, collection="docs", overwrite=True)
    assert set(loaded(target).ref_doc_info) == {"a", "b", "c"}
    assert not (target / "old__vector_store.json").exists()
    assert (target / "notes.txt").read_text() == "mine"


def test_it_goes_to_any_file_system(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    import fsspec

    filled(store)
    memory = fsspec.filesystem("memory")
    try:
        store.export("memory://exported", collection="docs")
        plain = loaded("/exported", fs=memory)
        assert set(plain.ref_doc_info) == {"a", "b", "c"}
        with pytest.raises(RefusedError):
            store.export("memory://exported", collection="docs")
        store.export("memory://exported", collection="docs", overwrite=True)
        assert store.import_("memory://exported", collection="docs").skipped == 18
    finally:
        memory.rm("/exported", recursive=True)
