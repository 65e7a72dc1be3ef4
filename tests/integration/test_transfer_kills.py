"""Imports and exports killed anywhere and run again: nothing lost, doubled or half, by plain SQL, pymongo and LlamaIndex."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex

from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support.kills import passes
from tests.support.llama_faces import DIM, Faces, HashEmbedding, a_document, a_splitter, faces_on
from tests.support.parts import postgres_url
from tests.support.persisted import a_persist_dir, loaded
from tests.support.transfers import Transfer

DOCUMENTS = [a_document(name) for name in "abc"]
FAILPOINTS = ["direct_written", "direct_committed", "nodes_put", "ref_docs_half_put", "ref_docs_put", "direct_finished"]


@pytest.fixture
def faces(settings: Settings, store: Ragstore) -> Iterator[Faces]:
    store.create_collection("docs", model="external", dim=DIM)
    assert settings.mongo_url is not None
    with faces_on(postgres_url(settings), settings.mongo_url.get_secret_value(), settings.mongo_database) as opened:
        yield opened


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_an_import_that_is_killed_anywhere_and_run_again_is_complete_and_nothing_is_doubled(
    settings: Settings, store: Ragstore, faces: Faces, tmp_path: Path, failpoint: str
) -> None:
    folder = a_persist_dir(tmp_path / "storage", DOCUMENTS)
    docstore = store.storage_context("docs").docstore
    for nth in passes():
        survived = Transfer(settings, "import", folder, failpoint=f"{failpoint}:{nth}").survived()
        faces.until_recovered()
        faces.assert_agree()
        hashes = faces.hashes()
        assert all(len(faces.nodes_of(i)) == 6 for i, doc_hash in hashes.items() if doc_hash), "a hash before its nodes"
        store.import_(folder, collection="docs")
        faces.assert_holds(*DOCUMENTS)
        if survived:
            break
        for document in DOCUMENTS[nth % 3 :]:
            docstore.delete_ref_doc(document.id_, raise_error=False)
    assert nth > 2, "nothing was killed"


def test_an_import_that_is_killed_again_and_again_is_complete_and_nothing_is_doubled(
    settings: Settings, store: Ragstore, faces: Faces, tmp_path: Path
) -> None:
    documents = [a_document(f"d{i}", n_sentences=4) for i in range(60)]
    folder = a_persist_dir(tmp_path / "storage", documents)
    # Each is passed whatever those before it have left; at last all is there and nothing is written any more.
    for failpoint in ("direct_written", "direct_written", "direct_committed", "ref_docs_half_put", "direct_finished"):
        assert not Transfer(settings, "import", folder, failpoint=f"{failpoint}:1").survived(), failpoint
        faces.until_recovered()
        faces.assert_agree()
    store.import_(folder, collection="docs")
    faces.assert_holds(*documents)


@pytest.mark.parametrize("there", [False, True])
def test_an_export_that_is_killed_anywhere_leaves_no_folder_that_loads_half(
    settings: Settings, store: Ragstore, faces: Faces, tmp_path: Path, there: bool
) -> None:
    VectorStoreIndex.from_documents(
        DOCUMENTS,
        storage_context=store.storage_context("docs"),
        embed_model=HashEmbedding(),
        transformations=[a_splitter()],
    )
    n_refused = 0
    for nth in passes():
        target = tmp_path / f"storage{nth}"
        if there:
            a_persist_dir(target, [a_document("old")])
        survived = Transfer(settings, "export", target, nth_file=nth).survived()
        if (target / "docstore.json").exists():
            found = set(loaded(target).ref_doc_info)
            assert found in ({"old"}, {"a", "b", "c"})
            retriever = loaded(target).as_retriever(similarity_top_k=99)
            assert len(retriever.retrieve("sentence")) == (6 if found == {"old"} else 18)
        else:
            n_refused += 1
            with pytest.raises(FileNotFoundError):
                loaded(target)
        if survived:
            break
        store.export(target, collection="docs", overwrite=there)
        assert len(loaded(target).docstore.docs) == 18
    assert nth > 3 and n_refused, "nothing was killed"
