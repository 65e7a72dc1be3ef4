from __future__ import annotations

import os
from pathlib import Path

import pytest

from ragstore.embedded.account import Account
from ragstore.embedded.home import Home
from ragstore.embedded.programs import Programs, find_programs, readable_programs
from ragstore.errors import EmbeddedServerError

MYSELF = Account("me", os.geteuid(), os.getegid())


def a_program(path: Path, text: str = "#!/bin/sh\nexit 0\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def assert_names_the_ways_out(error: EmbeddedServerError) -> None:
    for way in (
        "pip install 'ragstore[embedded]'",
        "docker compose up -d",
        "RAGSTORE_POSTGRES_URL",
        "RAGSTORE_MONGO_URL",
    ):
        assert way in error.hint


def test_a_missing_postgres_wheel_is_told_with_the_ways_out() -> None:
    with pytest.raises(EmbeddedServerError, match="PostgreSQL is not installed") as caught:
        find_programs(postgres_package="no_such_package")
    assert_names_the_ways_out(caught.value)


def test_a_wheel_without_programs_for_this_system_is_a_missing_wheel() -> None:
    with pytest.raises(EmbeddedServerError, match="PostgreSQL is not installed") as caught:
        find_programs(postgres_package="ragstore")
    assert_names_the_ways_out(caught.value)


def test_a_missing_mongod_is_told_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="mongod") as caught:
        find_programs(mongo_package="no_such_package", search_path=str(tmp_path))
    assert_names_the_ways_out(caught.value)


def test_a_mongod_on_the_path_comes_first(tmp_path: Path) -> None:
    mongod = a_program(tmp_path / "mongod")
    assert find_programs(search_path=str(tmp_path)).mongod == mongod


def test_a_mongod_on_the_path_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    a_program(tmp_path / "mongod", "#!/bin/sh\nexit 127\n")
    with pytest.raises(EmbeddedServerError, match="no mongod that runs"):
        find_programs(mongo_package="no_such_package", search_path=str(tmp_path))


def test_programs_that_can_be_read_are_not_copied(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "package/pginstall18/bin", tmp_path / "mongod")
    a_program(programs.postgres_bin / "postgres")
    a_program(programs.mongod)
    home = Home.at(tmp_path / "home")
    assert readable_programs(programs, MYSELF, home) == programs
    assert not home.programs.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as another user")
def test_a_copy_is_renewed_when_the_program_changed(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "package/pginstall18/bin", tmp_path / "mongod")
    a_program(programs.postgres_bin / "postgres", "1")
    a_program(programs.mongod, "1")
    (tmp_path / "package.libs").mkdir()
    tmp_path.chmod(0o700)
    home, nobody = Home.at(tmp_path / "home"), Account("nobody", 65534, 65534)
    copied = readable_programs(programs, nobody, home)
    assert (copied.mongod.read_text(), copied.mongod.stat().st_mode & 0o777) == ("1", 0o755)
    a_program(programs.mongod, "22")
    assert readable_programs(programs, nobody, home) == copied
    assert copied.mongod.read_text() == "22"
    assert (copied.postgres_bin / "postgres").read_text() == "1"
