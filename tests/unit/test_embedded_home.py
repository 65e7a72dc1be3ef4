from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from ragstore.embedded import default_home, ensure_running, remembered_urls, status, stop
from ragstore.embedded.account import Account
from ragstore.embedded.home import Home, as_embedded_error, embedded_errors
from ragstore.errors import EmbeddedServerError

NOBODY = Account("nobody", 65534, 65534)


def test_root_has_its_home_where_other_users_can_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_home() == Path("/var/lib/ragstore")


@pytest.mark.parametrize(
    ("data_home", "expected"),
    [
        ("/data", "/data/ragstore"),
        ("", "/users/ann/.local/share/ragstore"),
        ("a/b", "/users/ann/.local/share/ragstore"),
    ],
)
def test_a_user_has_a_home_in_the_data_folder(monkeypatch: pytest.MonkeyPatch, data_home: str, expected: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/users/ann")
    monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert default_home() == Path(expected)


def test_a_home_is_the_same_by_every_path_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    same = {Home.at(Path(path)) for path in ("home", "~/home", str(tmp_path / "link" / "home"))}
    assert same == {Home(tmp_path.resolve() / "home")}


def test_a_home_that_is_made_is_closed_but_for_passing_through(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "new" / "home")
    home.make()
    assert home.path.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    assert home.logs.stat().st_mode & 0o777 == 0o700


def test_a_home_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    Home.at(tmp_path).make()
    assert tmp_path.stat().st_mode & 0o777 == 0o750


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system without room")
def test_new_databases_are_refused_where_there_is_no_room() -> None:
    with pytest.raises(EmbeddedServerError, match="0 MB of free disk space") as caught:
        Home(Path("/proc")).check_room()
    assert "RAGSTORE_HOME" in caught.value.hint


def test_databases_that_are_there_need_no_more_room(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    home.data("postgres").mkdir(parents=True)
    home.data("mongo").mkdir(parents=True)
    home.check_room()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no disk space is left"),
        (errno.EACCES, "permission is denied"),
        (errno.EROFS, "read-only"),
        (errno.ENOTDIR, "is a file"),
    ],
)
def test_trouble_with_the_home_is_told_in_words_with_the_path_and_a_way_out(number: int, words: str) -> None:
    home = Path("/data/home")
    error = as_embedded_error(OSError(number, "", "/data/home/logs"), home)
    assert words in error.message
    assert "/data/home/logs" in error.message
    assert "RAGSTORE_HOME" in error.hint
    with pytest.raises(EmbeddedServerError, match=words), embedded_errors(home):
        raise OSError(number, "")


def test_a_home_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match="is a file"):
        ensure_running(tmp_path / "file" / "home")


def test_before_the_first_start_nothing_runs_and_nothing_is_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert remembered_urls(home) is None
    assert [(server.name, server.running, server.port) for server in status(home)] == [
        ("postgres", False, None),
        ("mongo", False, None),
    ]
    assert not stop(home)
    assert not home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees other users' folders as another user")
def test_the_folder_that_closes_the_way_is_found() -> None:
    # Not tmp_path, which is closed to others itself.
    with tempfile.TemporaryDirectory() as outermost:
        Path(outermost).chmod(0o755)
        closed = Path(outermost, "closed")
        home = closed / "home"
        home.mkdir(parents=True)
        assert NOBODY.first_closed(home) is None
        closed.chmod(0o710)
        assert NOBODY.first_closed(home) == closed
        assert Account("root", 0, 0).first_closed(home) is None
        assert Account("of_the_group", 65534, closed.stat().st_gid).first_closed(home) is None


def test_the_owner_of_a_closed_folder_may_enter_it(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    owner = Account("me", os.geteuid(), os.getegid())
    assert owner.first_closed(tmp_path / "home") is None
