"""Where the two databases are: configured, or embedded and started here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from ragstore import embedded
from ragstore.settings import Settings, with_password


@dataclass(frozen=True, slots=True)
class Addresses:
    """URLs with passwords; ``repr`` leaves them out."""

    postgres_url: str
    mongo_url: str

    def __repr__(self) -> str:
        return "Addresses(...)"


def home_of(settings: Settings) -> Path:
    """The folder of the embedded servers."""
    return settings.home or embedded.default_home()


def configured(settings: Settings) -> Addresses | None:
    """The URLs from the settings, None where the servers are embedded."""
    if settings.postgres_url is None or settings.mongo_url is None:
        return None
    return Addresses(
        _complete(settings.postgres_url, settings.postgres_password),
        _complete(settings.mongo_url, settings.mongo_password),
    )


def _complete(url: SecretStr, password: SecretStr | None) -> str:
    return with_password(url.get_secret_value(), password.get_secret_value()) if password else url.get_secret_value()


def reachable(settings: Settings, *, starting: Callable[[], None] | None = None) -> Addresses:
    """The databases, embedded ones started if they are not running.

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
