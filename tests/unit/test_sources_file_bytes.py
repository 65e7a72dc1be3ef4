from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ragstore.errors import LimitExceededError, UnreadableError, UnsupportedTypeError
from ragstore.sources import Bounds
from ragstore.sources.file_bytes import content_hash, content_hash_of, read_bytes

ANYWHERE = Bounds(frozenset(["/"]))


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a.txt").write_bytes(data)
    expected = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert content_hash_of(str(tmp_path / "a.txt"), ANYWHERE) == content_hash(data) == expected
    assert read_bytes(str(tmp_path / "a.txt"), ANYWHERE, max_bytes=3_000_000) == data


def test_more_bytes_than_allowed_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"12345")
    with pytest.raises(LimitExceededError):
        read_bytes(str(tmp_path / "a.txt"), ANYWHERE, max_bytes=4)


@pytest.mark.timeout(10)
def test_a_pipe_in_the_place_of_the_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UnsupportedTypeError):
        content_hash_of(str(tmp_path / "a.txt"), ANYWHERE)


def test_a_file_that_is_gone_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="is gone"):
        content_hash_of(str(tmp_path / "a.txt"), ANYWHERE)
    with pytest.raises(UnsupportedTypeError, match="no regular file"):
        content_hash_of(str(tmp_path), ANYWHERE)


def test_a_file_that_changes_while_it_is_read_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"before")
    real_read = os.read

    def read_and_append(fd: int, n_bytes: int) -> bytes:
        block = real_read(fd, n_bytes)
        if block == b"before":
            with file.open("ab") as other:
                other.write(b" and after")
        return block

    monkeypatch.setattr(os, "read", read_and_append)
    with pytest.raises(UnreadableError, match="changed while it was read"):
        read_bytes(str(file), ANYWHERE, max_bytes=100)


def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("secret")
    file.chmod(0)
    # Root may read everything, so the question is asked by another user, who must be let through to the file.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    script = (
        "import os, sys\n"
        "from ragstore.errors import UnreadableError\n"
        "from ragstore.sources.file_bytes import content_hash_of\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "from ragstore.sources import Bounds\n"
        "try: content_hash_of(sys.argv[1], Bounds.of([sys.argv[1]]))\n"
        "except UnreadableError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "may not be read\n"


def assert_out_of_bounds(path: Path, bounds: Bounds, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as refused:
        read_bytes(str(path), bounds, max_bytes=100)
    assert ("--follow-links" in refused.value.hint) == ("leads out" in refused.value.message)


def test_a_file_behind_a_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "docs" / "a.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "docs" / "folder").symlink_to(tmp_path)
    bounds = Bounds.of([tmp_path / "docs"])
    for path in ("a.txt", "folder/secret.txt", "../secret.txt"):
        assert_out_of_bounds(tmp_path / "docs" / path, bounds, "leads out of the named folders")
    assert read_bytes(str(tmp_path / "docs/a.txt"), Bounds.of([tmp_path / "docs"], follow_links=True), max_bytes=9)


@pytest.mark.parametrize("follow_links", [False, True])
def test_kernel_files_and_other_names_of_secrets_are_never_read(tmp_path: Path, follow_links: bool) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secrets.json").write_text("secret")
    os.link(tmp_path / "home" / "secrets.json", tmp_path / "docs" / "hard.json")
    (tmp_path / "docs" / "env.txt").symlink_to("/proc/self/environ")
    bounds = Bounds.of([tmp_path / "docs"], never=[tmp_path / "home"], follow_links=follow_links)
    assert_out_of_bounds(tmp_path / "docs" / "hard.json", bounds, "never read")
    assert_out_of_bounds(tmp_path / "docs" / "env.txt", bounds, "lies in /proc, which is never read")
    another = Bounds(frozenset(["/"]), never=frozenset())  # as where procfs is mounted a second time
    assert_out_of_bounds(Path("/proc/self/environ"), another, "file of the kernel")


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_part_of_the_path_that_becomes_a_link_after_it_was_checked_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    docs, other = tmp_path / "docs", tmp_path / "other"
    for folder in (docs / "inner", other):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(folder.name)
    real = os.path.realpath

    def swap_after(path: str) -> str:
        found = real(path)
        if swapped == "folder":
            (docs / "inner").rename(docs / "was")
            (docs / "inner").symlink_to(other)
        else:
            (docs / "inner" / "a.txt").unlink()
            (docs / "inner" / "a.txt").symlink_to(other / "a.txt")
        return found

    bounds = Bounds.of([docs])
    monkeypatch.setattr(os.path, "realpath", swap_after)
    with pytest.raises(UnreadableError, match="became a link"):
        read_bytes(str(docs / "inner" / "a.txt"), bounds, max_bytes=100)
