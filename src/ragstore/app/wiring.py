"""Addresses of the two databases, configured or embedded, and the one way to connect to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from ragstore import embedded
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings, with_password

if TYPE_CHECKING:
    from ragstore.mongo.client import Client, MongoDatabase


@dataclass(frozen=True, slots=True)
class Addresses:
    """URLs of both databases, with passwords; ``repr`` leaves them out."""

    postgres_url: str
    mongo_url: str

    def __repr__(self) -> str:
        return "Addresses(...)"


def home_of(settings: Settings) -> Path:
    """The folder of the embedded servers."""
    return settings.home or embedded.default_home()


def configured(settings: Settings) -> Addresses | None:
    """The URLs from the settings; None if the servers are embedded."""
    if settings.postgres_url is None or settings.mongo_url is None:
        return None
    return Addresses(
        _complete(settings.postgres_url, settings.postgres_password),
        _complete(settings.mongo_url, settings.mongo_password),
    )


def _complete(url: SecretStr, password: SecretStr | None) -> str:
    return with_password(url.get_secret_value(), password.get_secret_value()) if password else url.get_secret_value()


def reachable(settings: Settings, *, starting: Callable[[], None] | None = None) -> Addresses:
    """Addresses of running databases; embedded ones are started if they do not run.

    Args:
        starting: called before they are started, which takes seconds.

    Raises:
        EmbeddedServerError: no URL is set and servers cannot be run here.
    """
    found = configured(settings)
    if found:
        return found
    urls = embedded.ensure_running(home_of(settings), starting=starting)
    return Addresses(urls.postgres_url, urls.mongo_url)


def postgres_pool(
    settings: Settings, addresses: Addresses, *, size: int = 1, statement_timeout_s: float = 0.0
) -> PostgresPool:
    """A pool that connects when it is first used."""
    return PostgresPool(
        addresses.postgres_url,
        size=size,
        connect_timeout_s=settings.connect_timeout_s,
        idle_in_transaction_s=max(10.0, 2 * settings.lease_ttl_s),
        statement_timeout_s=statement_timeout_s,
        schema=settings.postgres_schema,
    )


def mongo_client(settings: Settings, addresses: Addresses, *, pool_size: int = 8) -> Client:
    """A client of a MongoDB server that was checked.

    Raises:
        StoreUnavailableError, StoreSetupError
    """
    from ragstore.mongo.client import check_server, connect

    client = connect(addresses.mongo_url, timeout_s=settings.connect_timeout_s, pool_size=pool_size)
    try:
        check_server(client, addresses.mongo_url)
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def mongo_database(settings: Settings, addresses: Addresses) -> Iterator[MongoDatabase]:
    """The MongoDB database of the settings, for the length of the block; raises as ``mongo_client`` does."""
    from ragstore.mongo.client import database
    from ragstore.mongo.errors import translation

    client = mongo_client(settings, addresses)
    try:
        with translation():
            yield database(client, settings.mongo_database)
    finally:
        client.close()
