"""Changes that keep size and time, readers that changed, and strict ingests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import ragstore
from ragstore.app import Ragstore
from ragstore.ingest import planner
from ragstore.model.report import COUNTS, IngestReport
from ragstore.settings import Settings
from tests.support.corpus import a_text
from tests.support.parts import execute

DAMAGED = b"A caf\xc3\xa9 has a longer text \xff than a caf\xc3\xa9 without one.\n"


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


def counts(report: IngestReport) -> dict[str, int]:
    return {name: n for name in COUNTS if (n := getattr(report, name)) and name != "seconds"}


def ingest(rs: Ragstore, path: Path, **choices: Any) -> dict[str, int]:
    return counts(rs.ingest(path, collection="docs", **choices))


def texts(rs: Ragstore) -> str:
    return " ".join(hit.text for hit in rs.query("price", collection="docs", mode="vector", top_k=50))


def write_under_the_old_time(path: Path, text: str) -> None:
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def forget_ctime(settings: Settings, path: Path) -> None:
    """The ledger as if the file had kept also the time of its last change of any kind."""
    changed = path.stat().st_ctime_ns
    execute(settings, "UPDATE ragstore.document SET ctime_ns = %s WHERE document_id = %s", (changed, str(path)))


def test_a_change_that_keeps_size_and_time_is_found(rs: Ragstore, tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("The price is 100 EUR.\n")
    ingest(rs, path)
    write_under_the_old_time(path, "The price is 999 EUR.\n")
    assert rs.sync(path, collection="docs", dry_run=True).updated == 1
    assert ingest(rs, path)["updated"] == 1
    assert "999" in texts(rs) and "100" not in texts(rs)


def test_contents_that_were_swapped_under_the_same_times_are_found(rs: Ragstore, tmp_path: Path) -> None:
    one, two = tmp_path / "1.md", tmp_path / "2.md"
    for path, text in ((one, "The price is 100.\n"), (two, "The price is 999.\n")):
        path.write_text(text)
        os.utime(path, ns=(5, 5))
    ingest(rs, tmp_path)
    write_under_the_old_time(one, "The price is 999.\n")
    write_under_the_old_time(two, "The price is 100.\n")
    assert ingest(rs, tmp_path) == {"updated": 2, "chunks": 2, "reused": 2}


@pytest.mark.parametrize("reread", [False, True])
def test_a_change_that_keeps_every_time_is_found_where_no_time_is_trusted(
    rs: Ragstore, settings: Settings, tmp_path: Path, reread: bool
) -> None:
    path = tmp_path / "a.md"
    path.write_text("The price is 100 EUR.\n")
    ingest(rs, path)
    write_under_the_old_time(path, "The price is 999 EUR.\n")
    forget_ctime(settings, path)
    assert ingest(rs, path) == {"unchanged": 1}
    assert rs.sync(path, collection="docs", dry_run=True, checksum=not reread, reread=reread).updated == 1
    assert ingest(rs, path, checksum=not reread, reread=reread)["updated"] == 1
    assert "999" in texts(rs)


def test_a_restored_file_with_the_same_content_is_hashed_once_and_not_parsed(
    rs: Ragstore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.md"
    path.write_text("The price is 100 EUR.\n")
    ingest(rs, path)
    execute(settings, "UPDATE ragstore.document SET ctime_ns = NULL")  # as of a version that did not know it
    monkeypatch.setattr("ragstore.ingest.parse_process.ParserPool.submit", None)
    assert ingest(rs, path) == {"unchanged": 1}
    monkeypatch.setattr("ragstore.ingest.parse_process.content_hash_of", None)
    assert ingest(rs, path) == {"unchanged": 1}
    (document,) = rs.documents("docs")
    assert document.ctime_ns == path.stat().st_ctime_ns


def test_a_reread_keeps_the_revision_of_what_reads_as_before(rs: Ragstore, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(a_text("a", 40))
    (tmp_path / "b.csv").write_text("name,amount\nAnn,5\nBob,6\n")
    n_chunks = ingest(rs, tmp_path)["chunks"]
    before = {d.document_id: (d.revision, d.notes) for d in rs.documents("docs")}
    assert ingest(rs, tmp_path, reread=True) == {"unchanged": 2}
    assert {d.document_id: (d.revision, d.notes) for d in rs.documents("docs")} == before
    assert n_chunks > 2


def test_a_reader_that_changed_brings_its_documents_to_new_revisions_without_embedding(
    rs: Ragstore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text(a_text("a", 40))
    (tmp_path / "b.txt").write_text(a_text("b", 40))
    n_chunks = ingest(rs, tmp_path)["chunks"]
    monkeypatch.setattr(planner, "READING_VERSION", planner.READING_VERSION + 1)
    # What an older reader said of one of them: the same text at other places, with other notes.
    a = str(tmp_path / "a.txt")
    execute(settings, "UPDATE ragstore.data_docs SET start_char = start_char + 1 WHERE document_id = %s", (a,))
    execute(settings, "UPDATE ragstore.document SET notes = '{\"nul_bytes\": 1}'")
    report = ingest(rs, tmp_path)
    assert (report["updated"], report["unchanged"], report["chunks"]) == (1, 1, report["reused"])
    assert 0 < report["chunks"] < n_chunks
    assert {Path(d.document_id).name: (d.revision, d.notes) for d in rs.documents("docs")} == {
        "a.txt": (2, {}),
        "b.txt": (1, {}),
    }
    assert ingest(rs, tmp_path) == {"unchanged": 2}, "each is parsed once"


def test_a_strict_ingest_sets_aside_what_may_have_lost_text_and_keeps_the_former_revision(
    rs: Ragstore, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("The price is 100 EUR.\n")
    ingest(rs, path)
    path.write_bytes(DAMAGED)
    assert ingest(rs, path, strict=True) == {"failed": 1}
    assert ingest(rs, path, strict=True) == {"failed": 1}, "also where it is known from the quarantine"
    (entry,) = rs.quarantined("docs")
    assert (entry.code, entry.reason) == ("content.loss", f"{path}: 1 stray byte decoded as windows-1252")
    assert "--strict" in entry.hint
    assert "100" in texts(rs)
    report = rs.ingest(path, collection="docs")
    assert (report.updated, report.noted.n_documents) == (1, 1)
    assert rs.quarantined("docs") == []


def test_strict_may_be_a_setting_and_takes_what_has_harmless_notes(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "nul.txt").write_bytes(b"A text with a NUL\0 in it.\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "damaged.txt").write_bytes(DAMAGED)
    with ragstore.open(settings.model_copy(update={"strict": True})) as strictly:
        report = strictly.ingest(tmp_path, collection="docs")
    assert [Path(each.document_id).name for each in report.quarantined] == ["damaged.txt"]
    assert report.added == 2
