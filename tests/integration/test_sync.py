"""What a sync deletes, what it leaves alone, and what it refuses."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from pymongo.database import Database

from ragstore.app import Ragstore
from ragstore.errors import MassDeletionError, UsageError
from ragstore.ingest.deletion import survey
from ragstore.model.collection import Collection
from ragstore.model.report import IngestReport
from ragstore.postgres.collections import get_collection
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Publisher
from ragstore.settings import Settings
from ragstore.sources.listing import PASSED_OVER_LINK
from ragstore.sources.presence import Roots
from tests.support.corpus import a_text, an_edited, write_documents
from tests.support.internals import collection_of, writer_of
from tests.support.oracle import Oracle, State
from tests.support.parts import execute, postgres_url

KNOWN = """
INSERT INTO ragstore.document (collection_id, document_id, source_uri, revision, fingerprint)
SELECT collection_id, %s || i, %s || i, 1, '' FROM ragstore.collection, generate_series(%s, %s) AS i
"""


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


@pytest.fixture
def pool(settings: Settings) -> Iterator[PostgresPool]:
    pool = PostgresPool(postgres_url(settings), size=2)
    yield pool
    pool.close()


def counts(report: IngestReport) -> dict[str, int]:
    names = ("added", "updated", "renamed", "deleted", "unchanged", "failed")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def sync(rs: Ragstore, *paths: Path, **kwargs: Any) -> dict[str, int]:
    return counts(rs.sync(*paths, collection="docs", **kwargs))


def refused(rs: Ragstore, *paths: Path) -> MassDeletionError:
    with pytest.raises(MassDeletionError) as raised:
        rs.sync(*paths, collection="docs")
    return raised.value


def write(folder: Path, *names: str) -> State:
    return dict(write_documents(folder, {name: a_text(name, 8) for name in names}))


def numbered(n: int) -> list[str]:
    return [f"{i:03}.txt" for i in range(n)]


def contents(settings: Settings, mongo: Database[dict[str, Any]]) -> Any:
    tables = ("document", "collection", "run", "outbox", "event", "quarantine", "body", "data_docs")
    rows = {t: execute(settings, f"SELECT t::text FROM ragstore.{t} t ORDER BY 1") for t in tables}
    return rows, {name: list(mongo[name].find().sort("_id")) for name in sorted(mongo.list_collection_names())}


def test_a_sync_adds_updates_renames_and_deletes(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write(folder, "a.txt", "b.txt", "c.txt", "d.txt")
    assert sync(rs, folder) == {"added": 4}
    (folder / "a.txt").unlink()
    (folder / "b.txt").rename(folder / "moved.txt")
    state |= write_documents(folder, {"c.txt": an_edited(state[str(folder / "c.txt")], 1), "new.txt": a_text("new")})
    state[str(folder / "moved.txt")] = state.pop(str(folder / "b.txt"))
    del state[str(folder / "a.txt")]
    report = rs.sync(folder, collection="docs")
    assert counts(report) == {"added": 1, "updated": 1, "renamed": 1, "deleted": 1, "unchanged": 1}
    oracle.assert_settled(state)
    assert [event.action for event in rs.history(str(folder / "a.txt"), "docs")] == ["added", "deleted"]
    assert sync(rs, folder) == {"unchanged": 4}


def test_a_file_that_comes_back_is_added_again(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write(folder, "a.txt", "b.txt")
    sync(rs, folder)
    (folder / "a.txt").unlink()
    assert sync(rs, folder) == {"deleted": 1, "unchanged": 1}
    write(folder, "a.txt")
    assert sync(rs, folder) == {"added": 1, "unchanged": 1}
    oracle.assert_settled(state)


def test_documents_from_other_folders_stay(rs: Ragstore, oracle: Oracle, tmp_path: Path) -> None:
    state = write(tmp_path / "one", "a.txt", "b.txt") | write(tmp_path / "one more", "a.txt", "c.txt")
    rs.ingest(tmp_path, collection="docs")
    for name in ("one", "one more"):
        (tmp_path / name / "a.txt").unlink()
    assert sync(rs, tmp_path / "one") == {"deleted": 1, "unchanged": 1}
    del state[str(tmp_path / "one" / "a.txt")]
    oracle.assert_settled(state)


def test_what_llamaindex_code_added_stays_though_it_names_a_file_that_is_gone(rs: Ragstore, folder: Path) -> None:
    write(folder, "a.txt", "b.txt")
    rs.ingest(folder, collection="docs")
    gone = str(folder / "gone.txt")
    documents = [
        Document(id_=gone, text="Read by a reader of LlamaIndex.", metadata={"file_path": gone}),
        Document(id_="of its own", text="An entry of a wiki.", metadata={"file_path": gone}),
    ]
    VectorStoreIndex.from_documents(
        documents, storage_context=rs.storage_context("docs"), embed_model=rs.embed_model("docs")
    )
    (folder / "a.txt").unlink()
    assert sync(rs, folder) == {"deleted": 1, "unchanged": 1}
    assert {d.document_id for d in rs.documents("docs")} == {str(folder / "b.txt"), gone, "of its own"}


def test_a_document_that_was_to_be_read_again_is_still_deleted_with_its_file(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]], folder: Path
) -> None:
    write(folder, "a.txt", "b.txt")
    rs.ingest(folder, collection="docs")
    gone = str(folder / "a.txt")
    nodes = execute(settings, "DELETE FROM ragstore.data_docs WHERE document_id = %s RETURNING node_id", [gone])
    mongo_database["docs/data"].delete_many({"_id": {"$in": [row[0] for row in nodes]}})
    rs.repair()
    (folder / "a.txt").unlink()
    assert sync(rs, folder) == {"deleted": 1, "unchanged": 1}


def test_a_named_file_is_synced_alone(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write(folder, "a.txt", "b.txt")
    rs.ingest(folder, collection="docs")
    (folder / "a.txt").unlink()
    assert sync(rs, folder / "b.txt") == {"unchanged": 1}
    oracle.assert_settled(state)


def test_a_path_that_is_gone_is_a_wrong_call_and_deletes_nothing(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write(folder, "a.txt", "b.txt")
    rs.ingest(folder, collection="docs")
    (folder / "a.txt").unlink()
    with pytest.raises(UsageError, match="does not exist"):
        rs.sync(folder, folder / "a.txt", collection="docs", allow_mass_delete=True)
    folder.rename(folder.with_name("taken away"))
    with pytest.raises(UsageError, match="does not exist"):
        rs.sync(folder, collection="docs", allow_mass_delete=True)
    oracle.assert_settled(state)


def test_where_a_folder_cannot_be_listed_nothing_is_deleted(
    rs: Ragstore,
    oracle: Oracle,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = write(folder, "a.txt", "b.txt") | write(folder / "below", "c.txt")
    rs.ingest(folder, collection="docs")
    (folder / "a.txt").unlink()
    (folder / "below" / "c.txt").unlink()
    real = os.scandir
    with monkeypatch.context() as broken:

        def scandir(opened: Any) -> Any:
            if isinstance(opened, int) and os.path.samestat(os.fstat(opened), (folder / "below").stat()):
                raise OSError(5, "Input/output error")
            return real(opened)

        broken.setattr(os, "scandir", scandir)
        for how in ("allow_mass_delete", "dry_run"):
            options: dict[str, Any] = {how: True}
            report = rs.sync(folder, collection="docs", **options)
            assert counts(report) == {"unchanged": 1, "failed": 1}
            assert report.refused is not None
            assert "could not be listed" in report.refused.message
    assert {document.document_id for document in rs.documents("docs")} == set(state)
    assert len(rs.quarantined("docs")) == 1
    assert sync(rs, folder) == {"unchanged": 1, "deleted": 2}
    assert rs.quarantined("docs") == []
    oracle.assert_settled({str(folder / "b.txt"): state[str(folder / "b.txt")]})


def test_a_mass_deletion_is_refused_and_what_is_new_stays(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write(folder, *numbered(30))
    rs.ingest(folder, collection="docs")
    for name in numbered(11):
        (folder / name).unlink()
    state |= write(folder, "new.txt") | write_documents(folder, {"029.txt": a_text("edited", 8)})
    error = refused(rs, folder)
    assert "11 of 31" in error.message
    assert error.exit_status == 4
    assert counts(error.facts["report"]) == {"added": 1, "updated": 1, "unchanged": 18}
    oracle.assert_settled(state)
    assert sync(rs, folder, allow_mass_delete=True) == {"deleted": 11, "unchanged": 20}
    oracle.assert_settled({i: text for i, text in state.items() if Path(i).exists()})


def test_ten_deletions_and_a_fifth_are_not_refused(rs: Ragstore, folder: Path) -> None:
    write(folder, *numbered(11))
    rs.ingest(folder, collection="docs")
    for name in numbered(10):
        (folder / name).unlink()
    assert sync(rs, folder) == {"deleted": 10, "unchanged": 1}


def test_a_folder_that_comes_back_empty_deletes_nothing(rs: Ragstore, oracle: Oracle, tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    state = write(full, *numbered(9)) | write(empty, "only.txt")
    rs.ingest(full, empty, collection="docs")
    (empty / "only.txt").unlink()
    (empty / "photo.png").touch()
    assert str(empty) in refused(rs, full, empty).message
    assert "mounted" in refused(rs, empty).hint
    oracle.assert_settled(state)
    assert sync(rs, full, empty, allow_mass_delete=True) == {"deleted": 1, "unchanged": 9}


def test_a_drive_that_is_taken_away_behind_a_link_deletes_nothing(
    rs: Ragstore, oracle: Oracle, folder: Path, tmp_path: Path
) -> None:
    state = write(folder, "a.txt")
    write(tmp_path / "drive", "b.txt")
    (folder / "link").symlink_to(tmp_path / "drive")
    state[str(folder / "link" / "b.txt")] = a_text("b.txt", 8)
    assert sync(rs, folder, follow_links=True) == {"added": 2}
    (tmp_path / "drive").rename(tmp_path / "away")
    assert sync(rs, folder, follow_links=True) == {"unchanged": 1}
    oracle.assert_settled(state)
    (tmp_path / "away").rename(tmp_path / "drive")
    (tmp_path / "drive" / "b.txt").unlink()
    assert sync(rs, folder, follow_links=True) == {"unchanged": 1, "deleted": 1}


def test_documents_behind_a_link_that_is_not_followed_any_more_stay_and_the_link_is_named(
    rs: Ragstore, oracle: Oracle, folder: Path, tmp_path: Path
) -> None:
    state = write(folder, "a.txt")
    write(tmp_path / "drive", "b.txt", "c.txt")
    (folder / "link").symlink_to(tmp_path / "drive")
    for name in ("b.txt", "c.txt"):
        state[str(folder / "link" / name)] = a_text(name, 8)
    assert sync(rs, folder, follow_links=True) == {"added": 3}
    (tmp_path / "drive" / "c.txt").unlink()
    (tmp_path / "drive" / "b.txt").write_text("changed meanwhile")
    for dry_run in (True, False):
        report = rs.sync(folder, collection="docs", dry_run=dry_run)
        assert (report.unchanged, report.deleted, report.updated) == (1, 0, 0)
        assert report.passed_over.as_dict() == {PASSED_OVER_LINK: {"count": 1, "examples": [str(folder / "link")]}}
    oracle.assert_settled(state)


def test_a_file_that_became_a_link_out_of_the_folder_keeps_its_document(
    rs: Ragstore, oracle: Oracle, folder: Path, tmp_path: Path
) -> None:
    state = write(folder, "a.txt", "b.txt")
    assert sync(rs, folder) == {"added": 2}
    (tmp_path / "secret.txt").write_text("the password is swordfish")
    (folder / "b.txt").unlink()
    (folder / "b.txt").symlink_to(tmp_path / "secret.txt")
    assert sync(rs, folder) == {"unchanged": 1}
    oracle.assert_settled(state)


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"new\nline.txt", b"100% \\ 'odd'.txt", b"*.txt"])
def test_odd_names_are_deleted_like_others(rs: Ragstore, oracle: Oracle, folder: Path, name: bytes) -> None:
    state = write(folder, "a.txt")
    odd = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
    odd.write_text(a_text("odd", 8))
    assert sync(rs, folder) == {"added": 2}
    assert sync(rs, folder) == {"unchanged": 2}
    odd.unlink()
    assert sync(rs, folder) == {"deleted": 1, "unchanged": 1}
    oracle.assert_settled(state)


def test_what_is_in_quarantine_leaves_it_with_its_file(rs: Ragstore, folder: Path) -> None:
    write(folder, "a.txt", "b.txt", "c.txt")
    (folder / "never.pdf").write_bytes(b"%PDF-1.4 cut off")
    (folder / "stays.pdf").write_bytes(b"%PDF-1.4 cut off")
    rs.ingest(folder, collection="docs")
    (folder / "a.txt").write_bytes(b"PK\x03\x04" + bytes(1_000))
    assert sync(rs, folder) == {"unchanged": 2, "failed": 3}
    for name in ("a.txt", "never.pdf"):
        (folder / name).unlink()
    gone = ([str(folder / "a.txt")], [str(folder / "never.pdf")])
    looked = rs.sync(folder, collection="docs", dry_run=True)
    assert (looked.deleted_documents, looked.forgotten_documents) == gone
    done = rs.sync(folder, collection="docs")
    assert (done.unchanged, done.failed, done.deleted) == (2, 1, 1)
    assert (done.deleted_documents, done.as_dict()["forgotten_documents"]) == gone
    assert rs.sync(folder, collection="docs").forgotten_documents == []
    assert [Path(entry.document_id).name for entry in rs.quarantined("docs")] == ["stays.pdf"]


def test_a_dry_run_tells_what_then_happens_and_changes_nothing(
    rs: Ragstore, settings: Settings, mongo_database: Database[dict[str, Any]], folder: Path
) -> None:
    write(folder, *numbered(12))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    rs.ingest(folder, collection="docs")
    for name in numbered(3):
        (folder / name).unlink()
    (folder / "003.txt").rename(folder / "moved.txt")
    (folder / "004.txt").rename(folder / "moved too.txt")
    os.utime(folder / "005.txt", ns=(1, 1))
    write_documents(folder, {"006.txt": a_text("edited"), "new.txt": a_text("new"), "copy.txt": a_text("007.txt", 8)})
    before = contents(settings, mongo_database)
    would = sync(rs, folder, dry_run=True)
    assert contents(settings, mongo_database) == before
    assert would == {"added": 2, "updated": 1, "renamed": 2, "deleted": 3, "unchanged": 6, "failed": 1}
    assert sync(rs, folder) == would


def test_a_dry_run_into_a_new_collection_makes_none(rs: Ragstore, folder: Path) -> None:
    write(folder, "a.txt", "b.txt")
    assert counts(rs.sync(folder, collection="fresh", dry_run=True)) == {"added": 2}
    assert [collection.name for collection in rs.collections()] == ["docs"]


def test_a_dry_run_says_that_a_sync_would_refuse(rs: Ragstore, folder: Path) -> None:
    write(folder, *numbered(12))
    rs.ingest(folder, collection="docs")
    for name in numbered(11):
        (folder / name).unlink()
    report = rs.sync(folder, collection="docs", dry_run=True)
    assert counts(report) == {"deleted": 11, "unchanged": 1}
    assert report.refused is not None
    assert "11 of 12" in report.refused.message


def test_a_dry_run_reads_new_files_only_while_something_is_missing(
    rs: Ragstore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "a.txt", "b.txt")
    rs.ingest(folder, collection="docs")
    write(folder, "new.txt")
    (folder / "pipe.txt").touch()
    monkeypatch.setattr("ragstore.ingest.dry_run.content_hash_of", _unwanted)
    assert sync(rs, folder, dry_run=True) == {"added": 2, "unchanged": 2}


def _unwanted(source_uri: str) -> str:
    raise AssertionError(f"{source_uri} was read")


def test_a_document_that_moved_on_is_not_deleted(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    state = write(folder, "a.txt", "b.txt")
    rs.ingest(folder, collection="docs")
    (document, other) = rs.documents("docs")
    publisher, collection = writer_of(rs).publisher, collection_of(rs, "docs")
    planned = {document.document_id: document.revision, other.document_id: other.revision}
    state |= write_documents(folder, {"a.txt": a_text("edited meanwhile")})
    rs.ingest(folder, collection="docs")
    assert publisher.delete(collection, list(planned), planned_from=planned) == 1
    writer_of(rs).recoverer.retire()
    del state[other.document_id]
    oracle.assert_settled(state)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_file_that_returns_while_it_is_deleted_is_not_lost(
    moment: str,
    rs: Ragstore,
    settings: Settings,
    oracle: Oracle,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = write(folder, "a.txt", "b.txt")
    rs.ingest(folder, collection="docs")
    status = (folder / "a.txt").stat()
    (folder / "a.txt").unlink()
    real = Publisher.delete_live

    def returns() -> None:
        # The same file as before, so that another worker finds nothing to do.
        write(folder, "a.txt")
        os.utime(folder / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
        if moment == "before":
            assert counts(rs.ingest(folder, collection="docs")) == {"unchanged": 2}

    def delete(self: Publisher, collection: Collection, ids: Sequence[str], **kwargs: Any) -> list[str]:
        if moment == "before":
            returns()
        deleted = real(self, collection, ids, **kwargs)
        if moment == "after":
            returns()
        return deleted

    monkeypatch.setattr(Publisher, "delete_live", delete)
    assert sync(rs, folder) == {"deleted": 1, "added": 1, "unchanged": 1}
    oracle.assert_settled(state)


def test_a_folder_that_is_taken_away_during_a_sync_deletes_nothing_more(
    rs: Ragstore, oracle: Oracle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = write(folder, *numbered(9))
    rs.ingest(folder, collection="docs")
    (folder / "000.txt").unlink()

    def surveyed(*arguments: Any) -> Any:
        missing = survey(*arguments)
        folder.rename(folder.with_name("taken away"))
        folder.mkdir()
        return missing

    monkeypatch.setattr("ragstore.ingest.sync.survey", surveyed)
    assert "became another folder" in refused(rs, folder).message
    oracle.assert_settled(state)


def test_files_that_vanish_in_masses_during_a_sync_are_not_deleted(
    rs: Ragstore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, *numbered(30))
    rs.ingest(folder, collection="docs")
    (folder / "000.txt").unlink()

    def surveyed(*arguments: Any) -> Any:
        missing = survey(*arguments)
        for name in numbered(29)[1:]:
            (folder / name).unlink()
        return missing

    monkeypatch.setattr("ragstore.ingest.sync.survey", surveyed)
    assert "more documents went" in refused(rs, folder).message
    assert len(list(rs.documents("docs"))) == 30


@pytest.mark.parametrize("is_gone", [True, False])
def test_only_the_names_of_what_is_gone_take_memory(
    rs: Ragstore, settings: Settings, pool: PostgresPool, folder: Path, is_gone: bool
) -> None:
    folder.mkdir()
    if not is_gone:  # nobody can tell what is behind a link that leads nowhere
        (folder / "below").symlink_to("nowhere")
    collection, roots = get_collection(pool, "docs"), Roots([folder])
    peaks = []
    for first, last in ((1, 4_000), (4_001, 24_000)):
        execute(settings, KNOWN, [f"{folder}/below/", f"{folder}/below/", first, last])
        tracemalloc.start()
        try:
            assert survey(pool, collection, roots).n_missing == (last if is_gone else 0)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    per_name = 600 if is_gone else 0
    assert peaks[1] - per_name * 20_000 < 1.5 * peaks[0]


def test_a_reason_met_again_adds_nothing_to_the_audit_trail(rs: Ragstore, settings: Settings, folder: Path) -> None:
    write(folder, "a.txt")
    (folder / "broken.txt").symlink_to("nowhere.txt")
    for _ in range(3):
        assert sync(rs, folder)["failed"] == 1
    (entry,) = rs.quarantined("docs")
    assert entry.attempts == 3
    assert execute(settings, "SELECT count(*) FROM ragstore.event WHERE action = 'quarantined'") == [(1,)]
