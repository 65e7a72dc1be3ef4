"""PostgreSQL as an embedded server: creation of its data, its options, and the check that it is ready."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ragstore.embedded import processes
from ragstore.embedded.account import Account
from ragstore.embedded.credentials import CredentialStore
from ragstore.embedded.home import Home, ServerName, sync_folder
from ragstore.embedded.ports import LOOPBACK, is_open
from ragstore.embedded.processes import StopSteps
from ragstore.errors import EmbeddedServerError

if TYPE_CHECKING:
    from psycopg2.extensions import connection

_OPTIONS = {
    "listen_addresses": LOOPBACK,
    # A socket's path may have at most 107 bytes, but a home's path may be longer.
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "192MB",
    "maintenance_work_mem": "256MB",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
    # The set-up compares messages.
    "lc_messages": "C",
}
_INITDB_OPTIONS = [
    "--username=ragstore",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--auth=scram-sha-256",
    "--data-checksums",
]
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only its size is read, nothing is written there
_ENOUGH_SHARED_MEMORY_BYTES = 2**30
_CONNECT_TIMEOUT_S = 5


class PostgresServer:
    """The PostgreSQL server of one home."""

    name: ServerName = "postgres"
    program = "postgres"
    # SIGINT, fast: sessions are ended, a checkpoint is written. SIGQUIT, immediate: recovery at the next start.
    stop_steps: StopSteps = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, home: Home, programs: Path, account: Account, credentials: CredentialStore) -> None:
        self._folder = home.folder(self.name)
        self._programs = programs
        self._account = account
        self._credentials = credentials
        self.data = home.data(self.name)

    def command(self, port: int) -> list[str]:
        """Program and arguments; they contain all options, so that the files of initdb are not changed."""
        command = [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(port)]
        for key, value in (_OPTIONS | _shared_memory_options()).items():
            command += ["-c", f"{key}={value}"]
        return command

    def prepare(self) -> None:
        """Make the data if there is none, and remove files that would prevent the start.

        Call it only while no process uses the data.

        Crash safety:
            The data folder appears complete or not at all; repeating it starts again from the beginning.
        """
        self._account.own_folder(self._folder)
        for leftover in self._folder.glob("fresh-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not _is_cluster(self.data):
            self._make_cluster()
        self._remove_foreign_pid_file()

    def probe(self) -> str | None:
        """The version if the database ``ragstore`` with its extension can be used, else None.

        Raises:
            EmbeddedServerError: it will never be ready, because the password is not accepted or the set-up fails.
        """
        import psycopg2

        if not is_open(self._credentials.current.postgres_port):
            return None
        try:
            self._ensure_database()
            return self._ensure_extension()
        except psycopg2.OperationalError as error:
            if "password authentication failed" not in str(error):
                return None
            raise EmbeddedServerError(
                f"the PostgreSQL data in {self.data} was made with another password than the one remembered",
                hint="put secrets.json back from a backup of RAGSTORE_HOME, or set RAGSTORE_HOME to an empty folder",
                data=str(self.data),
            ) from error
        except psycopg2.Error as error:
            raise EmbeddedServerError(
                f"the database in {self.data} cannot be set up: {str(error).strip()}",
                hint="see the log of PostgreSQL under RAGSTORE_HOME",
                data=str(self.data),
            ) from error

    def _ensure_database(self) -> None:
        from psycopg2 import errors

        session = self._connect("postgres")
        try:
            with session.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = 'ragstore'")
                if not cursor.rowcount:
                    cursor.execute("CREATE DATABASE ragstore OWNER ragstore ENCODING 'UTF8' TEMPLATE template0")
        except errors.DuplicateDatabase:
            pass
        finally:
            session.close()

    def _ensure_extension(self) -> str:
        session = self._connect("ragstore")
        try:
            with session.cursor() as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
                cursor.execute("SHOW server_version")
                return str(cursor.fetchall()[0][0])
        finally:
            session.close()

    def _connect(self, database: str) -> connection:
        import psycopg2

        current = self._credentials.current
        opened = psycopg2.connect(
            host=LOOPBACK,
            port=current.postgres_port,
            user="ragstore",
            password=current.postgres_password,
            dbname=database,
            connect_timeout=_CONNECT_TIMEOUT_S,
            # Otherwise notices would be collected, e.g. that the extension exists.
            options="-c client_min_messages=warning",
        )
        opened.autocommit = True
        return opened

    def _make_cluster(self) -> None:
        if self.data.exists():
            _move_aside(self.data)
        fresh = self._folder / f"fresh-{secrets.token_hex(4)}"
        password_file = self._folder / f"{fresh.name}.password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._credentials.current.postgres_password)
        self._account.own(password_file)
        try:
            self._run_initdb(fresh, password_file)
        finally:
            password_file.unlink()
        fresh.rename(self.data)
        sync_folder(self._folder)

    def _run_initdb(self, fresh: Path, password_file: Path) -> None:
        command = [str(self._programs / "initdb"), "-D", str(fresh), f"--pwfile={password_file}", *_INITDB_OPTIONS]
        run = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            cwd=self._folder,
            **self._account.popen_options,
        )
        if run.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            tail = "\n".join(run.stdout.strip().splitlines()[-6:])
            raise EmbeddedServerError(
                f"initdb failed in {self._folder} with status {run.returncode}: {tail}",
                hint="make room or rights there, or set RAGSTORE_HOME to another folder",
                status=run.returncode,
                output=tail,
            )

    def _remove_foreign_pid_file(self) -> None:
        """Remove a pid file with the number of a live process: another program, or a zombie of ours.

        PostgreSQL would refuse to start because of it. A pid file without such a process stays, because
        PostgreSQL uses it to find shared memory that is still in use.
        """
        pid_file = self.data / "postmaster.pid"
        try:
            pid = pid_file.read_text(errors="replace").partition("\n")[0]
        except FileNotFoundError:
            return
        if processes.names_live_process(pid):
            pid_file.unlink()


def _is_cluster(data: Path) -> bool:
    return (data / "PG_VERSION").is_file() and (data / "global" / "pg_control").is_file()


def _move_aside(data: Path) -> None:
    """Rename a folder that is not a cluster; it may contain files of a user, so only an empty one is removed."""
    try:
        data.rmdir()
    except OSError:
        data.rename(data.with_name(f"{data.name}.broken-{secrets.token_hex(4)}"))


def _shared_memory_options() -> dict[str, str]:
    """Options for a small ``/dev/shm``, as in containers: parallel index builds then do not use it."""
    try:
        size = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return {}
    if size.f_frsize * size.f_blocks >= _ENOUGH_SHARED_MEMORY_BYTES:
        return {}
    return {"dynamic_shared_memory_type": "mmap"}
