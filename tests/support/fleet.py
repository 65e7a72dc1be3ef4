"""A pair of servers that tests own and may kill, stop, start and empty: in containers, or as processes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import psutil

from ragstore.embedded import processes
from ragstore.embedded.account import Account, servers_account
from ragstore.embedded.credentials import CredentialStore
from ragstore.embedded.home import Home
from ragstore.embedded.mongo import MongoServer
from ragstore.embedded.postgres import PostgresServer
from ragstore.embedded.programs import Programs, find_programs, readable_programs
from tests.support import tally
from tests.support.children import until
from tests.support.containers import MongoContainer, PostgresContainer
from tests.support.disks import Disk, MountedDisk, VolumeDisk
from tests.support.embedded import a_home, kill
from tests.support.servers import Kind


class Controlled(Protocol):
    """One server; its address and passwords stay the same whatever is done to it."""

    @property
    def url(self) -> str:
        """With a user who may do everything."""

    def kill(self) -> None:
        """End all its processes by SIGKILL."""

    def stop(self) -> None:
        """Let it end in its own way."""

    def start(self) -> None:
        """Run it again, and wait until it can be used."""

    def wipe(self) -> None:
        """Remove its data, and run a fresh one."""

    def remove(self) -> None:
        """End it and remove its data."""


@dataclass(frozen=True)
class Fleet:
    """Both servers."""

    kind: Kind
    postgres: Controlled
    mongo: Controlled


@contextmanager
def a_fleet(kind: Kind, disks: Mapping[str, Disk] | None = None) -> Iterator[Fleet]:
    """A pair of its own, running; on servers given by URL there is none, so it is embedded then.

    Args:
        disks: of the server of that name, ``postgres`` or ``mongo``, in place of the machine's.
    """
    tally.note("containers" if kind == "containers" else "embedded")
    own = disks or {}
    if kind == "containers":
        volumes = {name: disk.volume for name, disk in own.items() if isinstance(disk, VolumeDisk)}
        # Else it would take a gigabyte for its log alone.
        options = ("min_wal_size=32MB", "max_wal_size=48MB") if "postgres" in own else ()
        postgres = PostgresContainer(volume=volumes.get("postgres"), options=options)
        mongo = MongoContainer(volume=volumes.get("mongo"))
        with removed(postgres, mongo):
            with ThreadPoolExecutor(2) as pool:
                for made in (pool.submit(postgres.create), pool.submit(mongo.create)):
                    made.result()
            yield Fleet(kind, postgres, mongo)
        return
    with a_process_home() as (home, programs, account), ExitStack() as mounted:
        for name, disk in own.items():
            assert isinstance(disk, MountedDisk)
            mounted.enter_context(disk.at(home.path / name, account))
        credentials = CredentialStore(home)
        own_postgres = Process(PostgresServer(home, programs.postgres_bin, account, credentials), credentials, account)
        own_mongo = Process(MongoServer(home, programs.mongod, account, credentials), credentials, account)
        with removed(own_postgres, own_mongo):
            own_postgres.start()
            own_mongo.start()
            yield Fleet("embedded", own_postgres, own_mongo)


@contextmanager
def removed(*servers: Controlled) -> Iterator[None]:
    """None of these outlives the block."""
    try:
        yield
    finally:
        for server in servers:
            server.remove()


@contextmanager
def a_process_home() -> Iterator[tuple[Home, Programs, Account]]:
    """A folder for servers that run as processes, removed with all that is in it."""
    folder = a_home()
    home = Home.at(folder)
    home.make()
    account = servers_account(home)
    yield home, readable_programs(find_programs(), account, home), account
    shutil.rmtree(folder)


class Process:
    """An embedded server that nothing supervises."""

    def __init__(self, server: PostgresServer | MongoServer, credentials: CredentialStore, account: Account) -> None:
        self._server = server
        self._credentials = credentials
        self._account = account
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        urls = self._credentials.current.urls
        return urls.postgres_url if self._server.name == "postgres" else urls.mongo_url

    def start(self) -> None:
        self._server.prepare()
        child = subprocess.Popen(
            self._server.command(self._credentials.current.port(self._server.name)),
            cwd=self._server.data,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._account.popen_options,
        )
        self._child = child

        def answers() -> bool:
            assert child.poll() is None, f"{self._server.program} ended with {child.returncode}"
            return self._server.probe() is not None

        until(answers, what=f"{self._server.program} answers", timeout_s=60)

    def kill(self) -> None:
        if self._child is not None:
            with suppress(psutil.NoSuchProcess):
                sessions = psutil.Process(self._child.pid).children(recursive=True)
                # The kernel would not leave one of them behind when it kills a whole container.
                kill(self._child.pid, *[session.pid for session in sessions])
            self._child.wait()

    def stop(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGINT if self._server.name == "postgres" else signal.SIGTERM)
            self._child.wait(60)

    def wipe(self) -> None:
        self.remove()
        self.start()

    def remove(self) -> None:
        self.kill()
        for left in (
            processes.processes_in(self._server.data, self._server.program) if self._server.data.exists() else []
        ):
            kill(left.pid)
        self._child = None
        shutil.rmtree(self._server.data, ignore_errors=True)
