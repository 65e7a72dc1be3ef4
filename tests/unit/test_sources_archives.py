"""What is read of archives, under which names, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Mapping

import pytest

from ragstore.errors import ContentError, LimitExceededError, ParseError
from ragstore.model.document import MAX_DOCUMENT_ID_BYTES
from ragstore.sources import members
from ragstore.sources.containers import Walk, open_container
from ragstore.sources.members import Room, member_id
from ragstore.sources.raw import Choices
from tests.support.containers_made import a_mail, a_mailbox, a_tar, a_zip, a_zip_with_raw_names, an_encrypted_zip
from tests.support.files import a_docx, a_word_paragraph

MAX_BYTES = 1_000_000


def walk_of(data: bytes, name: str, choices: Choices | None = None) -> Walk:
    container = open_container(io.BytesIO(data), name, Room(max_member_bytes=MAX_BYTES), choices or Choices())
    assert container is not None
    container.check()
    return Walk(container, "/x")


def texts(data: bytes, name: str) -> dict[str, str]:
    """Text of each document by its id below the container, or the message of its error."""
    found = {}
    for leaf in walk_of(data, name).leaves():
        try:
            text = str(leaf.error) if leaf.read is None else leaf.read().text.strip()
        except ContentError as error:
            text = str(error)
        assert leaf.document_id not in found
        found[leaf.document_id.removeprefix("/x!//")] = text
    return found


def refused(data: bytes, name: str) -> ContentError:
    with pytest.raises(ContentError) as raised:
        for leaf in walk_of(data, name).leaves():
            assert leaf.error is None or leaf.error
    return raised.value


FILES: Mapping[str, str] = {"a.txt": "The pump.", "sub/b.md": "# Valve", "sub/ü.csv": "name,x\nann,5"}
READ = {"a.txt": "The pump.", "sub/b.md": "# Valve", "sub/ü.csv": "name: ann\nx: 5"}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (a_zip(FILES), "x.zip"),
        (a_tar(FILES), "x.tar"),
        (a_tar(FILES, "w:gz"), "x.tar.gz"),
        (a_tar(FILES, "w:gz"), "x.tgz"),
        (a_tar(FILES, "w:bz2"), "x.tar.bz2"),
        (a_tar(FILES, "w:xz"), "x.txz"),
        (a_tar(FILES, "w:xz"), "misnamed.zip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_each_member_is_a_document_of_its_own(data: bytes, name: str) -> None:
    assert texts(data, name) == READ


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (gzip.compress(b"The pump."), "notes.txt.gz"),
        (bz2.compress(b"The pump."), "notes.txt.bz2"),
        (lzma.compress(b"The pump."), "notes.txt.xz"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_a_compressed_text_is_the_one_member_of_its_file(data: bytes, name: str) -> None:
    assert texts(data, name) == {"notes.txt": "The pump."}


def test_archives_in_archives_are_read_up_to_a_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    data = a_zip({"in.txt": "Innermost."})
    for depth in range(members.MAX_DEPTH - 1):
        data = a_zip({f"{depth}.zip": data})
    names = "!//".join(f"{depth}.zip" for depth in reversed(range(members.MAX_DEPTH - 1)))
    assert texts(data, "x.zip") == {f"{names}!//in.txt": "Innermost."}
    ((name, message),) = texts(a_zip({"outer.zip": data}), "x.zip").items()
    assert name == f"outer.zip!//{names}" and "lies in more than 5 containers" in message


def test_office_documents_are_members_and_no_containers() -> None:
    letter = a_docx(a_word_paragraph("Dear plumber"))
    assert texts(a_zip({"letter.docx": letter, "stored.zip": letter}), "x.zip") == {
        "letter.docx": "Dear plumber",
        "stored.zip": "Dear plumber",
    }
    assert open_container(io.BytesIO(letter), "letter.docx", Room(max_member_bytes=9), Choices()) is None


def test_hostile_names_become_storable_distinct_ids() -> None:
    hostile = {
        "../../etc/passwd.txt": "1",
        "/etc/passwd.txt": "2",
        "a//b/./c.txt": "3",
        "C:\\dir\\d.txt": "4",
        "line\nbreak\x01.txt": "5",
    }
    ids = list(texts(a_zip(hostile), "x.zip"))
    assert ids == ["etc/passwd.txt", "etc/passwd~2.txt", "a/b/c.txt", "C:/dir/d.txt", "line\\u000abreak\\u0001.txt"]
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.txt", "old")
        archive.writestr("a.txt", "new")
        archive.writestr("a~2.txt", "other")
    assert texts(twice.getvalue(), "x.zip") == {"a.txt": "old", "a~2.txt": "new", "a~2~2.txt": "other"}


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("日本語の文書.txt".encode("cp932"), "日本語の文書.txt"),
        ("Größe.txt".encode("cp437"), "Größe.txt"),
        ("Größe.txt".encode(), "Größe.txt"),
    ],
)
def test_names_without_an_encoding_are_recognised(raw: bytes, name: str) -> None:
    assert texts(a_zip_with_raw_names({raw: "words"}), "x.zip") == {name: "words"}


def test_names_that_are_no_utf8_in_a_tar_stay_apart() -> None:
    raw = a_tar({os.fsdecode(b"a\xff.txt"): "one", os.fsdecode(b"a\xfe.txt"): "two"})
    assert texts(raw, "x.tar") == {"aÿ.txt": "one", "aþ.txt": "two"}


def test_links_devices_hidden_and_lock_files_are_left_out_by_reason() -> None:
    link, hard, device = tarfile.TarInfo("link.txt"), tarfile.TarInfo("hard.txt"), tarfile.TarInfo("null.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/shadow"
    device.type = tarfile.CHRTYPE
    names = {"a.txt": "x", "__MACOSX/._a.txt": "x", ".DS_Store": "x", "~$b.docx": "x", "p.png": "x", "plain": "x"}
    walk = walk_of(a_tar({**names, "1": link, "2": hard, "3": device}), "x.tar")
    assert [leaf.document_id for leaf in walk.leaves()] == ["/x!//a.txt"]
    assert walk.left_out.counts == {
        "hidden": 2,
        "lock files": 1,
        "type .png": 1,
        "no type": 1,
        "links": 2,
        "devices and pipes": 1,
    }
    assert walk.left_out.examples["links"] == ["/x!//link.txt", "/x!//hard.txt"]


def test_an_encrypted_zip_is_refused_with_a_hint() -> None:
    error = refused(an_encrypted_zip("a.txt"), "x.zip")
    assert error.message == "is an encrypted zip archive" and "password" in error.hint


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_cut_archive_is_refused_before_a_member_is_read(mode: str, cut: float) -> None:
    data = a_tar({f"{i}.txt": f"{i} {i * 7919} words" * 50 for i in range(40)}, mode)
    container = open_container(
        io.BytesIO(data[: int(len(data) * cut)]), "x.tgz", Room(max_member_bytes=MAX_BYTES), Choices()
    )
    if container is None:  # too little to see what is in it
        return
    with pytest.raises(ParseError):
        container.check()
        list(Walk(container, "/x").leaves())


def test_a_damaged_member_is_refused_and_the_others_are_read() -> None:
    data = bytearray(a_zip({"a.txt": "first words", "b.txt": "other words " * 9}))
    at = data.find(b"a.txt") + len(b"a.txt")
    data[at : at + 4] = b"\xff\xff\xff\xff"
    found = texts(bytes(data), "x.zip")
    assert "cannot be read" in found["a.txt"] and found["b.txt"].startswith("other words")


def test_a_bomb_is_refused() -> None:
    bomb = a_zip({f"{i}.txt": bytes(20_000_000) for i in range(4)})
    assert len(bomb) < 100_000
    assert "times its size" in refused(bomb, "x.zip").message
    assert "times its size" in refused(gzip.compress(a_tar({"a.txt": bytes(80_000_000)})), "x.tgz").message
    assert "more than 1,000,000 bytes" in texts(a_zip({"large.txt": bytes(2_000_000)}), "x.zip")["large.txt"]


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    four = {f"{i}.txt": "x" for i in range(4)}
    for data, name in ((a_tar(four), "x.tar"), (a_zip({"in.zip": a_zip(four)}), "x.zip")):
        error = refused(data, name)
        assert isinstance(error, LimitExceededError) and "more than 3 members" in error.message


def test_long_names_stay_below_their_container_and_apart() -> None:
    ids = {member_id("/a/b.zip", f"{'ä' * 2000}{i}.txt") for i in range(3)}
    assert len(ids) == 3
    for document_id in ids:
        assert document_id.startswith("/a/b.zip!//") and len(document_id.encode()) <= MAX_DOCUMENT_ID_BYTES


def test_mails_and_mailboxes_in_archives_are_read_with_what_is_attached_to_them() -> None:
    mail = a_mail(attached={"list.csv": b"name,x\nann,5\n"})
    found = texts(a_zip({"m.eml": mail, "box.mbox": a_mailbox(mail)}), "x.zip")
    assert list(found) == [
        "m.eml!//list.csv",
        "m.eml",
        "box.mbox!//one@example.com!//list.csv",
        "box.mbox!//one@example.com",
    ]
    assert "The pump needs oil." in found["m.eml"]


def test_text_saved_under_the_name_of_an_archive_is_no_container() -> None:
    assert open_container(io.BytesIO(b"Only words."), "x.zip", Room(max_member_bytes=9), Choices()) is None


def test_notes_of_a_container_in_a_container_come_with_the_file() -> None:
    inner = a_zip_with_raw_names({"契約書の写し.txt".encode("cp932"): "words"})
    walk = walk_of(a_zip({"inner.zip": inner, "b.txt": "more"}), "a.zip")
    assert len(list(walk.leaves())) == 2
    assert walk.notes == {"names_decoded_as": "cp932"}
