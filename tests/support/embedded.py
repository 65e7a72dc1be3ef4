"""Homes of embedded servers for tests: made, written to, killed, watched and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socketserver
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pymongo
import pytest

import ragstore
from ragstore.embedded import ServerUrls, state, status, stop
from ragstore.embedded.account import Account
from ragstore.embedded.home import Home
from ragstore.embedded.processes import is_alive
from tests.support import tally


def a_home() -> Path:
    tally.note("embedded")
    # Not tmp_path: pytest closes it to the user as which root runs the servers.
    home = Path(tempfile.mkdtemp(prefix="ragstore-"))
    home.chmod(0o755)
    return home


def remove(home: Path) -> None:
    stop(home)
    shutil.rmtree(home)


def execute(urls: ServerUrls, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(urls.postgres_url, connect_timeout=5)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def write(urls: ServerUrls, value: int) -> None:
    execute(urls, "CREATE TABLE IF NOT EXISTS kept (value int)")
    execute(urls, f"INSERT INTO kept VALUES ({value})")
    with pymongo.MongoClient[dict[str, Any]](urls.mongo_url, serverSelectionTimeoutMS=10_000) as client:
        client.get_database("test", write_concern=pymongo.WriteConcern("majority", j=True)).kept.insert_one(
            {"value": value}
        )


def assert_kept(urls: ServerUrls, value: int) -> None:
    assert (value,) in execute(urls, "SELECT value FROM kept")
    with pymongo.MongoClient[dict[str, Any]](urls.mongo_url, serverSelectionTimeoutMS=10_000) as client:
        assert client.test.kept.find_one({"value": value})


def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


def server_pid(home: Path, name: str) -> int:
    pid = next(each.pid for each in status(home) if each.name == name)
    assert pid
    return pid


def supervisor_pid(home: Path) -> int:
    pid = state.load(Home.at(home)).pid
    assert pid
    return pid


def processes_of(home: Path) -> set[int]:
    """Every process that works below the home: supervisor, servers, and the sessions of PostgreSQL."""
    found = set()
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def kill(*pids: int) -> None:
    """Kill at once, and return when all are gone or wait to be reaped."""
    killed = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):  # a session of a PostgreSQL that was killed before
            killed.append(psutil.Process(pid))
            killed[-1].kill()
    until(lambda: not any(is_alive(process) for process in killed), "killed processes are gone")


def kill_all(home: Path, *, only: str = "") -> None:
    """Kill every process of the home, or those with that argument, and what they start meanwhile."""
    while found := [pid for pid in processes_of(home) if not only or only in _arguments(pid)]:
        kill(*found)


def _arguments(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return []


def until_restarted(home: Path, old_pids: set[int]) -> None:
    """Without a call of ``ensure_running``: the supervisor alone must do it."""

    def restarted() -> bool:
        now = state.load(Home.at(home))
        return now.all_ready and not old_pids & {each.pid for each in now.servers.values()}

    until(restarted, "the supervisor restarted what was killed")


def a_python_for(account: Account) -> str:
    for candidate in (sys.executable, *filter(None, [shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")])):
        if account.first_closed(Path(candidate).resolve()):
            continue
        version = output_of([candidate, "-c", "import sys; print(sys.version_info[:2])"], account)
        if version.strip() == str(sys.version_info[:2]):
            return candidate
    pytest.skip(f"no Python {sys.version_info[:2]} that {account.name} can run")


def output_of(command: list[str], account: Account) -> str:
    """What a program prints that runs as that user and finds our packages."""
    packages = os.pathsep.join([str(Path(ragstore.__file__).parents[1]), sysconfig.get_path("purelib")])
    run = subprocess.run(
        command,
        env={"PYTHONPATH": packages, "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        **account.popen_options,
    )
    assert run.returncode == 0, run.stderr
    return str(run.stdout)


class Stranger(socketserver.TCPServer):
    """Something that listens and hangs up."""

    allow_reuse_address = True


@contextlib.contextmanager
def a_stranger_on(port: int | None) -> Iterator[None]:
    with Stranger(("127.0.0.1", port or 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield
        finally:
            server.shutdown()
