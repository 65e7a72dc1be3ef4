"""Collections whose vectors are stored as float16: everything works on them that works on others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index.vector_stores.postgres import PGVectorStore
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.app.transfer import PlainStack
from ragstore.errors import EmbeddingSpaceError, InvalidNodeError, SettingsError
from ragstore.model.drift import Kind
from ragstore.model.filters import Condition
from ragstore.model.report import LeftBehind
from ragstore.postgres.collections import get_collection
from ragstore.settings import Settings
from tests.support import plain_stack
from tests.support.children import until
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.internals import pool_of, trees_above
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_splitter, faces_on, fetch
from tests.support.model_server import Fault, running_model_server
from tests.support.oracle import Oracle
from tests.support.parts import execute, postgres_url
from tests.support.persisted import a_persist_dir, answers, loaded
from tests.support.plain_stack import Plain
from tests.support.segments import N_SCANS, SEGMENTS, merge_at_rest, seal

pytestmark = pytest.mark.on_both

TYPE = """
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'ragstore.data_docs'::regclass
    AND attname = 'embedding'
"""
VECTORS = "SELECT node_id, text, embedding::real[] FROM ragstore.data_docs ORDER BY document_id, ordinal"
DOCUMENTS = [a_document(name) for name in "abc"]
QUESTIONS = [f"sentence {i} of {name}" for i in range(3) for name in "abc"]


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    """With a collection of half vectors that a model makes."""
    store.create_collection("docs", chunk_size=32, chunk_overlap=0, vector_type="halfvec")
    return store


@pytest.fixture
def faces(store: Ragstore, settings: Settings) -> Iterator[Faces]:
    """LlamaIndex on a collection of half vectors that come with the nodes."""
    store.create_collection("docs", model="external", dim=DIM, vector_type="halfvec")
    assert settings.mongo_url is not None
    with faces_on(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database) as opened:
        yield opened


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo_database)


def stored_vectors(settings: Settings) -> dict[str, np.ndarray]:
    return {text: np.array(vector, dtype=np.float32) for _, text, vector in execute(settings, VECTORS)}


def rounded(vector: np.ndarray) -> np.ndarray:
    return vector.astype(np.float16).astype(np.float32)


def some_nodes(n: int) -> list[TextNode]:
    rng = np.random.default_rng(3)
    return [TextNode(id_=f"n{i}", text=f"text {i}", embedding=rng.normal(size=DIM).tolist()) for i in range(n)]


def a_question(vector: Any, top_k: int = 3, **options: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=[float(x) for x in vector], similarity_top_k=top_k, **options)


# Making a collection


def test_a_collection_says_how_it_stores_vectors_and_the_setting_is_for_new_ones(
    settings: Settings, store: Ragstore
) -> None:
    assert store.create_collection("full").vector_type == "vector"
    halved = Settings(**(settings.model_dump() | {"vector_type": "halfvec"}))
    with ragstore.open(halved) as rs:
        assert rs.create_collection("docs").vector_type == "halfvec"
        assert rs.create_collection("full").vector_type == "vector"
        assert rs.create_collection("other", vector_type="vector").vector_type == "vector"
    assert execute(settings, TYPE) == [("halfvec(256)",)]
    with pytest.raises(EmbeddingSpaceError, match="halfvec, not as vector"):
        store.create_collection("docs", vector_type="vector")


def test_another_type_of_vectors_than_there_is_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="RAGSTORE_VECTOR_TYPE"):
        Settings(postgres_url=settings.postgres_url, mongo_url=settings.mongo_url, vector_type="bit")


# Ingest


def test_an_ingest_keeps_the_models_vectors_as_float16_and_reuses_them(
    rs: Ragstore, settings: Settings, oracle: Oracle, tmp_path: Path
) -> None:
    texts = {f"{i}.txt": a_text(i, 12) for i in range(3)}
    state = write_documents(tmp_path / "docs", texts)
    first = rs.ingest(tmp_path / "docs", collection="docs")
    oracle.assert_settled(state)
    before = stored_vectors(settings)
    assert all(np.array_equal(rounded(vector), vector) for vector in before.values())
    model = rs.embed_model("docs")
    for text, vector in list(before.items())[:3]:
        np.testing.assert_allclose(vector, model.get_text_embedding(text), rtol=1e-3, atol=1e-3)

    state = write_documents(tmp_path / "docs", texts | {"0.txt": an_edited(texts["0.txt"], 7)})
    again = rs.ingest(tmp_path / "docs", collection="docs")
    assert again.embedded < 4 <= again.reused < first.chunks
    oracle.assert_settled(state)
    after = stored_vectors(settings)
    assert all(np.array_equal(after[text], before[text]) for text in after.keys() & before.keys())


def test_a_query_finds_what_one_on_full_vectors_finds(rs: Ragstore, tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 12) for i in range(4)})
    rs.create_collection("full", chunk_size=32, chunk_overlap=0)
    for name in ("docs", "full"):
        rs.ingest(tmp_path / "docs", collection=name)
    for options in ({"mode": "vector"}, {"mode": "hybrid"}, {"mode": "vector", "mmr_lambda": 0.5}):
        for i in range(4):
            half, full = (rs.query(a_text(i, 1), collection=name, top_k=5, **options) for name in ("docs", "full"))
            assert [hit.text for hit in half] == [hit.text for hit in full]
            assert [hit.score for hit in half] == pytest.approx([hit.score for hit in full], abs=1e-3)


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_a_document_whose_vector_does_not_fit_is_set_aside_and_the_others_go_in(
    store: Ragstore, settings: Settings, oracle: Oracle, tmp_path: Path, factor: float
) -> None:
    state = write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 2) for i in range(3)})
    with running_model_server() as server:
        store.create_collection("docs", model=f"tei:{server.url}", vector_type="halfvec")
        server.fails_with(Fault(rows=lambda rows: [[factor * x for x in rows[0]], *rows[1:]]))
        report = store.ingest(tmp_path / "docs", collection="docs")
        assert (report.added, report.failed) == (2, 1)
        [entry] = store.quarantined("docs")
        assert entry.code == "content.invalid_node"
        assert "float16" in entry.reason
        assert "length 1" in entry.hint
        good = {document_id: text for document_id, text in state.items() if document_id != entry.document_id}
        execute(settings, "DELETE FROM ragstore.quarantine")
        oracle.assert_settled(good)
        # The file is read again because nothing says any more that it was set aside; the model now answers well.
        assert store.ingest(tmp_path / "docs", collection="docs").added == 1
        oracle.assert_settled(state)


def test_an_ingest_of_vectors_too_long_for_an_index_of_float32_sets_none_aside(
    store: Ragstore, settings: Settings, tmp_path: Path
) -> None:
    write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 2) for i in range(3)})

    def longer(rows: list[list[float]], factor: float = 1.0) -> list[list[float]]:
        return [[factor * x for x in rows[0]] * 251, *(row * 251 for row in rows[1:])]

    with running_model_server() as server:
        too_large = Fault(rows=lambda rows: longer(rows, 1e6))
        server.fails_with(Fault(rows=longer), too_large, *[Fault(rows=longer)] * 3)
        assert store.create_collection("docs", model=f"tei:{server.url}").space.dim == 2_008
        report = store.ingest(tmp_path / "docs", collection="docs")
    assert (report.added, report.failed) == (3, 0)
    assert seal(pool_of(store), get_collection(pool_of(store), "docs"))
    ((_, is_there),) = execute(settings, SEGMENTS)
    assert is_there


# LlamaIndex


def test_nodes_come_back_with_their_vectors_rounded(faces: Faces) -> None:
    nodes = some_nodes(20)
    store = faces.context().vector_store
    assert isinstance(store, PGVectorStore) and store.use_halfvec
    store.add([*nodes])
    for node, found in zip(nodes, store.get_nodes([n.node_id for n in nodes]), strict=True):
        assert node.embedding is not None
        assert found.embedding == rounded(np.array(node.embedding, dtype=np.float32)).tolist()
    faces.assert_agree()


@pytest.mark.parametrize("indexed", [False, True])
def test_the_nearest_are_found_with_and_without_index(faces: Faces, settings: Settings, indexed: bool) -> None:
    nodes = some_nodes(300)
    faces.context().vector_store.add(nodes)
    vectors = np.array([n.embedding for n in nodes])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if indexed:
        with trees_above(100 * DIM):
            assert seal(faces.backend.pool, faces.collection)
            (segment,) = merge_at_rest(faces.backend.pool, faces.collection).segments
        assert segment.n_cells > 0
    assert settings.mongo_url is not None
    with faces_on(faces.postgres_url, settings.mongo_url.get_secret_value(), settings.mongo_database) as reader:
        assert bool(reader.collection.segments) == indexed
        for i in range(5):
            found = reader.context().vector_store.query(a_question(nodes[i].embedding, top_k=10))
            similarity = np.sort(vectors @ vectors[i])[::-1][:10]
            assert (found.ids or [])[0] == nodes[i].node_id
            assert found.similarities == pytest.approx(similarity.tolist(), abs=1e-3)
            assert (found.similarities or [])[0] == pytest.approx(1.0, abs=1e-6)
    # PostgreSQL counts a connection's scans when it ends.
    until(
        lambda: (fetch(faces.postgres_url, N_SCANS)[0][0] >= 10) == indexed, what="the index was scanned, where one is"
    )


def test_variety_and_filters_work_on_half_vectors(faces: Faces, store: Ragstore) -> None:
    same = [1.0] * DIM
    nodes = [TextNode(id_=f"same{i}", text="t", embedding=same, metadata={"kind": "same"}) for i in range(3)]
    other = TextNode(id_="other", text="t", embedding=[1.0] * (DIM - 8) + [-1.0] * 8, metadata={"kind": "other"})
    faces.context().vector_store.add([*nodes, other])
    query = a_question(same, top_k=2, mode=VectorStoreQueryMode.MMR)
    assert "other" in (faces.context().vector_store.query(query, mmr_threshold=0.3).ids or [])
    filters = Condition("kind", "==", "other")
    hits = store.query("", collection="docs", mode="vector", embedding=same, filters=filters)
    assert [hit.node_id for hit in hits] == ["other"]
    assert hits[0].score == pytest.approx((DIM - 16) / DIM, abs=1e-3)


def test_a_vector_that_does_not_fit_is_refused_before_anything_is_written(faces: Faces) -> None:
    store = faces.context().vector_store
    good, bad = some_nodes(2)
    before = faces.state()
    for values in ([65_520.0, *[0.0] * (DIM - 1)], [1e-9] * DIM, [-1e30] * DIM):
        bad.embedding = values
        with pytest.raises(InvalidNodeError, match=r"node n1 .*float16, in which collection 'docs'") as caught:
            store.add([good, bad])
        assert "length 1" in caught.value.hint
    assert faces.state() == before
    for values in ([65_504.0, *[0.0] * (DIM - 1)], [1e-4] * DIM, [0.0] * DIM):
        bad.embedding = values
        store.add([good, bad])
    assert faces.texts() == {"text 0": 1, "text 1": 1}


def test_an_index_of_llamaindex_refreshes_without_embedding_again(faces: Faces) -> None:
    index = VectorStoreIndex.from_documents(
        DOCUMENTS, storage_context=faces.context(), embed_model=HashEmbedding(), transformations=[a_splitter()]
    )
    faces.assert_holds(*DOCUMENTS)
    assert index.refresh_ref_docs([*DOCUMENTS[:2], a_document("c", version=2)]) == [False, False, True]
    faces.assert_holds(*DOCUMENTS[:2], a_document("c", version=2))


def test_a_plain_vector_store_reads_and_scores_them_as_ragstore_does(
    rs: Ragstore, settings: Settings, tmp_path: Path
) -> None:
    write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 12) for i in range(3)})
    rs.ingest(tmp_path / "docs", collection="docs")
    url = urlsplit(postgres_url(settings))
    plain = PGVectorStore.from_params(
        host=url.hostname,
        port=str(url.port),
        user=url.username,
        password=url.password,
        database=url.path.lstrip("/"),
        schema_name="ragstore",
        table_name="docs",
        embed_dim=256,
        use_jsonb=True,
        use_halfvec=True,
        perform_setup=False,
    )
    question = rs.embed_model("docs").get_query_embedding(a_text(1, 1))
    found = plain.query(a_question(question, top_k=5))
    hits = rs.query(a_text(1, 1), collection="docs", mode="vector", top_k=5)
    assert found.ids == [hit.node_id for hit in hits]
    assert found.similarities == pytest.approx([hit.score for hit in hits], abs=1e-4)
    assert plain._engine is not None
    assert plain._engine is not None
    plain._engine.dispose()


# Verify and repair


def test_what_postgresql_lost_comes_back_as_half_vectors(
    rs: Ragstore, settings: Settings, oracle: Oracle, tmp_path: Path
) -> None:
    state = write_documents(tmp_path / "docs", {f"{i}.txt": a_text(i, 12) for i in range(3)})
    rs.ingest(tmp_path / "docs", collection="docs")
    assert rs.verify("docs", deep=True).ok
    before = stored_vectors(settings)

    execute(settings, "DELETE FROM ragstore.data_docs WHERE ordinal = 1")
    assert not rs.verify("docs", deep=True).ok
    assert rs.repair("docs").embedded == 3
    oracle.assert_settled(state)

    execute(settings, f"UPDATE ragstore.data_docs SET embedding = '{json.dumps([0] * 256)}' WHERE ordinal = 0")
    assert rs.verify("docs", deep=True).drift.counts == {Kind.UNUSABLE_VECTOR: 3}
    assert rs.repair("docs").repaired.counts == {Kind.UNUSABLE_VECTOR: 3}

    execute(settings, "DROP TABLE ragstore.data_docs")
    assert rs.repair("docs").ok
    assert execute(settings, TYPE) == [("halfvec(256)",)]
    assert rs.verify("docs", deep=True).ok
    oracle.assert_settled(state)
    after = stored_vectors(settings)
    assert after.keys() == before.keys()
    # Two runs of the model may differ in the last digit.
    assert all(np.allclose(after[text], before[text], rtol=2e-3, atol=1e-3) for text in before)


# Import, adopt, export


def test_an_import_takes_vectors_over_rounded_and_finds_them_again(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    plain = loaded(a_persist_dir(tmp_path / "storage", DOCUMENTS))
    report = store.import_(tmp_path / "storage", collection="docs")
    assert (report.documents, report.nodes, report.skipped, report.embedded) == (3, 18, 0, 0)
    again = store.import_(tmp_path / "storage", collection="docs")
    assert (again.nodes, again.skipped) == (0, 18)
    faces.assert_holds(*DOCUMENTS)
    for ours, theirs in zip(answers(faces.index(), QUESTIONS, 5), answers(plain, QUESTIONS, 5), strict=True):
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-3)

    assert store.export(tmp_path / "export", collection="docs").ok
    exported = loaded(tmp_path / "export", "manuals")
    for ours, theirs in zip(answers(faces.index(), QUESTIONS, 5), answers(exported, QUESTIONS, 5), strict=True):
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-3)


def test_a_plain_stack_is_adopted_once(
    store: Ragstore, faces: Faces, settings: Settings, mongo_database: Database[dict[str, Any]]
) -> None:
    assert settings.mongo_url is not None
    plain = Plain(postgres_url(settings), settings.mongo_url.get_secret_value(), mongo_database.name)
    try:
        plain_stack.build(plain.context(), DOCUMENTS)
        stack = PlainStack("data_plain", mongo_database=plain.mongo_name)
        assert store.adopt(stack, collection="docs").nodes == 18
        assert store.adopt(stack, collection="docs").skipped == 18
        faces.assert_holds(*DOCUMENTS)
    finally:
        plain.close()


def test_a_vector_that_does_not_fit_is_left_behind_and_the_import_goes_on(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    a_persist_dir(tmp_path / "storage", DOCUMENTS)
    path = tmp_path / "storage" / "default__vector_store.json"
    content = json.loads(path.read_text())
    node_id = next(iter(content["embedding_dict"]))
    content["embedding_dict"][node_id] = [1e6] * DIM
    path.write_text(json.dumps(content))
    report = store.import_(tmp_path / "storage", collection="docs")
    assert report.nodes == 18
    assert report.left_behind.counts == {LeftBehind.UNUSABLE_VECTORS: 1}
    assert node_id in report.left_behind.examples[LeftBehind.UNUSABLE_VECTORS][0]
    assert len(faces.texts()) == 17
    assert set(faces.hashes()) == {"a", "b", "c"}
    assert get_collection(faces.backend.pool, "docs").vector_type == "halfvec"
