"""PgBouncer in front of a PostgreSQL, as it comes but for its port and its mode."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg2
import pytest

from ragstore.embedded.account import servers_account
from ragstore.embedded.home import Home
from tests.support.children import until

_FOUND = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer."""

    url: str
    admin_url: str

    def show(self, what: str) -> list[dict[str, object]]:
        """A table of its own, such as ``SERVERS``."""
        with closing(psycopg2.connect(self.admin_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"SHOW {what}")
                names = [column.name for column in cursor.description or []]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextmanager
def a_pooler(url: str, *, mode: str = "transaction", **options: object) -> Iterator[Pooler]:
    """PgBouncer on the way to this database until the block ends.

    Args:
        options: further lines of its configuration.
    """
    if _FOUND is None:
        missing = "pgbouncer is not installed: apt-get install pgbouncer"
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    parts = urlsplit(url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ragstore-pooler-"))
    folder.chmod(0o755)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    (folder / "users").write_text(f'"{user}" "{password}"\n')
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "plain",
        "auth_file": folder / "users",
        "pool_mode": mode,
        "admin_users": user,
        **options,
    }
    (folder / "ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    account = servers_account(Home.at(folder))
    command = [_FOUND, str(folder / "ini")]
    with subprocess.Popen(
        command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account.popen_options
    ) as process:
        try:
            through = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}")
            found = Pooler(urlunsplit(through), urlunsplit(through._replace(path="/pgbouncer")))
            until(lambda: _answers(found.admin_url, process), what="the pooler answers")
            yield found
        finally:
            process.kill()
            shutil.rmtree(folder)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"pgbouncer ended with {process.returncode}"
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return False
    return True
