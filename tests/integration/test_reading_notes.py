"""Where the notes of a reading are found later: report, list of documents, history."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragstore.app import Ragstore

DAMAGED = b"A caf\xc3\xa9 has a longer text \xff than a caf\xc3\xa9 without one.\n"
NOTES = {"stray_bytes_as_cp1252": 1}


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


def test_notes_are_in_the_report_the_list_and_the_history(rs: Ragstore, tmp_path: Path) -> None:
    (tmp_path / "damaged.txt").write_bytes(DAMAGED)
    (tmp_path / "whole.txt").write_text("A text that has nothing to be noted.\n")
    report = rs.ingest(tmp_path, collection="docs")
    assert report.noted.as_dict() == {
        "count": 1,
        "by_note": {"stray bytes decoded as windows-1252": 1},
        "documents": [{"document_id": str(tmp_path / "damaged.txt"), "notes": NOTES}],
    }
    assert {Path(d.document_id).name: d.notes for d in rs.documents("docs")} == {"damaged.txt": NOTES, "whole.txt": {}}
    (added,) = rs.history(str(tmp_path / "damaged.txt"), "docs")
    assert added.detail == {"notes": NOTES}
    assert rs.ingest(tmp_path, collection="docs").noted.n_documents == 0, "unchanged documents were not read"


def test_notes_are_those_of_the_live_revision(rs: Ragstore, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(DAMAGED)
    rs.ingest(path, collection="docs")
    path.write_text("Mended now, and without a damaged character.\n")
    rs.ingest(path, collection="docs")
    (document,) = rs.documents("docs")
    assert document.notes == {}
    assert [event.detail for event in rs.history(str(path), "docs")] == [{"notes": NOTES}, None]


def test_a_renamed_document_keeps_its_notes(rs: Ragstore, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(DAMAGED)
    rs.ingest(tmp_path, collection="docs")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert rs.ingest(tmp_path, collection="docs").renamed == 1
    (document,) = rs.documents("docs")
    assert document.notes == NOTES
    (added,) = rs.history(str(tmp_path / "b.txt"), "docs")
    assert added.detail == {"renamed_from": str(tmp_path / "a.txt"), "notes": NOTES}
