"""Folders that were moved: documents follow by name, or are deleted below the old one."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ragstore.app import Ragstore
from ragstore.errors import DocumentNotFoundError, MassDeletionError, PathNotFoundError, UsageError
from ragstore.ingest.relocation import IS_TAKEN, NOT_READ
from ragstore.settings import Settings
from tests.support.corpus import a_text, write_documents
from tests.support.parts import execute


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


@pytest.fixture
def old(rs: Ragstore, tmp_path: Path) -> Path:
    """A folder that was ingested."""
    folder = tmp_path / "old"
    (folder / "sub").mkdir(parents=True)
    write_documents(folder / "sub", {"b.txt": a_text("b", 20)})
    write_documents(folder, {"a.txt": a_text("a", 20)})
    (folder / "sub" / "empty.txt").write_text("")
    rs.ingest(folder, collection="docs")
    return folder


def ids(rs: Ragstore) -> list[str]:
    return [document.document_id for document in rs.documents("docs")]


def nodes(settings: Settings) -> list[tuple[Any, ...]]:
    return execute(
        settings,
        "SELECT text, ordinal, start_char, end_char, chunk_hash, embedding::text FROM ragstore.data_docs "
        "ORDER BY document_id, ordinal",
    )


def test_documents_of_a_moved_folder_keep_their_nodes_and_vectors(rs: Ragstore, settings: Settings, old: Path) -> None:
    before, new = nodes(settings), old.with_name("new")
    old.rename(new)
    report = rs.move(old, new, collection="docs")
    assert (report.moved, report.nodes, report.left.total) == (3, len(before), 0)
    assert ids(rs) == [str(new / name) for name in ("a.txt", "sub/b.txt", "sub/empty.txt")]
    assert nodes(settings) == before
    hit = rs.query("anything", collection="docs", top_k=1)[0]
    assert hit.metadata["file_path"] == hit.document_id and hit.source.startswith(str(new))
    assert rs.verify(deep=True).ok
    assert rs.sync(new, collection="docs").unchanged == 3, "nothing is read again"


def test_a_moved_document_is_what_a_reading_would_make(rs: Ragstore, settings: Settings, old: Path) -> None:
    new = old.with_name("new")
    old.rename(new)
    rs.move(old, new, collection="docs")
    assert rs.ingest(new, collection="docs", reread=True).unchanged == 3
    content = "SELECT metadata_->>'_node_content' FROM ragstore.data_docs WHERE document_id = %s ORDER BY ordinal"
    moved = execute(settings, content, (str(new / "a.txt"),))
    assert all(str(old) not in each for (each,) in moved)
    retriever = rs.index("docs").as_retriever(similarity_top_k=1)
    (found,) = retriever.retrieve("anything")
    assert found.node.ref_doc_id in ids(rs)
    assert rs.storage_context("docs").docstore.get_node(found.node.node_id).get_content() == found.node.get_content()


def test_the_history_says_where_a_document_went(rs: Ragstore, old: Path) -> None:
    new = old.with_name("new")
    rs.move(old, new, collection="docs")
    (came,) = rs.history(str(new / "a.txt"), "docs")
    assert (came.action, came.detail, came.n_embedded) == ("renamed", {"renamed_from": str(old / "a.txt")}, 0)
    assert rs.history(str(old / "a.txt"), "docs")[-1].detail == {"renamed_to": str(new / "a.txt")}


def test_what_was_ingested_from_the_new_place_leaves_the_old(rs: Ragstore, old: Path) -> None:
    new = old.with_name("new")
    old.rename(new)
    assert rs.sync(new, collection="docs").added == 3, "every document twice"
    (new / "a.txt").write_text("Another text since then.\n")
    rs.sync(new, collection="docs")
    report = rs.move(old, new, collection="docs")
    assert (report.moved, report.already_there, report.left.counts) == (0, 2, {IS_TAKEN: 1})
    assert ids(rs) == [str(new / "a.txt"), *(str(new / "sub" / n) for n in ("b.txt", "empty.txt")), str(old / "a.txt")]
    assert rs.verify(deep=True).ok


def test_a_single_file_and_a_folder_of_odd_names_are_moved(rs: Ragstore, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    (odd / os.fsdecode(b"\xff.txt")).write_text("Odd words.\n")
    (odd / "\u00e9.txt").write_text("Other words.\n")
    rs.ingest(odd, collection="docs")
    target = tmp_path / "\u00fcber"
    odd.rename(target)
    assert rs.move(odd, target, collection="docs").moved == 2
    assert rs.sync(target, collection="docs").unchanged == 2
    (target / "\u00e9.txt").rename(tmp_path / "e.txt")
    assert rs.move(target / "\u00e9.txt", tmp_path / "e.txt", collection="docs").moved == 1
    assert rs.sync(tmp_path, collection="docs").unchanged == 2


def test_a_neighbour_whose_name_begins_alike_stays(rs: Ragstore, old: Path) -> None:
    neighbour = old.with_name("old news")
    write_documents(neighbour, {"c.txt": "Words of the neighbour.\n"})
    rs.ingest(neighbour, collection="docs")
    rs.move(old, old.with_name("new"), collection="docs")
    assert str(neighbour / "c.txt") in ids(rs)
    with pytest.raises(DocumentNotFoundError):
        rs.move(old, old.with_name("newer"), collection="docs")


def test_a_move_into_itself_is_refused(rs: Ragstore, old: Path) -> None:
    for one, other in ((old, old / "sub"), (old / "sub", old), (old, old)):
        with pytest.raises(UsageError, match="lies in"):
            rs.move(one, other, collection="docs")


def test_what_llamaindex_code_added_stays(rs: Ragstore, tmp_path: Path) -> None:
    from llama_index.core import Document

    rs.index("docs").insert(Document(text="Added by code.", id_=f"{tmp_path}/old/added.txt"))
    report = rs.move(tmp_path / "old", tmp_path / "new", collection="docs")
    assert (report.moved, report.left.counts) == (0, {NOT_READ: 1})


def test_a_path_that_is_gone_names_both_ways_out(rs: Ragstore, old: Path) -> None:
    old.rename(old.with_name("new"))
    for verb in (rs.sync, rs.ingest):
        with pytest.raises(PathNotFoundError) as raised:
            verb(old, collection="docs")
        assert f"ragstore move {old} NEW -c docs" in raised.value.hint
        assert f"ragstore delete --below {old} -c docs" in raised.value.hint
    with pytest.raises(PathNotFoundError) as raised:
        rs.sync(old.with_name("never there"), collection="docs")
    assert "delete" not in raised.value.hint
    assert len(ids(rs)) == 3


def test_all_below_a_path_is_deleted(rs: Ragstore, old: Path) -> None:
    neighbour = old.with_name("old news")
    write_documents(neighbour, {"c.txt": "Words of the neighbour.\n"})
    (old / "damaged.pdf").write_bytes(b"%PDF-1.4 cut")
    rs.ingest(neighbour, old, collection="docs")
    plan = rs.delete_below(old / "sub", collection="docs", dry_run=True)
    assert plan.deleted_documents == [str(old / "sub" / "b.txt"), str(old / "sub" / "empty.txt")]
    assert len(ids(rs)) == 4
    report = rs.delete_below(old, collection="docs")
    assert len(report.deleted_documents) == 3
    assert report.forgotten_documents == [str(old / "damaged.pdf")]
    assert ids(rs) == [str(neighbour / "c.txt")] and rs.quarantined("docs") == []
    assert rs.history(str(old / "a.txt"), "docs")[-1].action == "deleted"
    assert rs.verify(deep=True).ok


def test_a_deletion_of_much_is_refused_until_it_is_confirmed(rs: Ragstore, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write_documents(folder, {f"{i}.txt": f"Words of {i}.\n" for i in range(12)})
    rs.ingest(folder, collection="docs")
    for dry_run in (True, False):
        with pytest.raises(MassDeletionError, match="12 of 12"):
            rs.delete_below(folder, collection="docs", dry_run=dry_run)
    assert len(ids(rs)) == 12
    assert len(rs.delete_below(folder, collection="docs", allow_mass_delete=True).deleted_documents) == 12


def test_members_of_moved_archives_keep_their_names(rs: Ragstore, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with zipfile.ZipFile(old / "a.zip", "w") as archive:
        for name in ("one.txt", "notes/two.txt"):
            archive.writestr(name, a_text(name, 10))
    rs.ingest(old, collection="docs")
    before = ids(rs)
    assert len(before) == 3
    old.rename(new)
    assert rs.move(old, new, collection="docs").moved == 3
    assert ids(rs) == [name.replace(str(old), str(new)) for name in before]
    hit = rs.query(a_text("one.txt", 10), collection="docs", top_k=1)[0]
    assert (hit.document_id, hit.metadata["container"]) == (f"{new}/a.zip!//one.txt", f"{new}/a.zip")
    report = rs.sync(new, collection="docs")
    assert (report.unchanged, report.added, report.deleted) == (1, 0, 0), "the archive is not opened again"
    assert ids(rs) == [name.replace(str(old), str(new)) for name in before]
    assert rs.verify(deep=True).ok
