"""A folder of files that hurt: each is taken in or set aside with its reason, and no other document waits for it."""

from __future__ import annotations

import io
import json
import os
import random
import re
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ragstore
from ragstore.embedded.account import servers_account
from ragstore.embedded.home import Home
from ragstore.settings import Settings
from tests.support.command import CommandLine
from tests.support.embedded import a_python_for
from tests.support.files import a_docx, a_pdf, a_word_paragraph
from tests.support.stores import Stores

IS_NOT_UTF8 = b"caf\xe9.txt"
A_LINE_BYTES = 20_000_000

ADDED = {
    "good.md": "oil every week",
    "nul.txt": "opens slowly at noon",
    "surrogate.json": "gearbox \ufffd manual",
    "latin1.txt": "Öl für die Säge",
    "page.pdf": "compressors are down",  # a web page saved as PDF is still text
    "whole.pdf": "Turbine of page one",
    "letter.docx": "Dear plumber",
    "one-line.txt": None,
    "empty.txt": None,
    "blank.md": None,
}
SET_ASIDE = {
    "truncated.pdf": "content.parse",
    "truncated.docx": "content.parse",
    "bomb.docx": "content.limit",
    "picture.txt": "content.unsupported_type",
    "archive.docx": "content.unsupported_type",
    "pipe.txt": "content.unsupported_type",
    "nowhere.txt": "content.unreadable",
    "itself.txt": "content.unreadable",
}
PASSED_OVER = ("image.png", "core", ".hidden.md")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "hostile"
    folder.mkdir()
    _write_texts(folder)
    _write_containers(folder)
    os.mkfifo(folder / "pipe.txt")
    (folder / "nowhere.txt").symlink_to("no-such-file.txt")
    (folder / "itself.txt").symlink_to("itself.txt")
    (folder / "again").symlink_to(folder)
    for name in PASSED_OVER:
        (folder / name).write_text("nobody reads this")
    return folder


def _write_texts(folder: Path) -> None:
    (folder / "good.md").write_text("# Pump\n\nThe pump needs oil every week.\n")
    (folder / "nul.txt").write_bytes(b"The valve\x00 opens\x00 slowly at noon.\n")
    (folder / "surrogate.json").write_text('{"text": "the gearbox \\ud800 manual"}')
    (folder / "latin1.txt").write_bytes("Öl für die Säge, täglich.".encode("latin-1"))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.md").write_text(" \n\n\t\n")
    (folder / "page.pdf").write_text("<html><body>The compressors are down.</body></html>")
    (folder / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(3_000))
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnoprstuvw", k=chance.randint(3, 9))) for _ in range(30_000)]
    line = " ".join(chance.choices(words, k=A_LINE_BYTES // 6))[:A_LINE_BYTES]
    (folder / "one-line.txt").write_text(line)
    with open(os.fsencode(folder) + b"/" + IS_NOT_UTF8, "wb") as file:
        file.write(b"The espresso machine has a boiler.")


def _write_containers(folder: Path) -> None:
    pdf = a_pdf(["Turbine of page one"])
    (folder / "whole.pdf").write_bytes(pdf)
    (folder / "truncated.pdf").write_bytes(pdf[: len(pdf) // 3])
    letter = a_docx(a_word_paragraph("Dear plumber"))
    (folder / "letter.docx").write_bytes(letter)
    (folder / "truncated.docx").write_bytes(letter[: len(letter) // 2])
    (folder / "bomb.docx").write_bytes(a_docx(a_word_paragraph("boom"), extra={"word/media/zeros": bytes(500_000_000)}))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("notes.txt", "no document of Word")
    (folder / "archive.docx").write_bytes(archive.getvalue())


def test_hostile_files_are_taken_in_or_set_aside_and_no_other_document_waits(
    command: CommandLine, hostile: Path, collection: str, stores: Stores
) -> None:
    done = command("ingest", "hostile", "--json", status=3, batch_chunks=4000, index_min_nodes=10**6)
    report = done.json
    assert (report["added"], report["failed"]) == (len(ADDED) + 1, len(SET_ASIDE))
    assert "hint: 'ragstore quarantine list'" in done.stderr

    texts = dict(stores.sql(f'SELECT document_id, min(text) FROM ragstore."data_{collection}" GROUP BY 1'))
    by_name = {Path(document_id).name: text for document_id, text in texts.items()}
    (not_utf8,) = by_name.keys() - ADDED.keys()
    assert re.fullmatch(r"caf\\xe9\.txt~[0-9a-f]{32}", not_utf8)
    for name, words in ADDED.items():
        assert words is None or words in by_name[name], name
    assert stores.assert_agree(collection) == report["chunks"]
    assert report["chunks"] > A_LINE_BYTES / 3000

    entries = command("quarantine", "list", "--json").json["quarantine"]
    assert {Path(entry["document_id"]).name: entry["code"] for entry in entries} == SET_ASIDE
    for entry in entries:
        assert entry["reason"] and entry["hint"] and entry["attempts"] == 1, entry
    shown = command("quarantine").stdout
    for name in SET_ASIDE:
        assert str(hostile / name) in shown

    espresso = command("query", "espresso machine boiler", "-k", "1", "--json", "--mode", "keyword").json["hits"]
    assert espresso[0]["document_id"] == str(hostile / not_utf8)
    # The second time nothing is read again: neither the long line nor what certainly fails as before.
    again = command("ingest", "hostile", "--json", status=3).json
    assert (again["unchanged"], again["failed"], again["chunks"]) == (len(ADDED) + 1, len(SET_ASIDE), 0)


def test_links_to_what_is_not_in_the_folder_are_named_and_nothing_of_it_is_stored(
    command: CommandLine, tmp_path: Path, collection: str, stores: Stores
) -> None:
    docs, secrets = tmp_path / "docs", Home.at(Path(str(command.options["home"]))).credentials
    docs.mkdir()
    password = json.loads(secrets.read_text())["postgres_password"]
    (docs / "own.txt").write_text("The pump needs oil.")
    (docs / "again.txt").symlink_to(docs / "own.txt")
    links: dict[str, str | Path] = {"home.json": secrets, "user.txt": "/etc/passwd", "env.txt": "/proc/self/environ"}
    for name, target in links.items():
        (docs / name).symlink_to(target)
    (docs / "etc").symlink_to("/etc")
    for arguments in (
        ["ingest", "docs"],
        ["sync", "docs"],
        ["ingest", *(f"docs/{name}" for name in os.listdir(docs) if name != "etc")],
    ):
        done = command(*arguments)
        for name in links:
            assert f"  {docs / name}\n" in done.stderr, arguments
    passed_over = command("sync", "docs", "--dry-run", "--json").json["passed_over"]
    assert str(docs / "etc") in passed_over["leads out of the named folders; --follow-links reads it"]["examples"]
    said = command("ingest", "docs").stderr
    assert "(leads out of the named folders; --follow-links reads it)\n" in said and f"  {docs / 'etc'}\n" in said
    (docs / "etc").unlink()
    command("ingest", "docs", "--follow-links")
    texts = dict(stores.sql(f'SELECT document_id, text FROM ragstore."data_{collection}"'))
    assert not [text for text in texts.values() if password in text or "PATH=" in text]
    assert {Path(document_id).name for document_id in texts} >= {"own.txt", "again.txt", "user.txt"}
    refused = command("ingest", str(secrets), status=2)
    assert "never read" in refused.stderr


def test_a_document_leaves_quarantine_when_it_is_mended(command: CommandLine, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("The pump needs oil.")
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    first = command("ingest", "good.txt", "bad.txt", "--json", status=3).json
    assert (first["added"], first["failed"]) == (1, 1)
    # What failed for good is tried again only on request, or when the file changes.
    command("ingest", ".", status=3)
    assert [entry["attempts"] for entry in command("quarantine", "--json").json["quarantine"]] == [1]
    assert command("quarantine", "retry", "bad.txt", "--json").json == {"released": 1, "missing": []}
    command("ingest", ".", status=3)
    assert [entry["attempts"] for entry in command("quarantine", "--json").json["quarantine"]] == [2]
    bad.write_text("The valve opens at nine bar.")
    assert command("ingest", ".", "--json").json["added"] == 1
    assert command("quarantine", "--json").json == {"quarantine": []}
    assert "nothing is in quarantine" in command("quarantine").stdout


def test_a_document_that_breaks_keeps_its_last_good_revision(command: CommandLine, tmp_path: Path) -> None:
    manual = tmp_path / "manual.pdf"
    manual.write_bytes(a_pdf(["The turbine turns clockwise"]))
    command("ingest", "manual.pdf")
    manual.write_bytes(a_pdf(["The turbine turns anticlockwise"])[:200])
    command("ingest", "manual.pdf", status=3)
    hits = command("query", "turbine", "--json").json["hits"]
    assert [hit["text"].strip() for hit in hits] == ["The turbine turns clockwise"]


def test_a_file_above_the_limit_is_set_aside_unread(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_text("x" * 1_100_000)
    (tmp_path / "small.txt").write_text("The pump needs oil.")
    assert command("ingest", ".", "--json", status=3, max_file_mb=1).json["added"] == 1
    (entry,) = command("quarantine", "--json").json["quarantine"]
    assert entry["code"] == "content.limit"
    assert "RAGSTORE_MAX_FILE_MB" in entry["hint"]


@pytest.fixture
def as_nobody(settings: Settings, tmp_path: Path) -> Iterator[CommandLine]:
    """The command line as a user without rights; root could read everything."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    assert settings.postgres_url is not None and settings.mongo_url is not None
    account = servers_account(Home.at(Path("/")))
    packages = [str(Path(ragstore.__file__).parents[1]), sysconfig.get_path("purelib")]
    folder = Path("/tmp", f"ragstore-closed-{os.getpid()}-{random.getrandbits(32):x}")
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    options = {
        "postgres_url": settings.postgres_url.get_secret_value(),
        "mongo_url": settings.mongo_url.get_secret_value(),
        "mongo_database": settings.mongo_database,
    }
    yield CommandLine(
        folder,
        options,
        python=a_python_for(account),
        variables={"PYTHONPATH": os.pathsep.join(packages), "HOME": str(folder)},
        process=account.popen_options,
    )
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_what_the_user_may_not_read_is_set_aside(as_nobody: CommandLine) -> None:
    (as_nobody.folder / "open.txt").write_text("The pump needs oil.")
    (as_nobody.folder / "closed.txt").write_text("The valve opens at nine bar.")
    (as_nobody.folder / "closed.txt").chmod(0)
    (as_nobody.folder / "cellar").mkdir(mode=0)
    report = as_nobody("ingest", ".", "--json", status=3).json
    assert (report["added"], report["failed"]) == (1, 2)
    entries = as_nobody("quarantine", "--json").json["quarantine"]
    assert {Path(entry["document_id"]).name: entry["code"] for entry in entries} == {
        "closed.txt": "content.unreadable",
        "cellar": "content.unreadable",
    }
    (as_nobody.folder / "closed.txt").chmod(0o644)
    assert as_nobody("ingest", ".", "--json", status=3).json["added"] == 1
