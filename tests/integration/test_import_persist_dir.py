from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, SummaryIndex, VectorStoreIndex, load_index_from_storage
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.errors import EmbeddingSpaceError, TransferError, UsageError
from ragstore.settings import Settings
from tests.support.internals import entries_that_always_fit
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_hierarchy, a_splitter, faces_on
from tests.support.parts import postgres_url
from tests.support.persisted import a_persist_dir, answers, assert_equal_answers, loaded

DOCUMENTS = [a_document(name, file_path=f"/manuals/{name}.md", page=i) for i, name in enumerate("abcde")]
QUESTIONS = [f"sentence {i} of {name}" for i in range(4) for name in "abe"]


@pytest.fixture
def faces(settings: Settings, store: Ragstore) -> Iterator[Faces]:
    """The collection that an import makes, looked at from outside."""
    store.create_collection("docs", model="external", dim=DIM)
    assert settings.mongo_url is not None
    with faces_on(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database) as opened:
        yield opened


def an_index(store: Ragstore, index_id: str | None = None) -> VectorStoreIndex:
    index = load_index_from_storage(
        store.storage_context("docs"), index_id=index_id, embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    assert isinstance(index, VectorStoreIndex)
    return index


def change(path: Path, change: Any) -> None:
    """Let something change the JSON of a file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_it_answers_as_the_plain_index_did_and_nothing_is_embedded(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    report = store.import_(folder, collection="docs")
    assert (report.documents, report.nodes, report.embedded, report.skipped) == (5, 30, 0, 0)
    assert (report.left_behind.counts, report.noted.counts) == ({}, {})
    assert_equal_answers(answers(an_index(store), QUESTIONS), answers(loaded(folder), QUESTIONS))
    faces.assert_holds(*DOCUMENTS)


def test_imported_again_everything_is_skipped_and_nothing_is_written(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    store.import_(folder, collection="docs")
    before = faces.state()
    report = store.import_(folder, collection="docs")
    assert (report.documents, report.nodes, report.skipped) == (0, 0, 30)
    assert faces.state() == before


def test_refresh_and_pipeline_skip_afterwards_what_is_unchanged(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    store.import_(a_persist_dir(tmp_path / "storage", DOCUMENTS), collection="docs")
    before = faces.state()
    index = an_index(store)
    assert index.refresh_ref_docs(DOCUMENTS) == [False] * 5
    assert faces.state() == before
    changed = a_document("a", version=2, file_path="/manuals/a.md", page=0)
    assert index.refresh_ref_docs([changed, *DOCUMENTS[1:]]) == [True, False, False, False, False]
    faces.assert_holds(changed, *DOCUMENTS[1:])


def test_a_hierarchy_comes_over_with_its_parents_in_the_document_store_alone(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    from llama_index.core.node_parser import get_leaf_nodes

    text = " ".join(f"word{i}" for i in range(300))
    nodes = a_hierarchy().get_nodes_from_documents([Document(text=text, id_="long")])
    leaves = get_leaf_nodes(nodes)
    index = VectorStoreIndex(nodes=leaves, embed_model=HashEmbedding())
    index.docstore.add_documents(nodes)
    index.storage_context.persist(tmp_path / "storage")
    report = store.import_(tmp_path / "storage", collection="docs")
    assert (report.documents, report.nodes) == (1, len(nodes))
    assert report.noted.counts == {"nodes_without_vector": len(nodes) - len(leaves)}
    docstore = store.storage_context("docs").docstore
    assert {node.node_id: node for node in docstore.get_nodes([n.node_id for n in nodes])} == {
        node.node_id: node.model_copy(update={"embedding": None}) for node in nodes
    }
    assert len(faces.sql("SELECT * FROM ragstore.body")) == len(nodes) - len(leaves)
    faces.assert_agree()
    assert store.import_(tmp_path / "storage", collection="docs").skipped == len(nodes)


def test_documents_of_a_pipeline_come_over_with_their_hashes(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    from llama_index.core import StorageContext
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline

    def pipeline(context: StorageContext) -> IngestionPipeline:
        return IngestionPipeline(
            transformations=[a_splitter(), HashEmbedding()],
            docstore=context.docstore,
            vector_store=context.vector_store,
            docstore_strategy=DocstoreStrategy.UPSERTS,
            disable_cache=True,
        )

    plain = StorageContext.from_defaults()
    nodes = pipeline(plain).run(documents=DOCUMENTS)
    plain.docstore.add_documents(nodes)
    plain.persist(str(tmp_path / "storage"))
    report = store.import_(tmp_path / "storage", collection="docs")
    assert (report.documents, report.nodes, report.noted.counts) == (5, 35, {})
    before = faces.state()
    assert pipeline(store.storage_context("docs")).run(documents=DOCUMENTS) == []
    assert faces.state() == before
    faces.assert_agree()


def test_other_index_structs_come_over(store: Ragstore, tmp_path: Path) -> None:
    nodes = a_splitter().get_nodes_from_documents(DOCUMENTS)
    index = VectorStoreIndex(nodes, embed_model=HashEmbedding())
    index.set_index_id("by vector")
    summary = SummaryIndex(nodes, storage_context=index.storage_context)
    summary.set_index_id("in order")
    index.storage_context.persist(tmp_path / "storage")
    report = store.import_(tmp_path / "storage", collection="docs")
    assert report.ok
    found = load_index_from_storage(store.storage_context("docs"), index_id="in order")
    assert [hit.node_id for hit in found.as_retriever().retrieve("all")] == [node.node_id for node in nodes]
    assert answers(an_index(store, "by vector"), QUESTIONS)


def test_indexes_that_shared_a_vector_store_are_told(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    index = VectorStoreIndex.from_documents(DOCUMENTS[:2], embed_model=HashEmbedding(), transformations=[a_splitter()])
    VectorStoreIndex.from_documents(
        DOCUMENTS[2:],
        storage_context=index.storage_context,
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
    )
    index.storage_context.persist(tmp_path / "storage")
    report = store.import_(tmp_path / "storage", collection="docs")
    assert report.noted.counts == {"indexes_sharing_nodes": 1}
    faces.assert_holds(*DOCUMENTS)


def test_one_of_several_vector_stores_is_taken_and_the_others_are_named(store: Ragstore, tmp_path: Path) -> None:
    from llama_index.core import StorageContext
    from llama_index.core.vector_stores.simple import SimpleVectorStore

    folder = tmp_path / "storage"
    index = VectorStoreIndex.from_documents(DOCUMENTS[:2], embed_model=HashEmbedding(), transformations=[a_splitter()])
    others = a_splitter().get_nodes_from_documents(DOCUMENTS[2:])
    index.docstore.add_documents(others)
    context = StorageContext(
        index.docstore,
        index.storage_context.index_store,
        {**index.storage_context.vector_stores, "drawings": SimpleVectorStore()},
        index.storage_context.graph_store,
    )
    for node in others:
        node.embedding = HashEmbedding().vector_of(node.get_content())
    context.vector_stores["drawings"].add(others)
    context.persist(str(folder))
    report = store.import_(folder, collection="docs")
    assert (report.nodes, report.ok) == (12, True)
    assert report.noted.examples["other_vector_stores"] == [
        f"ragstore import {folder} --namespace drawings -c COLLECTION"
    ]
    drawn = store.import_(folder, collection="drawn", namespace="drawings")
    assert (drawn.nodes, drawn.ok, drawn.noted.counts["indexes_renamed"]) == (18, True, 1)
    drawing = load_index_from_storage(store.storage_context("drawn"), index_id="drawn", embed_model=HashEmbedding())
    assert len(drawing.as_retriever(similarity_top_k=99).retrieve("sentence")) == 18
    assert {c.name: c.nodes for c in store.collections()} == {"docs": 12, "drawn": 18}
    with pytest.raises(UsageError, match="no vector store 'photos'") as refused:
        store.import_(folder, collection="docs", namespace="photos")
    assert "drawings" in refused.value.hint


def test_a_vector_store_without_a_namespace_is_the_default_one(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    (folder / "default__vector_store.json").rename(folder / "vector_store.json")
    assert store.import_(folder, collection="docs").nodes == 30
    faces.assert_holds(*DOCUMENTS)


def test_vectors_that_cannot_come_over_are_listed_and_their_documents_are_read_again(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)

    def spoil(data: dict[str, Any]) -> None:
        vectors = data["embedding_dict"]
        ids = list(vectors)
        vectors[ids[0]] = [float("nan")] * DIM
        vectors[ids[6]] = [0.0] * DIM
        vectors[ids[12]] = [1e39] * DIM
        vectors[ids[18]] = [1.0] * 7
        vectors[ids[1]] = [10**400] + [0.0] * (DIM - 1)
        vectors[ids[7]] = [1e19] * DIM  # pgvector sums the squares in float32
        vectors["nobody's"] = [1.0] * DIM

    change(folder / "default__vector_store.json", spoil)
    report = store.import_(folder, collection="docs")
    assert report.left_behind.counts == {"unusable_vectors": 6, "vectors_without_node": 1}
    assert report.left_behind.examples["vectors_without_node"] == ["nobody's"]
    assert any("7 dimensions, not 32" in each for each in report.left_behind.examples["unusable_vectors"])
    assert report.nodes == 30
    assert set(faces.hashes().values()) == {None, DOCUMENTS[4].hash}
    faces.assert_agree()
    assert an_index(store).refresh_ref_docs(DOCUMENTS) == [True, True, True, True, False]


def test_a_node_that_no_store_can_hold_is_listed_and_the_others_come_over(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)

    def spoil(data: dict[str, Any]) -> None:
        nodes = list(data["docstore/data"].values())
        nodes[0]["__data__"]["metadata"]["number"] = 2**70
        data["docstore/data"]["empty"] = {"__type__": "1"}

    change(folder / "docstore.json", spoil)
    report = store.import_(folder, collection="docs")
    assert (report.nodes, report.left_behind.counts) == (29, {"invalid_nodes": 2, "vectors_without_node": 1})
    assert "64 bits" in report.left_behind.examples["invalid_nodes"][0]
    assert faces.hashes()["a"] is None
    faces.assert_agree()


def test_a_graph_of_triplets_comes_over_and_a_property_graph_is_listed(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    (folder / "graph_store.json").write_text('{"graph_dict": {"pump": [["needs", "oil"], ["has", "valve"], ["bad"]]}}')
    (folder / "property_graph_store.json").write_text('{"nodes": {"a": {}, "b": {}}, "relations": {}, "triplets": []}')
    report = store.import_(folder, collection="docs")
    assert report.left_behind.as_dict() == {
        "graphs": {"count": 3, "examples": ["pump: no relation and object", "property_graph_store.json"]}
    }
    assert store.storage_context("docs").graph_store.get("pump") == [["needs", "oil"], ["has", "valve"]]
    faces.assert_holds(*DOCUMENTS)


def test_hashes_of_documents_that_lost_their_nodes_stay_behind(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS[:4])
    change(folder / "docstore.json", lambda d: d["docstore/metadata"].update(e={"doc_hash": DOCUMENTS[4].hash}))
    report = store.import_(folder, collection="docs")
    assert report.noted.as_dict() == {"hashes_without_nodes": {"count": 1, "examples": ["e"]}}
    assert an_index(store).refresh_ref_docs(DOCUMENTS) == [False] * 4 + [True]


def test_a_document_of_which_the_collection_has_another_version_stays(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    newer = a_document("b", version=2)
    an_index(store).refresh_ref_docs([newer])
    report = store.import_(folder, collection="docs")
    assert report.left_behind.as_dict() == {"changed_documents": {"count": 1, "examples": ["b"]}}
    faces.assert_holds(newer, *(d for d in DOCUMENTS if d.id_ != "b"))


def test_a_folder_without_vectors_needs_a_collection_or_a_model(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    (folder / "default__vector_store.json").unlink()
    with pytest.raises(UsageError, match="no vector"):
        store.import_(folder, collection="other")
    report = store.import_(folder, collection="docs")
    assert (report.nodes, report.noted.counts) == (30, {"nodes_without_vector": 30})
    assert len(store.storage_context("docs").docstore.docs) == 30


def test_a_folder_without_texts_brings_nothing_over(store: Ragstore, tmp_path: Path) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    (folder / "docstore.json").unlink()
    report = store.import_(folder, collection="docs")
    assert (report.nodes, report.left_behind.counts) == (0, {"vectors_without_node": 30})


def test_what_is_no_persist_dir_is_refused(store: Ragstore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in ("empty", "nowhere"):
        with pytest.raises(UsageError, match="no persist_dir"):
            store.import_(tmp_path / path, collection="docs")
    assert store.collections() == []


@pytest.mark.parametrize("name", ["docstore.json", "default__vector_store.json", "index_store.json"])
def test_a_damaged_file_is_told_with_its_place_and_nothing_is_written(
    store: Ragstore, tmp_path: Path, name: str
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TransferError) as refused:
        store.import_(folder, collection="docs")
    assert refused.value.facts["file"] == str(folder / name)
    assert 0 <= refused.value.facts["offset"] <= len(whole) // 2
    assert store.collections() == []


def test_vectors_of_another_length_than_the_collections_are_refused(store: Ragstore, tmp_path: Path) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    store.create_collection("docs", model="external", dim=8)
    with pytest.raises(EmbeddingSpaceError, match="8 dimensions"):
        store.import_(folder, collection="docs")


def test_vectors_of_a_model_are_only_taken_into_its_collection_when_they_are_said_to_be(
    store: Ragstore, tmp_path: Path
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    change(
        folder / "default__vector_store.json",
        lambda d: d.update(embedding_dict={i: v * 8 for i, v in d["embedding_dict"].items()}),
    )
    store.create_collection("docs", model="wordllama")
    with pytest.raises(EmbeddingSpaceError, match="wordllama"):
        store.import_(folder, collection="docs")
    assert store.import_(folder, collection="docs", model="wordllama").nodes == 30


def test_it_comes_from_any_file_system(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(a_persist_dir(tmp_path / "storage", DOCUMENTS)), "/imported", recursive=True)
    try:
        assert store.import_("memory://imported", collection="docs").nodes == 30
    finally:
        memory.rm("/imported", recursive=True)
    faces.assert_holds(*DOCUMENTS)


def test_the_mongo_side_has_small_structs(
    store: Ragstore, mongo_database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    store.import_(a_persist_dir(tmp_path / "storage", DOCUMENTS), collection="docs")
    (struct,) = mongo_database["index_store/data"].find()
    assert (struct["_id"], struct["collection"]) == ("manuals", "docs")
    assert len(struct["__data__"]) < 200


def test_a_document_of_more_nodes_than_mongodb_can_name_stays_behind_and_the_others_come_over(
    store: Ragstore, faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ragstore.model import document

    large = a_document("large", n_sentences=40)
    folder = a_persist_dir(tmp_path / "storage", [DOCUMENTS[0], large, DOCUMENTS[1]])
    monkeypatch.setattr(document, "MAX_ENTRY_BYTES", 1_000)
    entries_that_always_fit(monkeypatch, 10)
    report = store.import_(folder, collection="docs")
    assert (report.nodes, report.left_behind.counts) == (12, {"invalid_nodes": 40})
    assert "more nodes than" in report.left_behind.examples["invalid_nodes"][0]
    faces.assert_holds(DOCUMENTS[0], DOCUMENTS[1])
