"""What a sync does with documents whose files a pattern leaves out now."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragstore.app import Ragstore
from ragstore.errors import MassDeletionError
from ragstore.sources.selection import BY_DEFAULT, EXCLUDED, IGNORED


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def a_document(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"What is said in {name}.\n")


def names(rs: Ragstore) -> set[str]:
    return {Path(document.document_id).name for document in rs.documents("docs")}


def test_a_document_that_is_left_out_now_is_deleted_and_said(rs: Ragstore, folder: Path) -> None:
    for name in ("a.md", "b.md", "old/c.md", "old/d.md"):
        a_document(folder, name)
    rs.sync(folder, collection="docs")
    (folder / ".ragstoreignore").write_text("old/\n")
    plan = rs.sync(folder, collection="docs", exclude=["b.md"], dry_run=True)
    assert names(rs) == {"a.md", "b.md", "c.md", "d.md"}
    report = rs.sync(folder, collection="docs", exclude=["b.md"])
    left_out = [str(folder / name) for name in ("b.md", "old/c.md", "old/d.md")]
    assert report.left_out_documents == report.deleted_documents == plan.left_out_documents == left_out
    assert report.passed_over.counts == {EXCLUDED: 1, IGNORED: 1}
    assert names(rs) == {"a.md"}
    assert rs.sync(folder, collection="docs", exclude=["b.md"]).deleted == 0
    assert rs.sync(folder, collection="docs").added == 1


def test_an_ingest_deletes_nothing_that_is_left_out(rs: Ragstore, folder: Path) -> None:
    a_document(folder, "a.md")
    rs.ingest(folder, collection="docs")
    report = rs.ingest(folder, collection="docs", exclude=["*"])
    assert (report.deleted, report.passed_over.counts) == (0, {EXCLUDED: 1})
    assert names(rs) == {"a.md"}


def test_an_ignore_file_that_leaves_out_much_deletes_nothing_until_that_is_confirmed(
    rs: Ragstore, folder: Path
) -> None:
    for i in range(30):
        a_document(folder, f"{i % 2}/{i}.md")
    rs.sync(folder, collection="docs")
    (folder / ".ragstoreignore").write_text("1/\n")
    with pytest.raises(MassDeletionError, match=r"15 of 30 documents .* 15 of them left out by a pattern"):
        rs.sync(folder, collection="docs")
    assert len(names(rs)) == 30
    (folder / ".ragstoreignore").write_text("*\n")
    with pytest.raises(MassDeletionError, match="shows no document any more"):
        rs.sync(folder, collection="docs")
    assert len(names(rs)) == 30
    report = rs.sync(folder, collection="docs", allow_mass_delete=True)
    assert (report.deleted, len(report.left_out_documents)) == (30, 30)


def test_an_ignore_file_that_cannot_be_read_deletes_nothing(rs: Ragstore, folder: Path) -> None:
    a_document(folder, "a.md")
    a_document(folder, "sub/b.md")
    rs.sync(folder, collection="docs")
    (folder / "sub" / ".ragstoreignore").write_bytes(b"\xff\xfe*\0")
    report = rs.sync(folder, collection="docs")
    assert report.refused is not None and report.deleted == 0
    assert names(rs) == {"a.md", "b.md"}


def test_a_lock_file_of_an_open_document_is_no_reason_to_fail(rs: Ragstore, folder: Path) -> None:
    a_document(folder, "a.md")
    (folder / "~$a.docx").write_bytes(b"\x08Somebody" + bytes(range(32)) * 5)
    assert rs.ingest(folder / "~$a.docx", collection="docs").failed == 1, "a named file is taken"
    report = rs.sync(folder, collection="docs")
    assert (report.added, report.failed, report.passed_over.counts) == (1, 0, {BY_DEFAULT: 1})
    assert report.forgotten_documents == [str(folder / "~$a.docx")]
    assert rs.quarantined("docs") == []


def test_a_hidden_file_that_was_named_stays(rs: Ragstore, folder: Path) -> None:
    a_document(folder, ".notes/a.md")
    a_document(folder, "b.md")
    rs.ingest(folder / ".notes", collection="docs")
    assert rs.sync(folder, collection="docs").deleted == 0
    assert names(rs) == {"a.md", "b.md"}


def test_a_named_file_stays_whatever_a_pattern_says(rs: Ragstore, folder: Path) -> None:
    a_document(folder, "a.md")
    a_document(folder, "b.md")
    (folder / ".ragstoreignore").write_text("a.md\n")
    report = rs.sync(folder, folder / "a.md", collection="docs")
    assert (report.added, report.deleted) == (2, 0)
    assert rs.sync(folder, folder / "a.md", collection="docs").deleted == 0
