"""Archives, mailboxes and mails as folders: what of them is added, updated, deleted, and set aside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import ragstore
from ragstore.app import Ragstore
from ragstore.ingest.deletion import MAX_DELETED
from ragstore.ingest.parse_process import ParserPool
from ragstore.model.report import IngestReport
from ragstore.settings import Settings
from tests.support.containers_made import a_mail, a_mailbox, a_tar, a_zip, an_encrypted_zip
from tests.support.corpus import a_text
from tests.support.internals import bytes_held
from tests.support.oracle import Oracle, State
from tests.support.parts import execute, postgres_url

IN = "!//"


@pytest.fixture
def rs(store: Ragstore) -> Ragstore:
    store.create_collection("docs", chunk_size=40, chunk_overlap=0)
    return store


@pytest.fixture
def oracle(settings: Settings, mongo_database: Database[dict[str, Any]]) -> Oracle:
    return Oracle(postgres_url(settings), mongo_database)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


def counts(report: IngestReport) -> dict[str, int]:
    names = ("added", "updated", "renamed", "deleted", "unchanged", "failed", "embedded")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def ingest(rs: Ragstore, *paths: Path) -> dict[str, int]:
    return counts(rs.ingest(*paths, collection="docs"))


def sync(rs: Ragstore, *paths: Path, **kwargs: Any) -> dict[str, int]:
    return counts(rs.sync(*paths, collection="docs", **kwargs))


def live(rs: Ragstore) -> dict[str, int]:
    """Nodes of each live document by its id."""
    return {document.document_id: document.n_nodes for document in rs.documents("docs")}


def below(path: Path, *names: str) -> list[str]:
    return [str(path), *(f"{path}{IN}{name}" for name in names)]


def quarantined(rs: Ragstore) -> dict[str, str]:
    return {entry.document_id: entry.code for entry in rs.quarantined("docs")}


def rewrite(path: Path, data: bytes) -> None:
    """Replace a file's content; its time changes even if the clock has not moved on."""
    path.write_bytes(data)
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before, before + 1_000_000))


def texts(names: Sequence[str], n_sentences: int = 6) -> dict[str, str]:
    return {name: a_text(name, n_sentences) for name in names}


def state_of(path: Path, members: dict[str, str]) -> State:
    return {f"{path}{IN}{name}": text for name, text in members.items()}


def test_members_are_documents_that_come_change_and_go_with_their_archive(rs: Ragstore, folder: Path) -> None:
    path = folder / "a.zip"
    members = texts(["one.txt", "sub/two.txt", "three.txt"])
    path.write_bytes(a_zip(members))
    first = rs.ingest(folder, collection="docs")
    assert counts(first) == {"added": 4, "embedded": first.chunks}
    assert sorted(live(rs)) == sorted(below(path, *members))
    assert live(rs)[str(path)] == 0
    assert ingest(rs, folder) == {"unchanged": 1}
    (hit,) = rs.query(members["sub/two.txt"][:60], collection="docs", top_k=1)
    assert hit.document_id == f"{path}{IN}sub/two.txt"
    assert hit.metadata["container"] == str(path) and hit.metadata["file_name"] == "two.txt"

    members["one.txt"] += " One more sentence stands here."
    members["four.txt"] = a_text("four.txt", 6)
    del members["three.txt"]
    rewrite(path, a_zip(members))
    report = rs.ingest(folder, collection="docs")
    changed = counts(report)
    assert 0 < changed.pop("embedded") < first.chunks
    assert changed == {"added": 1, "updated": 2, "deleted": 1, "unchanged": 1}
    assert report.deleted_documents == [f"{path}{IN}three.txt"]
    assert [event.action for event in rs.history(f"{path}{IN}three.txt", "docs")] == ["added", "deleted"]
    assert [event.action for event in rs.history(f"{path}{IN}sub/two.txt", "docs")] == ["added"]

    # Moved: nothing is embedded, and what was there is gone.
    moved = folder / "b.zip"
    path.rename(moved)
    assert sync(rs, folder) == {"renamed": 4}
    assert sorted(live(rs)) == sorted(below(moved, *members))
    (folder / "other.txt").write_text("Keeps the folder from being empty.")
    moved.unlink()
    assert sync(rs, folder) == {"added": 1, "deleted": 4, "embedded": 1}
    assert list(live(rs)) == [str(folder / "other.txt")]


def test_a_member_with_a_new_name_is_not_embedded_again(rs: Ragstore, folder: Path) -> None:
    path = folder / "a.tar.gz"
    members = texts(["one.txt", "two.txt"])
    path.write_bytes(a_tar(members, "w:gz"))
    ingest(rs, folder)
    members["new.txt"] = members.pop("two.txt")
    rewrite(path, a_tar(members, "w:gz"))
    assert ingest(rs, folder) == {"added": 1, "updated": 1, "deleted": 1, "unchanged": 1}
    assert sorted(live(rs)) == sorted(below(path, "one.txt", "new.txt"))


def test_both_stores_agree_about_members(rs: Ragstore, oracle: Oracle, folder: Path) -> None:
    path = folder / "a.zip"
    members = texts(["one.txt", "two.txt", "three.txt"])
    path.write_bytes(a_zip(members))
    ingest(rs, folder)
    del members["two.txt"]
    rewrite(path, a_zip(members))
    ingest(rs, folder)
    assert rs.verify("docs", deep=True).ok
    wrong = oracle.settled_violations(state_of(path, members) | {str(path): ""})
    # The container has the hash of its bytes, and no text.
    assert [each for each in wrong if not each.endswith(str(path))] == []


def test_an_unchanged_archive_is_not_opened(rs: Ragstore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a.zip"
    path.write_bytes(a_zip(texts(["one.txt"])))
    ingest(rs, folder)
    monkeypatch.setattr(ParserPool, "submit", lambda *_: pytest.fail("it was opened"))
    assert ingest(rs, folder) == {"unchanged": 1}
    os.utime(path, (1, 1))
    assert ingest(rs, folder) == {"unchanged": 1}


def test_a_message_more_in_a_mailbox_embeds_that_one_alone(rs: Ragstore, folder: Path) -> None:
    path = folder / "x.mbox"
    mails = [a_mail(a_text(f"{i}", 3), subject=f"Number {i}", message_id=f"<{i}@x>") for i in range(30)]
    path.write_bytes(a_mailbox(*mails[:-1]))
    ingest(rs, folder)
    assert sorted(live(rs)) == sorted(below(path, *(f"{i}@x" for i in range(29))))
    rewrite(path, a_mailbox(*mails))
    report = rs.ingest(folder, collection="docs")
    assert (report.added, report.updated, report.unchanged, report.embedded) == (1, 1, 29, report.chunks)
    # Put first it changes no other either.
    rewrite(path, a_mailbox(a_mail("At the head.", message_id="<head@x>"), *mails))
    report = rs.ingest(folder, collection="docs")
    assert (report.added, report.updated, report.unchanged, report.embedded) == (1, 1, 30, report.chunks)


def test_a_mail_is_a_document_and_what_is_attached_to_it_lies_below(rs: Ragstore, folder: Path) -> None:
    path = folder / "m.eml"
    archive = a_zip({"in.txt": "The gearbox has two shafts."})
    path.write_bytes(a_mail(attached={"list.csv": b"name,amount\nann,5\n", "more.zip": archive, "p.png": b"x"}))
    report = rs.ingest(folder, collection="docs")
    assert report.added == 3
    assert report.passed_over.examples == {"type .png": [f"{path}{IN}p.png"]}
    assert sorted(live(rs)) == sorted(below(path, "list.csv", f"more.zip{IN}in.txt"))
    (hit,) = rs.query("ann@example.com Maintenance", collection="docs", top_k=1, mode="keyword")
    assert hit.document_id == str(path)
    assert hit.metadata["subject"] == "Maintenance" and hit.metadata["headings"] == ["Maintenance"]
    (inner,) = rs.query("gearbox shafts", collection="docs", top_k=1, mode="keyword")
    assert inner.metadata["container"] == f"{path}{IN}more.zip"
    rewrite(path, a_mail(attached={"list.csv": b"name,amount\nann,5\n"}))
    assert ingest(rs, folder) == {"updated": 1, "deleted": 1, "unchanged": 1}


def test_to_delete_a_container_deletes_its_members(rs: Ragstore, folder: Path) -> None:
    path = folder / "a.zip"
    mail = a_mail(attached={"a.txt": b"Attached words."})
    path.write_bytes(a_zip({"m.eml": mail, "b.txt": "Other words."}))
    (folder / "a.zip.txt").write_text("No member of it.")
    ingest(rs, folder)
    assert rs.delete(f"{path}{IN}m.eml", collection="docs") == 2
    assert rs.delete(str(path), collection="docs") == 2
    assert list(live(rs)) == [f"{path}.txt"]
    assert ingest(rs, folder)["added"] == 4


def test_a_container_that_cannot_be_read_is_set_aside_and_keeps_its_members(rs: Ragstore, folder: Path) -> None:
    path = folder / "a.tgz"
    members = texts(["one.txt", "two.txt"])
    whole = a_tar(members, "w:gz")
    path.write_bytes(whole)
    ingest(rs, folder)
    for broken in (whole[: len(whole) // 2], an_encrypted_zip("one.txt"), a_zip({"one.txt": bytes(90_000_000)})):
        rewrite(path, broken)
        rewrite(folder / "a.zip", broken)
        assert ingest(rs, path)["failed"] == 1
        assert list(quarantined(rs)) == [str(path)]
        assert sorted(live(rs)) == sorted(below(path, *members))
    rewrite(path, a_tar({"one.txt": members["one.txt"]}, "w:gz"))
    assert ingest(rs, path) == {"updated": 1, "deleted": 1, "unchanged": 1}
    assert quarantined(rs) == {}


def test_a_member_that_cannot_be_read_is_set_aside_and_the_others_go_on(rs: Ragstore, folder: Path) -> None:
    path = folder / "a.zip"
    bad, inner = f"{path}{IN}bad.pdf", f"{path}{IN}in.zip"
    nested = a_zip({"deep.txt": "Deep words."})
    path.write_bytes(a_zip({"a.txt": "First words.", "bad.pdf": b"%PDF-1.4 cut", "in.zip": nested, "z.txt": "Last."}))
    assert ingest(rs, folder) == {"added": 4, "failed": 1, "embedded": 3}
    assert quarantined(rs) == {bad: "content.parse"}
    assert ingest(rs, folder) == {"unchanged": 1}
    # A retry reads the archive again.
    assert rs.retry_quarantine(bad, collection="docs") == 1
    assert ingest(rs, folder) == {"unchanged": 4, "failed": 1}
    # What lay in an archive that is broken now is not gone.
    rewrite(path, a_zip({"a.txt": "First words.", "in.zip": nested[:50], "z.txt": "Last."}))
    assert ingest(rs, folder) == {"updated": 1, "unchanged": 2, "failed": 1}
    assert quarantined(rs) == {inner: "content.parse"}
    assert f"{inner}{IN}deep.txt" in live(rs)
    rewrite(path, a_zip({"a.txt": "First words."}))
    assert ingest(rs, folder) == {"updated": 1, "unchanged": 1, "deleted": 2}
    assert quarantined(rs) == {} and sorted(live(rs)) == below(path, "a.txt")


def test_suspiciously_many_members_are_deleted_on_demand_alone(rs: Ragstore, folder: Path) -> None:
    path = folder / "a.zip"
    members = {f"{i}.txt": f"Words of number {i}." for i in range(MAX_DELETED + 5)}
    path.write_bytes(a_zip(members))
    ingest(rs, folder)
    rewrite(path, a_zip({"0.txt": "Words of number 0.", "new.txt": "New words."}))
    for call in (ingest, sync):
        assert call(rs, folder)["failed"] == 1
        assert quarantined(rs) == {str(path): "refused.mass_deletion"}
        assert len(live(rs)) == len(members) + 2
    assert sync(rs, folder, allow_mass_delete=True) == {"updated": 1, "unchanged": 2, "deleted": MAX_DELETED + 4}
    assert quarantined(rs) == {} and sorted(live(rs)) == sorted(below(path, "0.txt", "new.txt"))


def test_an_older_state_of_an_archive_can_be_put_back(rs: Ragstore, folder: Path) -> None:
    path = folder / "a.zip"
    path.write_bytes(a_zip({"a.txt": "New words."}))
    ingest(rs, folder)
    path.write_bytes(a_zip({"a.txt": "Old words, more of them."}))
    os.utime(path, (1_000_000, 1_000_000))
    assert ingest(rs, folder) == {"updated": 2, "embedded": 1}
    (hit,) = rs.query("words", collection="docs", top_k=1)
    assert hit.text == "Old words, more of them."


def test_members_are_read_again_with_their_container_if_their_nodes_were_lost(
    rs: Ragstore, settings: Settings, folder: Path
) -> None:
    path = folder / "a.zip"
    path.write_bytes(a_zip({"a.txt": "First words.", "b.txt": "Other words."}))
    ingest(rs, folder)
    member = f"{path}{IN}a.txt"
    execute(settings, "DELETE FROM ragstore.data_docs WHERE document_id = %s", [member])
    with ragstore.open(settings) as other:
        other.repair("docs")
    ingest(rs, folder)
    assert live(rs) == {str(path): 0, member: 1, f"{path}{IN}b.txt": 1}
    assert rs.verify("docs", deep=True).ok


def test_a_member_that_crashes_the_reader_or_takes_too_long_is_blamed_alone(
    rs: Ragstore, settings: Settings, folder: Path
) -> None:
    path = folder / "a.zip"
    slow = "<html>" + "<p><b>word</b> <i>word</i></p>" * 150_000
    path.write_bytes(a_zip({"a.txt": "First words.", "slow.html": slow, "z.txt": "Last words."}))
    with ragstore.open(settings.model_copy(update={"parse_timeout_s": 2})) as hasty:
        report = hasty.ingest(folder, collection="docs")
    assert (report.added, report.failed) == (3, 1)
    assert quarantined(rs) == {f"{path}{IN}slow.html": "content.limit"}
    assert sorted(live(rs)) == sorted(below(path, "a.txt", "z.txt"))


def test_members_are_held_in_memory_within_the_budget(
    settings: Settings, rs: Ragstore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "x.mbox"
    with path.open("wb") as file:
        for i in range(1_500):
            file.write(a_mailbox(a_mail(f"Message {i}. " + "words " * 50, message_id=f"<{i}@x>")))
    peaks: list[int] = []
    monkeypatch.setattr("ragstore.ingest.pipeline.MemoryBudget.release", _remembering(peaks, bytes_held))
    with ragstore.open(settings.model_copy(update={"ingest_memory_mb": 8})) as small:
        assert small.ingest(folder, collection="docs").added == 1_501
    assert max(peaks) <= 9 * 2**20


def _remembering(peaks: list[int], held: Any) -> Any:
    from ragstore.ingest.prefetch import MemoryBudget

    original = MemoryBudget.release

    def release(budget: MemoryBudget, n_bytes: int) -> None:
        peaks.append(held(budget))
        original(budget, n_bytes)

    return release
