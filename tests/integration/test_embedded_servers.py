"""The embedded servers, really started, killed, starved and stopped."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pymongo
import pytest
from pymongo.errors import OperationFailure

from ragstore.embedded import ServerUrls, credentials, ensure_running, remembered_urls, state, status, stop
from ragstore.embedded.account import Account, servers_account
from ragstore.embedded.home import Home
from ragstore.embedded.processes import is_alive
from ragstore.embedded.programs import find_programs, readable_programs
from ragstore.errors import EmbeddedServerError
from tests.support.audit import audited
from tests.support.embedded import (
    a_home,
    a_python_for,
    a_stranger_on,
    assert_kept,
    execute,
    kill,
    kill_all,
    output_of,
    processes_of,
    remove,
    server_pid,
    supervisor_pid,
    until,
    until_restarted,
    write,
)

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
STARTER = (
    "import sys; from pathlib import Path; from ragstore.embedded import ensure_running; "
    "print(ensure_running(Path(sys.argv[1])).postgres_url)"
)
STEPS_OF_A_FIRST_START = [
    "secrets.json",
    "postgres/fresh-*",
    "mongo/data/mongod.lock",
    "mongo/data/WiredTiger",
    "postgres/data",
    "postgres/data/postmaster.pid",
]
"""What there is to see of them, in their order."""


@pytest.fixture
def home() -> Iterator[Path]:
    home = a_home()
    yield home
    remove(home)


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Path]:
    home = a_home()
    yield home
    remove(home)


@pytest.fixture
def urls(shared_home: Path) -> ServerUrls:
    return ensure_running(shared_home)


@pytest.fixture
def stranger(shared_home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the servers' own user that has nothing to do with them."""
    account = servers_account(Home.at(shared_home))
    with subprocess.Popen(["sleep", "600"], **account.popen_options) as process:
        yield process
        process.kill()


def test_both_servers_take_the_password_and_nothing_else(urls: ServerUrls) -> None:
    write(urls, 1)
    for password in ("", ":wrong"):
        head, _, tail = urls.postgres_url.partition("@")
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(f"{head.rpartition(':')[0]}{password}@{tail}")
    address = urls.mongo_url.partition("@")[2].partition("/")[0]
    with (
        pymongo.MongoClient[dict[str, Any]](f"mongodb://{address}/?directConnection=true") as client,
        pytest.raises(OperationFailure, match="requires authentication"),
    ):
        client.test.kept.find_one()
    with (
        pymongo.MongoClient[dict[str, Any]](f"mongodb://ragstore:wrong@{address}/?directConnection=true") as client,
        pytest.raises(OperationFailure, match="Authentication failed"),
    ):
        client.test.kept.find_one()


def test_the_database_is_utf8_with_vectors_checksums_and_durable_commits(urls: ServerUrls) -> None:
    shown = [execute(urls, f"SHOW {name}")[0][0] for name in ("server_encoding", "data_checksums", "fsync")]
    assert shown == ["UTF8", "on", "on"]
    assert execute(urls, "SELECT '[1,2]'::vector <=> '[1,2]'::vector") == [(0.0,)]
    assert execute(urls, "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'ragstore'") == [
        (True,)
    ]


def test_the_servers_listen_on_the_loopback_address_alone(urls: ServerUrls, shared_home: Path) -> None:
    for name in ("postgres", "mongo"):
        process = psutil.Process(server_pid(shared_home, name))
        listening = [each for each in process.net_connections("all") if each.status == psutil.CONN_LISTEN]
        assert [each.laddr.ip for each in listening] == ["127.0.0.1"]
        assert not [each for each in process.net_connections("unix") if each.laddr]


def test_only_the_owner_can_read_the_secrets(urls: ServerUrls, shared_home: Path) -> None:
    assert (shared_home / "secrets.json").stat().st_mode & 0o777 == 0o600
    for folder in ("postgres", "mongo", "logs"):
        assert (shared_home / folder).stat().st_mode & 0o777 == 0o700
    for log in (shared_home / "logs").iterdir():
        assert log.stat().st_mode & 0o777 == 0o600, log


def test_mongod_unpacks_nothing_from_who_has_not_logged_in(urls: ServerUrls) -> None:
    with pymongo.MongoClient[dict[str, Any]](urls.mongo_url, compressors="zlib") as client:
        hello = client.admin.command("hello", compression=["zlib", "snappy", "zstd"])
    assert not hello.get("compression")


def test_a_second_call_knocks_once_at_each_server_and_does_no_more(urls: ServerUrls, shared_home: Path) -> None:
    with audited("subprocess.Popen", "os.posix_spawn", "os.fork", "socket.connect", "time.sleep") as heard:
        assert ensure_running(shared_home) == urls
    assert heard == ["socket.connect"] * 2


def test_status_names_the_version_and_the_files_of_each_server(urls: ServerUrls, shared_home: Path) -> None:
    assert remembered_urls(shared_home) == urls
    for server in status(shared_home):
        assert server.running
        assert str(server.port) in (urls.postgres_url if server.name == "postgres" else urls.mongo_url)
        assert server.version
        assert server.log.stat().st_size
        assert server.data.is_dir()


def test_processes_that_start_at_once_share_one_pair_of_servers(home: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(home)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({starter.communicate(timeout=50)[0] for starter in starters}) == 1
    assert [starter.returncode for starter in starters] == [0] * 4
    programs = [psutil.Process(pid) for pid in processes_of(home)]
    mains = [process for process in programs if str(home) in " ".join(process.cmdline())]
    assert len(mains) == 3, mains


@pytest.mark.parametrize("names", [["postgres"], ["mongo"], ["postgres", "mongo"]], ids="+".join)
def test_a_killed_server_comes_back_by_itself_with_its_data(shared_home: Path, names: list[str]) -> None:
    urls = ensure_running(shared_home)
    value = random.randrange(10**9)
    write(urls, value)
    pids = {server_pid(shared_home, name) for name in names}
    kill(*pids)
    until_restarted(shared_home, pids)
    assert_kept(urls, value)
    assert ensure_running(shared_home) == urls


def test_a_busy_session_of_a_killed_postgres_does_not_hinder_its_restart(shared_home: Path) -> None:
    urls = ensure_running(shared_home)
    busy = psycopg2.connect(urls.postgres_url)
    cursor = busy.cursor()
    ended = []

    def count_for_long() -> None:
        try:
            cursor.execute("SELECT count(*) FROM generate_series(1, 100000000000) AS n")
        except psycopg2.OperationalError as error:
            ended.append(error)

    session = threading.Thread(target=count_for_long)
    session.start()
    active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series%'"
    until(lambda: execute(urls, active) == [(2,)], "the session counts")
    postmaster = server_pid(shared_home, "postgres")
    kill(postmaster)
    until_restarted(shared_home, {postmaster})
    session.join(timeout=10)
    busy.close()
    assert ended
    assert execute(urls, "SELECT 1") == [(1,)]


def test_servers_outlive_their_supervisor_and_get_a_new_one(shared_home: Path) -> None:
    urls = ensure_running(shared_home)
    pids = {name: server_pid(shared_home, name) for name in ("postgres", "mongo")}
    killed = supervisor_pid(shared_home)
    kill(killed)
    assert ensure_running(shared_home) == urls
    assert {name: server_pid(shared_home, name) for name in pids} == pids
    assert supervisor_pid(shared_home) != killed
    for name, pid in pids.items():
        kill(pid)
        until_restarted(shared_home, {pid})
        assert server_pid(shared_home, name) != pid


@pytest.mark.parametrize("names", [["postgres"], ["mongo"], ["postgres", "mongo"]], ids="+".join)
def test_when_all_was_killed_the_next_call_brings_the_data_back(shared_home: Path, names: list[str]) -> None:
    urls = ensure_running(shared_home)
    value = random.randrange(10**9)
    write(urls, value)
    kill(supervisor_pid(shared_home), *(server_pid(shared_home, name) for name in names))
    assert ensure_running(shared_home) == urls
    assert_kept(urls, value)


def test_every_process_killed_at_once_is_no_loss(shared_home: Path) -> None:
    urls = ensure_running(shared_home)
    write(urls, 77)
    kill_all(shared_home)
    assert ensure_running(shared_home) == urls
    assert_kept(urls, 77)


def test_pid_files_that_name_a_stranger_neither_hinder_the_start_nor_hurt_it(
    shared_home: Path, stranger: subprocess.Popen[bytes]
) -> None:
    urls = ensure_running(shared_home)
    write(urls, 5)
    kill_all(shared_home)
    pid_file = shared_home / "postgres/data/postmaster.pid"
    pid_file.write_text("\n".join([str(stranger.pid), *pid_file.read_text().splitlines()[1:]]))
    (shared_home / "mongo/data/mongod.lock").write_text(f"{stranger.pid}\n")
    named = state.load(Home.at(shared_home))
    named.pid = stranger.pid
    for server in named.servers.values():
        server.pid = stranger.pid
    state.save(Home.at(shared_home), named)
    assert not any(server.running for server in status(shared_home))
    assert not stop(shared_home)
    assert ensure_running(shared_home) == urls
    assert_kept(urls, 5)
    assert stranger.poll() is None


def test_stop_leaves_no_process_and_all_data(shared_home: Path) -> None:
    urls = ensure_running(shared_home)
    write(urls, 6)
    assert len(processes_of(shared_home)) >= 3
    assert stop(shared_home)
    assert processes_of(shared_home) == set()
    assert not any(server.running for server in status(shared_home))
    assert not stop(shared_home)
    log = (shared_home / "logs/postgres.log").read_text().splitlines()
    assert "database system is shut down" in log[-1]
    assert ensure_running(shared_home) == urls
    assert_kept(urls, 6)


def test_stop_also_ends_servers_whose_supervisor_was_killed(shared_home: Path) -> None:
    ensure_running(shared_home)
    kill(supervisor_pid(shared_home))
    assert stop(shared_home)
    assert processes_of(shared_home) == set()


def test_a_port_taken_by_a_stranger_is_exchanged_and_the_new_one_remembered(shared_home: Path) -> None:
    old = ensure_running(shared_home)
    write(old, 8)
    stop(shared_home)
    ports = [server.port for server in status(shared_home)]
    with a_stranger_on(ports[0]), a_stranger_on(ports[1]):
        new = ensure_running(shared_home)
        assert (new.postgres_url, new.mongo_url) != (old.postgres_url, old.mongo_url)
        assert_kept(new, 8)
    stop(shared_home)
    assert remembered_urls(shared_home) == new
    assert ensure_running(shared_home) == new
    assert_kept(new, 8)


def test_half_made_data_is_made_again(home: Path) -> None:
    place = Home.at(home)
    credentials.load_or_create(place)
    for name in ("fresh-0123", "data"):
        (place.folder("postgres") / name).mkdir(parents=True)
        (place.folder("postgres") / name / "PG_VERSION").write_text("18\n")
    place.data("mongo").mkdir(parents=True)
    (place.data("mongo") / "WiredTiger").write_text("half a file")
    (place.folder("mongo") / "unfinished").touch()
    urls = ensure_running(home)
    write(urls, 9)
    assert_kept(urls, 9)
    assert not list(place.folder("postgres").glob("fresh-*"))


def there_is(home: Path, step: str) -> bool:
    return any(home.glob(step))


def test_a_first_start_killed_after_any_step_is_begun_again(home: Path) -> None:
    for nth, step in enumerate(STEPS_OF_A_FIRST_START):
        command = [sys.executable, "-c", STARTER, str(home)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as starter:
            until(partial(there_is, home, step), f"there is {step}")
            starter.kill()
        kill_all(home, only="ragstore.embedded.supervisor" if nth % 3 == 1 else "")
    urls = ensure_running(home)
    write(urls, 10)
    assert_kept(urls, 10)


def test_an_interrupted_caller_leaves_a_start_that_the_next_call_finds(home: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(home)]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    until((home / "state.json").exists, "the start has begun")
    os.killpg(starter.pid, signal.SIGINT)
    _, complaint = starter.communicate(timeout=20)
    # It may have been faster than we are.
    assert b"KeyboardInterrupt" in complaint or starter.returncode == 0
    urls = ensure_running(home)
    write(urls, 11)


def test_the_servers_outlive_the_terminal_and_the_process_that_started_them(home: Path) -> None:
    program = f"{STARTER}; sys.stdout.flush(); import signal; signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE, start_new_session=True
    ) as (starter):
        assert starter.stdout
        assert starter.stdout.readline().startswith(b"postgresql://")
        pids = processes_of(home)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
            if starter.poll() is None:
                os.killpg(starter.pid, number)
        # The pipe would stay open if a server had inherited it.
        assert starter.stdout.read() == b""
    assert pids <= processes_of(home)
    assert ensure_running(home) == remembered_urls(home)


def test_a_call_that_runs_out_of_time_says_so_and_the_start_goes_on(home: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"not ready after 0\.05 s") as caught:
        ensure_running(home, timeout_s=0.05)
    assert str(home) in caught.value.facts["log"]
    until(lambda: state.load(Home.at(home)).all_ready, "the start went on")
    assert ensure_running(home) == remembered_urls(home)


def test_a_server_that_does_not_start_is_told_with_the_last_lines_of_its_log(home: Path) -> None:
    urls = ensure_running(home)
    write(urls, 12)
    stop(home)
    control = home / "postgres/data/global/pg_control"
    whole = control.read_bytes()
    control.write_bytes(b"\0" * len(whole))
    with pytest.raises(EmbeddedServerError, match="incompatible with server") as caught:
        ensure_running(home)
    assert caught.value.facts["log"] == str(home / "logs/postgres.log")
    until(lambda: not processes_of(home), "the supervisor gave up and left nothing")
    control.write_bytes(whole)
    assert ensure_running(home) == urls
    assert_kept(urls, 12)


def test_data_whose_secrets_are_lost_is_refused_and_left_alone(shared_home: Path) -> None:
    urls = ensure_running(shared_home)
    write(urls, 13)
    stop(shared_home)
    secrets = shared_home / "secrets.json"
    secrets.rename(shared_home / "secrets.kept")
    with pytest.raises(EmbeddedServerError, match=r"secrets.json is missing"):
        ensure_running(shared_home)
    (shared_home / "secrets.kept").rename(secrets)
    assert ensure_running(shared_home) == urls
    assert_kept(urls, 13)


def test_the_supervisor_ends_with_its_home() -> None:
    home = a_home()
    ensure_running(home)
    supervisor = psutil.Process(supervisor_pid(home))
    servers = [psutil.Process(server_pid(home, name)) for name in ("postgres", "mongo")]
    shutil.rmtree(home)
    until(lambda: not any(is_alive(each) for each in (supervisor, *servers)), "all ended with the home")
    assert not home.exists()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(EmbeddedServerError, match="file"):
        ensure_running(tmp_path / "home")


@AS_ROOT
def test_a_home_that_the_servers_user_cannot_enter_is_refused_and_no_mode_is_changed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match="cannot enter") as caught:
        ensure_running(closed / "home")
    assert "RAGSTORE_HOME" in caught.value.hint
    assert closed.stat().st_mode & 0o777 == 0o700


@AS_ROOT
def test_root_runs_the_servers_as_a_user_without_rights(urls: ServerUrls, shared_home: Path) -> None:
    for name in ("postgres", "mongo"):
        process = psutil.Process(server_pid(shared_home, name))
        assert 0 not in (*process.uids(), *process.gids())


@AS_ROOT
def test_programs_that_the_servers_user_cannot_read_are_copied_once(home: Path, tmp_path: Path) -> None:
    account = servers_account(Home.at(home))
    found = find_programs()
    package = tmp_path / "packages" / found.postgres_bin.parents[1].name
    tmp_path.chmod(0o700)
    shutil.copytree(found.postgres_bin.parent, package / found.postgres_bin.parent.name)
    shutil.copytree(f"{found.postgres_bin.parents[1]}.libs", f"{package}.libs")
    closed = type(found)(package / found.postgres_bin.parent.name / "bin", found.mongod)
    copied = readable_programs(closed, account, Home.at(home))
    inode = (copied.postgres_bin / "initdb").stat().st_ino
    for program in ("initdb", "postgres"):
        assert "PostgreSQL" in output_of([str(copied.postgres_bin / program), "--version"], account)
    assert readable_programs(closed, account, Home.at(home)) == copied
    assert (copied.postgres_bin / "initdb").stat().st_ino == inode


@AS_ROOT
@pytest.mark.parametrize("user", ["nobody", "postgres"])
def test_an_ordinary_user_runs_the_servers_too(home: Path, user: str) -> None:
    import pwd

    entry = pwd.getpwnam(user)
    account = Account(user, entry.pw_uid, entry.pw_gid)
    account.own(home)
    python = a_python_for(account)
    assert output_of([python, "-c", STARTER, str(home)], account).startswith("postgresql://ragstore:")
    urls = remembered_urls(home)
    assert urls
    write(urls, 14)
    assert {psutil.Process(pid).uids().real for pid in processes_of(home)} == {entry.pw_uid}
    program = "import sys; from pathlib import Path; from ragstore.embedded import stop; print(stop(Path(sys.argv[1])))"
    assert output_of([python, "-c", program, str(home)], account) == "True\n"
    assert processes_of(home) == set()
