"""Documents that cannot become nodes are set aside with their reason, and hold nobody up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.errors import Retry, StoreError
from ragstore.ingest import nodes
from ragstore.model.document import QuarantineEntry
from ragstore.settings import Settings
from tests.support.corpus import a_text, write_documents
from tests.support.files import a_docx, a_pdf
from tests.support.oracle import Oracle
from tests.support.parts import execute, postgres_url

GOOD = {f"good-{i}.txt": a_text(i) for i in range(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "docs"


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo_database)


def put(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def aside(rs: Ragstore) -> dict[str, QuarantineEntry]:
    return {Path(entry.document_id).name: entry for entry in rs.quarantined("docs")}


PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 100

BROKEN = {
    "nul.txt": (b"\0" * 1000, "content.parse"),
    "truncated.pdf": (a_pdf(["page one", "page two"])[:400], "content.parse"),
    "encrypted.pdf": (a_pdf(["secret"], encrypted=True), "content.parse"),
    "truncated.docx": (a_docx("<w:p/>")[:200], "content.parse"),
    "image.txt": (PICTURE, "content.unsupported_type"),
    "broken.json": (b'{"a": [1, 2', "content.parse"),
}


def test_each_kind_of_broken_file_has_its_reason_and_the_good_ones_go_in(
    rs: Ragstore, oracle: Oracle, settings: Settings, folder: Path
) -> None:
    state = write_documents(folder, GOOD)
    for name, (data, _) in BROKEN.items():
        put(folder, name, data)
    report = rs.ingest(folder, collection="docs")
    assert (report.added, report.failed) == (len(GOOD), len(BROKEN))
    found = aside(rs)
    assert {name: entry.code for name, entry in found.items()} == {name: code for name, (_, code) in BROKEN.items()}
    assert all(entry.hint and entry.reason and entry.attempts == 1 for entry in found.values())
    execute(settings, "DELETE FROM ragstore.quarantine")
    oracle.assert_settled(state)


def test_a_file_set_aside_for_good_is_not_read_again_until_it_changes(rs: Ragstore, folder: Path) -> None:
    broken = put(folder, "a.pdf", BROKEN["truncated.pdf"][0])
    rs.ingest(folder, collection="docs")
    assert rs.ingest(folder, collection="docs").failed == 1
    assert aside(rs)["a.pdf"].attempts == 1
    broken.write_bytes(BROKEN["truncated.pdf"][0] + b"\n")
    assert rs.ingest(folder, collection="docs").failed == 1
    assert aside(rs)["a.pdf"].attempts == 2


def test_a_mended_file_leaves_quarantine(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    put(folder, "a.txt", PICTURE)
    rs.ingest(folder, collection="docs")
    state = write_documents(folder, {"a.txt": a_text("a")})
    assert rs.ingest(folder, collection="docs").added == 1
    oracle.assert_settled(state)


def test_retrying_the_quarantine_makes_the_next_ingest_try_again(rs: Ragstore, folder: Path) -> None:
    path = put(folder, "a.txt", PICTURE)
    put(folder, "b.txt", PICTURE)
    rs.ingest(folder, collection="docs")
    assert rs.retry_quarantine(str(path), "never seen", collection="docs") == 1
    assert rs.ingest(folder, collection="docs").failed == 2
    assert {name: entry.attempts for name, entry in aside(rs).items()} == {"a.txt": 2, "b.txt": 1}
    assert rs.retry_quarantine(collection="docs") == 2


def test_the_live_revision_of_a_file_that_broke_stays_live(
    rs: Ragstore, oracle: Oracle, settings: Settings, folder: Path
) -> None:
    state = write_documents(folder, {"a.txt": a_text("a")})
    rs.ingest(folder, collection="docs")
    put(folder, "a.txt", PICTURE)
    assert rs.ingest(folder, collection="docs").failed == 1
    execute(settings, "DELETE FROM ragstore.quarantine")
    oracle.assert_settled(state)


@pytest.mark.parametrize("touched", [True, False])
def test_a_file_that_is_again_what_is_live_leaves_quarantine(
    touched: bool, rs: Ragstore, oracle: Oracle, folder: Path
) -> None:
    state = write_documents(folder, {"a.txt": a_text("a")})
    before = (folder / "a.txt").stat()
    rs.ingest(folder, collection="docs")
    put(folder, "a.txt", PICTURE)
    rs.ingest(folder, collection="docs")
    write_documents(folder, {"a.txt": a_text("a")})
    if not touched:
        os.utime(folder / "a.txt", ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert rs.ingest(folder, collection="docs").unchanged == 1
    oracle.assert_settled(state)


def test_deleting_a_document_clears_its_quarantine(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    path = put(folder, "a.txt", PICTURE)
    rs.ingest(folder, collection="docs")
    assert rs.delete(str(path), collection="docs") == 0
    oracle.assert_settled({})


def test_a_file_that_cannot_be_listed_is_tried_again_each_time(rs: Ragstore, folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    for attempt in (1, 2):
        assert rs.ingest(folder, collection="docs").failed == 2
        assert {name: entry.attempts for name, entry in aside(rs).items()} == {"a.txt": attempt, "pipe.txt": attempt}


def test_a_file_too_large_is_set_aside(settings: Settings, folder: Path) -> None:
    small = Settings(
        postgres_url=settings.postgres_url,
        mongo_url=settings.mongo_url,
        mongo_database=settings.mongo_database,
        max_file_mb=1,
    )
    put(folder, "a.txt", b"word " * 300_000)
    with ragstore.open(small) as rs:
        assert rs.ingest(folder, collection="docs").failed == 1
        assert aside(rs)["a.txt"].code == "content.limit"


def test_a_document_of_more_nodes_than_one_entry_can_name_is_set_aside(
    rs: Ragstore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "MAX_NODES", 3)
    write_documents(folder, {"large.txt": a_text("large"), "small.txt": a_text("small", 4)})
    report = rs.ingest(folder, collection="docs")
    assert (report.added, report.failed) == (1, 1)
    assert aside(rs)["large.txt"].code == "content.limit"


def test_a_document_that_a_store_refuses_is_set_aside_and_the_others_of_its_batch_go_in(
    rs: Ragstore, oracle: Oracle, settings: Settings, folder: Path
) -> None:
    state = write_documents(folder, {f"{i}.txt": a_text(i) for i in range(7)})
    poison = str(folder / "3.txt")
    execute(settings, "ALTER TABLE ragstore.data_docs ADD CHECK (document_id <> %s)", [poison])
    report = rs.ingest(folder, collection="docs")
    assert (report.added, report.failed) == (6, 1)
    (entry,) = rs.quarantined("docs")
    assert (entry.document_id, entry.code, entry.retry) == (poison, "store", Retry.NEVER)
    execute(settings, "DELETE FROM ragstore.quarantine")
    oracle.assert_settled({i: text for i, text in state.items() if i != poison})


def test_entries_that_mongodb_refuses_fail_the_ingest_and_blame_no_document(
    rs: Ragstore, oracle: Oracle, mongo_database: Database[dict[str, Any]], folder: Path
) -> None:
    state = write_documents(folder, GOOD)
    rule = {"$jsonSchema": {"required": ["something else"]}}
    mongo_database.create_collection("docs/ref_doc_info", validator=rule)
    with pytest.raises(StoreError) as raised:
        rs.ingest(folder, collection="docs")
    assert "MongoDB" in raised.value.message
    assert not rs.quarantined("docs")
    mongo_database.command("collMod", "docs/ref_doc_info", validator={})
    rs.ingest(folder, collection="docs")
    oracle.assert_settled(state)
