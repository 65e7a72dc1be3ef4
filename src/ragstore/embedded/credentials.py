"""Passwords and ports of the embedded servers, chosen once and then read from a file."""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import asdict, dataclass, replace

from ragstore.embedded.home import SERVER_NAMES, Home, ServerName, read_json, write_private
from ragstore.embedded.ports import a_free_port
from ragstore.errors import EmbeddedServerError

_PASSWORD_BYTES = 24


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """URLs of the two servers, including their passwords."""

    postgres_url: str
    mongo_url: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """Content of ``secrets.json``; the passwords need no quoting in a URL."""

    postgres_password: str
    postgres_port: int
    mongo_password: str
    mongo_port: int

    @property
    def urls(self) -> ServerUrls:
        """URLs of the servers at the loopback address."""
        return ServerUrls(
            postgres_url=f"postgresql://ragstore:{self.postgres_password}@127.0.0.1:{self.postgres_port}/ragstore",
            mongo_url=f"mongodb://ragstore:{self.mongo_password}@127.0.0.1:{self.mongo_port}"
            "/?replicaSet=rs0&authSource=admin",
        )

    def password(self, name: ServerName) -> str:
        """Password of the user ``ragstore`` of one server."""
        return self.postgres_password if name == "postgres" else self.mongo_password

    def port(self, name: ServerName) -> int:
        return self.postgres_port if name == "postgres" else self.mongo_port

    def with_port(self, name: ServerName, port: int) -> Credentials:
        return replace(self, postgres_port=port) if name == "postgres" else replace(self, mongo_port=port)


class CredentialStore:
    """Credentials of one home, safe to use from several threads; the file is always written before they are used."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self.current = load_or_create(home)

    def move_port(self, name: ServerName) -> int:
        """Choose another port for a server, because another program uses its present one."""
        with self._lock:
            used = {self.current.postgres_port, self.current.mongo_port}
            moved = self.current.with_port(name, a_free_port(other_than=used))
            save(self._home, moved)
            self.current = moved
            return moved.port(name)


def load(home: Home) -> Credentials | None:
    """Read the saved credentials; None before the first start."""
    value = read_json(home.credentials)
    if value is None:
        return None
    try:
        return Credentials(**value)
    except TypeError as error:
        raise EmbeddedServerError(
            f"{home.credentials} does not hold the servers' passwords and ports",
            hint="put the file back from a backup of RAGSTORE_HOME",
            path=str(home.credentials),
        ) from error


def save(home: Home, credentials: Credentials) -> None:
    """Save the credentials, durable also after a power failure; call it before a server first uses them."""
    write_private(home.credentials, json.dumps(asdict(credentials), indent=2) + "\n", durable=True)


def load_or_create(home: Home) -> Credentials:
    """Read the saved credentials, or make new ones for a home without data.

    Raises:
        EmbeddedServerError: there is data, but its passwords are lost.
    """
    credentials = load(home)
    if credentials:
        return credentials
    if home.credentials.exists() or any(home.data(name).exists() for name in SERVER_NAMES):
        raise EmbeddedServerError(
            f"{home.credentials} is missing or damaged, and with it the passwords of the data in {home.path}",
            hint="put the file back from a backup, or set RAGSTORE_HOME to an empty folder",
            home=str(home.path),
        )
    postgres_port = a_free_port()
    credentials = Credentials(
        postgres_password=secrets.token_urlsafe(_PASSWORD_BYTES),
        postgres_port=postgres_port,
        mongo_password=secrets.token_urlsafe(_PASSWORD_BYTES),
        mongo_port=a_free_port(other_than={postgres_port}),
    )
    save(home, credentials)
    return credentials
