"""What an ingest does with files that are new, the same, touched, edited, renamed, deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.embedding import ModelOptions, load
from ragstore.model.report import COUNTS, IngestReport
from ragstore.settings import Settings
from ragstore.sources.presence import Roots
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.oracle import Oracle, State
from tests.support.parts import execute, postgres_url

LONG = a_text("long", 80)


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


def counts(report: IngestReport) -> dict[str, int | float]:
    return {name: n for name in COUNTS if (n := getattr(report, name)) and name != "seconds"}


def ingest(rs: Ragstore, *paths: Path) -> dict[str, int | float]:
    return counts(rs.ingest(*paths, collection="docs"))


def test_new_files_are_added_once(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write_documents(folder, {f"{i}.txt": a_text(i) for i in range(5)})
    report = ingest(rs, folder)
    n_chunks = len(oracle.snapshot().rows)
    assert report == {"added": 5, "chunks": n_chunks, "embedded": n_chunks}
    assert ingest(rs, folder) == {"unchanged": 5}
    oracle.assert_settled(state)


def test_a_touched_file_is_unchanged_and_is_not_read_again_next_time(
    rs: Ragstore, oracle: Oracle, folder: Path
) -> None:
    state = write_documents(folder, {"a.txt": LONG})
    ingest(rs, folder)
    os.utime(folder / "a.txt", ns=(1, 1))
    assert ingest(rs, folder) == {"unchanged": 1}
    (document,) = rs.documents("docs")
    assert document.mtime_ns == 1
    oracle.assert_settled(state)


def test_one_edited_sentence_embeds_the_chunks_it_touches_and_no_more(
    rs: Ragstore, oracle: Oracle, folder: Path
) -> None:
    write_documents(folder, {"a.txt": LONG})
    n_before = ingest(rs, folder)["chunks"]
    assert n_before >= 30
    for i in range(8):
        state = write_documents(folder, {"a.txt": an_edited(LONG, i)})
        report = ingest(rs, folder)
        assert report["updated"] == 1
        assert report["embedded"] <= 4 if i else report["embedded"] <= 2
        assert report["chunks"] == report["embedded"] + report["reused"]
        oracle.assert_settled(state)


def test_an_appended_sentence_embeds_at_most_two_chunks(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    write_documents(folder, {"a.txt": LONG})
    ingest(rs, folder)
    state = write_documents(folder, {"a.txt": LONG + "\nVamoso litepa rudo gifa bekudi.\n"})
    assert ingest(rs, folder)["embedded"] <= 2
    oracle.assert_settled(state)


def test_a_reused_vector_is_the_one_its_text_has(rs: Ragstore, settings: Settings, folder: Path) -> None:
    write_documents(folder, {"a.txt": LONG, "b.txt": a_text("b")})
    ingest(rs, folder)
    write_documents(folder, {"a.txt": an_edited(LONG, 1), "b.txt": a_text("b") + LONG})
    assert ingest(rs, folder)["reused"]
    rows = execute(settings, "SELECT text, embedding::text FROM ragstore.data_docs")
    stored = np.array([[float(x) for x in embedding.strip("[]").split(",")] for _, embedding in rows])
    fresh = load("wordllama", ModelOptions()).embed_documents([text for text, _ in rows])
    assert np.abs(stored - fresh).max() < 1e-6


def test_a_renamed_file_moves_without_embedding(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    write_documents(folder, {"a.txt": LONG, "b.txt": a_text("b")})
    n_chunks = ingest(rs, folder)["chunks"]
    n_chunks -= len(oracle.snapshot().of(str(folder / "b.txt")))
    (folder / "below").mkdir()
    (folder / "a.txt").rename(folder / "below" / "z.txt")
    assert ingest(rs, folder) == {"renamed": 1, "unchanged": 1, "chunks": n_chunks, "reused": n_chunks}
    oracle.assert_settled({str(folder / "below" / "z.txt"): LONG, str(folder / "b.txt"): a_text("b")})
    actions = [event.action for event in rs.history(str(folder / "a.txt"), "docs")]
    assert actions == ["added", "deleted"]


def test_a_copied_file_is_a_document_of_its_own_without_embedding(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write_documents(folder, {"a.txt": LONG})
    n_chunks = ingest(rs, folder)["chunks"]
    state |= write_documents(folder, {"copy.txt": LONG})
    assert ingest(rs, folder) == {"added": 1, "unchanged": 1, "chunks": n_chunks, "reused": n_chunks}
    oracle.assert_settled(state)


def test_two_files_that_swap_names_are_updated_without_embedding(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    write_documents(folder, {"a.txt": a_text("a"), "b.txt": a_text("b")})
    n_chunks = ingest(rs, folder)["chunks"]
    state = write_documents(folder, {"a.txt": a_text("b"), "b.txt": a_text("a")})
    for name, time in (("a.txt", 10), ("b.txt", 20)):
        os.utime(folder / name, (time, time))
    assert ingest(rs, folder) == {"updated": 2, "chunks": n_chunks, "reused": n_chunks}
    oracle.assert_settled(state)


def test_one_of_two_copies_renamed_moves_that_one(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    write_documents(folder, {"a.txt": LONG, "b.txt": LONG})
    ingest(rs, folder)
    (folder / "b.txt").rename(folder / "c.txt")
    assert ingest(rs, folder)["renamed"] == 1
    oracle.assert_settled({str(folder / "a.txt"): LONG, str(folder / "c.txt"): LONG})


def test_a_file_gone_from_one_folder_is_not_taken_for_the_one_new_in_another(
    rs: Ragstore, oracle: Oracle, tmp_path: Path
) -> None:
    state = write_documents(tmp_path / "one", {"a.txt": LONG})
    ingest(rs, tmp_path / "one")
    (tmp_path / "one" / "a.txt").unlink()
    state |= write_documents(tmp_path / "two", {"a.txt": LONG})
    assert ingest(rs, tmp_path / "two")["added"] == 1
    oracle.assert_settled(state)


def test_documents_that_the_listing_lacks_stay(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write_documents(folder, {"a.txt": LONG, "b.txt": a_text("b")})
    ingest(rs, folder)
    (folder / "a.txt").unlink()
    assert ingest(rs, folder) == {"unchanged": 1}
    oracle.assert_settled(state)


def test_a_deleted_document_is_gone_from_both_stores_and_can_come_back(
    rs: Ragstore, oracle: Oracle, folder: Path
) -> None:
    state: State = write_documents(folder, {"a.txt": LONG, "b.txt": a_text("b")})
    ingest(rs, folder)
    gone = str(folder / "a.txt")
    assert rs.delete(gone, "never seen", collection="docs") == 1
    assert rs.delete(gone, collection="docs") == 0
    oracle.assert_settled({i: text for i, text in state.items() if i != gone})
    assert ingest(rs, folder)["added"] == 1
    oracle.assert_settled(state)
    assert [e.action for e in rs.history(gone, "docs")] == ["added", "deleted", "added"]


def test_a_change_of_metadata_alone_embeds_nothing(rs: Ragstore, folder: Path) -> None:
    body = a_text("body")
    write_documents(folder, {"a.md": f"---\ntitle: First\n---\n{body}"})
    n_chunks = ingest(rs, folder)["chunks"]
    write_documents(folder, {"a.md": f"---\ntitle: Second\n---\n{body}"})
    assert ingest(rs, folder) == {"updated": 1, "chunks": n_chunks, "reused": n_chunks}
    (document,) = rs.documents("docs")
    assert document.metadata["title"] == "Second"


def test_the_struct_of_an_index_does_not_grow_with_its_documents(
    rs: Ragstore, mongo_database: Database[dict[str, Any]], folder: Path
) -> None:
    write_documents(folder, {f"{i}.txt": a_text(i) for i in range(20)})
    ingest(rs, folder)
    names = set(mongo_database.list_collection_names())
    assert names == {"docs/data", "docs/ref_doc_info", "docs/metadata", "index_store/data", "ragstore/registry"}
    assert mongo_database["index_store/data"].count_documents({}) == 0
    sizes = mongo_database["docs/ref_doc_info"].aggregate([{"$project": {"size": {"$bsonSize": "$$ROOT"}}}])
    assert max(entry["size"] for entry in sizes) < 2_000


@pytest.mark.parametrize("names", [("a.txt", "b.txt"), ("b.txt", "a.txt")])
def test_a_file_that_vanishes_while_it_is_stored_is_not_moved_and_updated_at_once(
    names: tuple[str, str], rs: Ragstore, oracle: Oracle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = names
    write_documents(folder, {old: a_text("first")})
    ingest(rs, folder)
    state = write_documents(folder, {old: a_text("second"), new: a_text("first")})
    # Read with its new content, and gone when the two are stored together.
    monkeypatch.setattr(Roots, "source_missing", lambda _self, uri: uri == str(folder / old))
    ingest(rs, folder)
    oracle.assert_settled(state)
