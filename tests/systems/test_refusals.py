"""What does not fit: said before anything is written, or reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chromadb
import pytest
from pydantic import SecretStr
from qdrant_client import QdrantClient, models

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import EmbeddingSpaceError, ForeignStoreError, NotFoundError, UsageError
from ragstore.settings import Settings
from tests.support.llama_faces import Faces, HashEmbedding
from tests.systems.pinecone_server import pinecone_server
from tests.systems.scenes import documents, nodes_of, qdrant, unit

TEXTS = [f"Text {i} of the store." for i in range(12)]


def a_chroma(folder: Path, vectors: Sequence[Sequence[float]], metric: str, **columns: Any) -> str:
    collection = chromadb.PersistentClient(path=str(folder / "chroma")).create_collection(
        "mine", metadata={"hnsw:space": metric}
    )
    collection.add(ids=[f"c{i}" for i in range(len(vectors))], embeddings=[list(v) for v in vectors], **columns)
    return f"chroma:{folder / 'chroma'}"


def a_qdrant(folder: Path, payloads: Sequence[dict[str, Any]], **options: Any) -> str:
    client = QdrantClient(path=str(folder / "qdrant"))
    space = models.VectorParams(size=32, distance=models.Distance.COSINE)
    client.create_collection("mine", vectors_config={"text": space, "title": space}, **options)
    client.upsert(
        "mine",
        [
            models.PointStruct(id=i, payload=payload, vector={"text": unit(TEXTS[i]), "title": unit(f"title {i}")})
            for i, payload in enumerate(payloads)
        ],
    )
    client.close()
    return f"qdrant:{folder / 'qdrant'}"


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_vectors_of_different_lengths_under_another_metric_are_refused(
    store: Ragstore, faces: Faces, tmp_path: Path, metric: str
) -> None:
    place = a_chroma(tmp_path, [HashEmbedding().vector_of(text) for text in TEXTS], metric, documents=TEXTS)
    with pytest.raises(EmbeddingSpaceError, match=r"lengths from .* to .*: cosine"):
        store.adopt(place, collection="new")
    assert "new" not in {each.name for each in store.collections()}


def test_vectors_of_different_lengths_under_cosine_come_over(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    place = a_chroma(tmp_path, [HashEmbedding().vector_of(text) for text in TEXTS], "cosine", documents=TEXTS)
    report = store.adopt(place, collection="docs")
    assert (report.nodes, report.noted.counts) == (12, {"nodes_without_document": 12})
    faces.assert_agree()


def test_vectors_of_another_dimension_are_refused_in_a_dry_run_too(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    place = a_chroma(tmp_path, [[1.0, 0.0]] * 3, "cosine", documents=TEXTS[:3])
    for dry_run in (True, False):
        with pytest.raises(EmbeddingSpaceError, match="32 dimensions"):
            store.adopt(place, collection="docs", dry_run=dry_run)
    assert faces.texts().total() == 0


def test_a_dry_run_says_what_would_come_over_and_makes_nothing(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    place = a_chroma(tmp_path, [unit(text) for text in TEXTS], "l2", documents=TEXTS)
    report = store.adopt(place, collection="new", dry_run=True)
    assert report.collection_made is not None
    assert (report.nodes, report.collection_made.name, report.collection_made.dim) == (12, "new", 32)
    assert "new" not in {each.name for each in store.collections()}
    store.adopt(place, collection="docs")
    again = store.adopt(place, collection="docs", dry_run=True)
    assert (again.nodes, again.skipped) == (0, 12)


def test_entries_that_llamaindex_did_not_write_need_a_key_and_the_error_names_those_there(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    payloads = [{"page_content": text, "metadata": {"source": f"f{i // 4}.txt"}} for i, text in enumerate(TEXTS)]
    sparse = {"words": models.SparseVectorParams()}
    place = a_qdrant(tmp_path, payloads, sparse_vectors_config=sparse)
    with pytest.raises(NotFoundError, match="'text', 'title'"):
        store.adopt(place, collection="docs")
    place = place + "?vector=text"
    with pytest.raises(UsageError, match=r"no text .*page_content, metadata\.source"):
        store.adopt(place, collection="docs")
    with pytest.raises(UsageError, match=r"no text at 'body'.*page_content"):
        store.adopt(place, collection="docs", text_key="body")
    with pytest.raises(UsageError, match=r"at 'metadata.file'.*metadata\.source"):
        store.adopt(place, collection="docs", text_key="page_content", document_key="metadata.file")
    assert faces.texts().total() == 0
    report = store.adopt(place, collection="docs", text_key="page_content", document_key="metadata.source")
    assert (report.documents, report.nodes, report.left_behind.counts) == (3, 12, {})
    assert report.noted.counts == {"sparse_vectors": 1, "other_vector_stores": 1}
    assert faces.texts() == dict.fromkeys(TEXTS, 1)
    faces.assert_agree()


def test_entries_that_hold_no_node_are_listed_and_the_others_come_over(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    payloads: list[dict[str, Any]] = [{"body": text} for text in TEXTS]
    payloads[3] = {"body": None}
    payloads[5] = {"other": "no text here"}
    report = store.adopt(a_qdrant(tmp_path, payloads) + "?vector=text#mine", collection="docs", text_key="body")
    assert (report.nodes, report.left_behind.counts) == (10, {"invalid_nodes": 2})
    faces.assert_agree()


def test_a_node_that_is_there_twice_is_taken_once(store: Ragstore, faces: Faces, tmp_path: Path) -> None:
    nodes = nodes_of(documents(10))
    with qdrant(tmp_path, nodes) as there:
        client = QdrantClient(path=str(tmp_path / "qdrant"))
        points, _ = client.scroll("manuals", limit=3, with_payload=True, with_vectors=True)
        again = [models.PointStruct(id=i, payload=p.payload, vector=p.vector) for i, p in enumerate(points)]
        client.upsert("manuals", again)
        client.close()
        report = store.adopt(there.place, collection="docs")
    assert (report.nodes, report.noted.counts) == (10, {"doubled_nodes": 3})
    faces.assert_agree()


def test_a_wrong_key_is_refused_and_never_printed(settings: Settings, faces: Faces) -> None:
    with pinecone_server() as url:
        wrong = settings.model_copy(update={"from_secret": SecretStr("a-wrong-key")})
        with ragstore.open(wrong) as opened, pytest.raises(ForeignStoreError) as refused:
            opened.adopt(f"pinecone+{url}", collection="docs")
        assert "a-wrong-key" not in str(refused.value) + repr(refused.value.__cause__)
        with ragstore.open(settings) as opened, pytest.raises(UsageError, match="RAGSTORE_FROM_SECRET"):
            opened.adopt(f"pinecone+{url}", collection="docs")


def test_a_folder_of_something_else_is_refused_and_left_as_it_was(
    store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for system in ("chroma", "qdrant"):
        with pytest.raises(NotFoundError, match="is there"):
            store.adopt(f"{system}:{tmp_path / 'empty'}", collection="docs")
    assert not list((tmp_path / "empty").iterdir())
