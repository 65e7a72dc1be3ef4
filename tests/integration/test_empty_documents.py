"""Documents without text, in every place that knows documents by their nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.settings import Settings
from tests.support.oracle import Oracle
from tests.support.parts import postgres_url


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo_database)


@pytest.fixture
def emptied(rs: Ragstore, tmp_path: Path) -> Path:
    """A file that was ingested with text, then emptied and ingested again, beside one with text."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "emptied.md").write_text("The password of the old door is Sesame.\n")
    (folder / "whole.md").write_text("A new door has no password.\n")
    rs.ingest(folder, collection="docs")
    (folder / "emptied.md").write_text("")
    report = rs.ingest(folder, collection="docs")
    assert (report.updated, report.failed, report.noted.n_documents) == (1, 0, 1)
    return folder


def test_an_emptied_file_does_not_answer_any_more(rs: Ragstore, emptied: Path) -> None:
    assert not any("Sesame" in hit.text for hit in rs.query("password of the old door", collection="docs"))
    found = {Path(d.document_id).name: (d.n_nodes, d.notes) for d in rs.documents("docs")}
    assert found == {"emptied.md": (0, {"empty": 1}), "whole.md": (1, {})}
    assert rs.quarantined("docs") == []
    assert rs.ingest(emptied, collection="docs").unchanged == 2


def test_a_file_that_is_filled_again_answers_again(rs: Ragstore, emptied: Path) -> None:
    (emptied / "emptied.md").write_text("The password is Sesame again.\n")
    assert rs.ingest(emptied, collection="docs").updated == 1
    assert "Sesame" in rs.query("password", collection="docs", top_k=1)[0].text


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b" \n\n\t"),
        ("a.md", b"---\ntitle: A guide\n---\n"),
        ("a.html", b"<html><body> </body></html>"),
        ("a.pdf", b""),
        ("a.json", b"[]"),
        ("a.csv", b"\xef\xbb\xbf"),
    ],
)
def test_a_new_file_without_text_is_a_document(rs: Ragstore, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    report = rs.ingest(tmp_path, collection="docs")
    assert (report.added, report.chunks, report.failed) == (1, 0, 0)
    (document,) = rs.documents("docs")
    assert document.notes["empty"] == 1
    assert rs.verify(deep=True).ok


def test_verify_and_repair_find_nothing_amiss(rs: Ragstore, oracle: Oracle, emptied: Path) -> None:
    assert rs.verify(deep=True).ok
    assert rs.repair().as_dict()["repaired"] == {}
    assert {Path(d.document_id).name: d.n_nodes for d in rs.documents("docs")} == {"emptied.md": 0, "whole.md": 1}
    assert len(oracle.snapshot().rows) == 1


def test_a_repair_brings_back_its_entries_and_not_its_text(
    rs: Ragstore, emptied: Path, mongo_database: Database[dict[str, Any]]
) -> None:
    for name in ("data", "ref_doc_info", "metadata"):
        mongo_database[f"docs/{name}"].delete_many({})
    assert not rs.verify(deep=True).ok
    rs.repair()
    assert rs.verify(deep=True).ok
    assert {Path(d.document_id).name: d.n_nodes for d in rs.documents("docs")} == {"emptied.md": 0, "whole.md": 1}
    assert not any("Sesame" in hit.text for hit in rs.query("password", collection="docs"))


def test_llamaindex_knows_its_hash_and_finds_no_nodes(rs: Ragstore, emptied: Path) -> None:
    context, document_id = rs.storage_context("docs"), str(emptied / "emptied.md")
    assert context.docstore.get_document_hash(document_id)
    assert context.docstore.get_ref_doc_info(document_id) is None, "as of a document whose last node was deleted"
    assert set(context.docstore.get_all_ref_doc_info() or {}) == {str(emptied / "whole.md")}
    assert len(rs.index("docs").as_retriever(similarity_top_k=5).retrieve("password")) == 1
    context.vector_store.delete(document_id)
    assert [Path(d.document_id).name for d in rs.documents("docs")] == ["whole.md"]


def test_it_is_exported_and_imported(rs: Ragstore, emptied: Path, tmp_path: Path) -> None:
    exported = rs.export(tmp_path / "out", collection="docs")
    assert exported.ok
    imported = rs.import_(tmp_path / "out", collection="again", model="wordllama")
    assert imported.ok and imported.nodes == 1
    assert "Sesame" not in " ".join(hit.text for hit in rs.query("password", collection="again"))
    assert rs.verify(deep=True).ok


def test_it_is_renamed_and_deleted_like_others(rs: Ragstore, oracle: Oracle, emptied: Path) -> None:
    (emptied / "emptied.md").rename(emptied / "renamed.md")
    report = rs.sync(emptied, collection="docs")
    assert (report.renamed, report.deleted) == (1, 0)
    (emptied / "renamed.md").unlink()
    assert rs.sync(emptied, collection="docs").deleted == 1
    assert rs.verify(deep=True).ok
    assert rs.drop_collection("docs") == 1


def test_many_files_that_are_emptied_at_once_keep_their_last_text(rs: Ragstore, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.md").write_text(f"The password of door {i} is Sesame{i}.\n")
    rs.ingest(folder, collection="docs")
    for path in folder.iterdir():
        path.write_bytes(b"")
    (folder / "new.md").write_text("A new door.\n")
    report = rs.sync(folder, collection="docs")
    assert (report.added, report.updated, report.failed) == (1, 0, 12)
    assert "Sesame3" in rs.query("Sesame3", collection="docs", top_k=1)[0].text
    assert {entry.code for entry in rs.quarantined("docs")} == {"refused.mass_deletion"}
    report = rs.sync(folder, collection="docs", allow_mass_delete=True)
    assert (report.updated, report.failed) == (12, 0)
    assert rs.quarantined("docs") == []
    assert not any("Sesame" in hit.text for hit in rs.query("Sesame3", collection="docs"))
