from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ragstore.errors import LimitExceededError, UnreadableError, UnsupportedTypeError
from ragstore.sources.opening import content_hash, content_hash_of, read_bytes


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a.txt").write_bytes(data)
    expected = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert content_hash_of(str(tmp_path / "a.txt")) == content_hash(data) == expected
    assert read_bytes(str(tmp_path / "a.txt"), max_bytes=3_000_000) == data


def test_more_bytes_than_allowed_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"12345")
    with pytest.raises(LimitExceededError):
        read_bytes(str(tmp_path / "a.txt"), max_bytes=4)


@pytest.mark.timeout(10)
def test_a_pipe_in_the_place_of_the_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UnsupportedTypeError):
        content_hash_of(str(tmp_path / "a.txt"))


def test_a_file_that_is_gone_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="is gone"):
        content_hash_of(str(tmp_path / "a.txt"))
    with pytest.raises(UnsupportedTypeError, match="no regular file"):
        content_hash_of(str(tmp_path))


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
        read_bytes(str(file), max_bytes=100)


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
        "from ragstore.sources.opening import content_hash_of\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: content_hash_of(sys.argv[1])\n"
        "except UnreadableError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "may not be read\n"
