"""The places where options are looked for, and what each of them holds."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from dotenv import dotenv_values

from ragstore.errors import SettingsError

PREFIX = "RAGSTORE_"
DOTENV_FILE = ".env"
TOML_FILE = "ragstore.toml"
SECRETS_DIR = "/run/secrets"

Origin = Literal["call", "environment", ".env", "ragstore.toml", "secret file", "default"]


@dataclass(frozen=True, slots=True)
class Place:
    """One place that was looked at.

    Args:
        where: what a person would open, e.g. the path of the file.
        values: option → value as it stands there, unchecked.
        names: option or unknown name → how it is spelled there.
        note: why it holds nothing, e.g. ``not there``.
    """

    origin: Origin
    where: str
    values: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def read_places(options: Collection[str], call: Mapping[str, Any]) -> list[Place]:
    """Everything that is set anywhere, the place that wins first.

    Args:
        options: the names of all options, lower-case, without prefix.
        call: what the caller passed from Python.

    Raises:
        SettingsError: a place that somebody named is not there, or cannot be read.
    """
    dotenv = _dotenv_place()
    return [
        Place("call", "the call", dict(call), {name: name for name in call}),
        _place("environment", "the environment", os.environ),
        dotenv,
        _toml_place(_pointer("config", dotenv)),
        _secrets_place(options, _pointer("secrets_dir", dotenv)),
    ]


def _pointer(name: str, dotenv: Place) -> str | None:
    """RAGSTORE_CONFIG and RAGSTORE_SECRETS_DIR: they say where to look, so they are no options themselves."""
    return os.environ.get(PREFIX + name.upper()) or dotenv.values.get(name) or None


def _place(origin: Origin, where: str, variables: Mapping[str, str | None]) -> Place:
    """Keep what has our prefix; an empty value counts as unset, because compose files pass ``${NAME:-}`` on."""
    ours = {name: value for name, value in variables.items() if name.upper().startswith(PREFIX) and value}
    return Place(
        origin,
        where,
        {name[len(PREFIX) :].lower(): value for name, value in ours.items()},
        {name[len(PREFIX) :].lower(): name for name in ours},
    )


def _dotenv_place() -> Place:
    path = Path.cwd() / DOTENV_FILE
    if not path.is_file():
        return Place(".env", str(path), note="not there")
    try:
        return _place(".env", str(path), dotenv_values(path, encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _toml_place(named: str | None) -> Place:
    path = Path(named or TOML_FILE).expanduser().absolute()
    if not path.is_file():
        if named:
            raise _named_but_missing("config", path, "file")
        return Place("ragstore.toml", str(path), note="not there")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _unreadable(path, error) from error
    return Place("ragstore.toml", str(path), values, {name: name for name in values})


def _secrets_place(options: Collection[str], named: str | None) -> Place:
    """Files ``ragstore_NAME`` and ``ragstore/NAME``; without the prefix too in a folder that was named for us.

    Files of others are not opened: /run/secrets is shared, and what lies there may be large or no text.
    """
    folder = Path(named or SECRETS_DIR).expanduser().absolute()
    if not folder.is_dir():
        if named:
            raise _named_but_missing("secrets_dir", folder, "folder")
        return Place("secret file", str(folder), note="not there")
    values: dict[str, str] = {}
    names: dict[str, str] = {}
    try:
        for name, path in _secret_files(folder, options, every_name=named is not None):
            text = path.read_text(encoding="utf-8").strip()
            if text:
                values[name], names[name] = text, str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(folder, error) from error
    return Place("secret file", str(folder), values, names)


def _secret_files(folder: Path, options: Collection[str], *, every_name: bool) -> list[tuple[str, Path]]:
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name == "ragstore" and path.is_dir():
            found += _secret_files(path, options, every_name=True)
        elif path.is_file() and name.startswith(PREFIX.lower()):
            found.append((name[len(PREFIX) :], path))
        elif path.is_file() and every_name and name in options:
            found.append((name, path))
    return found


def _named_but_missing(name: str, path: Path, kind: str) -> SettingsError:
    variable = f"{PREFIX}{name.upper()}"
    return SettingsError(
        f"{variable} names {path}, and there is no such {kind}",
        hint=f"correct {variable} or unset it",
        option=variable,
        value=str(path),
    )


def _unreadable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(
        f"settings in {path} cannot be read: {error}", hint=f"correct {path} or remove it", value=str(path)
    )


MASK = "********"

# Greedy up to the last '@': a password may hold '@' and '/' that somebody forgot to encode, and to cover
# too much is the safe mistake.
_PASSWORD_IN_AUTHORITY = re.compile(r"://([^:@/?#]*):.*@", re.DOTALL)
_PASSWORD_IN_QUERY = re.compile(r"(?i)([?&](?:ssl|tlsCertificateKeyFile)?password=)[^&#]*")
_AUTHORITY = re.compile(r"[a-z0-9+]+://([^/?#]*)(.*)", re.DOTALL)
_USER_ALONE = re.compile(r"([a-z0-9+]+://[^:@/?#]+)(@.*)", re.DOTALL)
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_encoded(url: str) -> bool:
    """Whether the password ends where drivers will see its end; else they quote the rest of it in their errors."""
    found = _AUTHORITY.fullmatch(url)
    return bool(found and found[1].count("@") <= 1 and "@" not in found[2] and not _LONE_PERCENT.search(found[1]))


def without_driver(url: str) -> str:
    """A URL of PostgreSQL as libpq reads it, of one that names SQLAlchemy's driver as LlamaIndex's stores take it."""
    scheme, separator, rest = url.partition("://")
    name, plus, driver = scheme.partition("+")
    if name not in ("postgresql", "postgres") or not plus:
        return url
    if driver == "asyncpg":
        # Its own name for it.
        rest = re.sub(r"([?&])ssl=", r"\1sslmode=", rest)
    return f"{name}{separator}{rest}"


def masked_url(url: str) -> str:
    """The URL with its password covered; other text, and a URL without a password, come back as they are."""
    return _PASSWORD_IN_QUERY.sub(rf"\g<1>{MASK}", _PASSWORD_IN_AUTHORITY.sub(rf"://\g<1>:{MASK}@", url))


def takes_password(url: str) -> bool:
    """Whether the URL names a user and no password."""
    return _USER_ALONE.fullmatch(url) is not None


def with_password(url: str, password: str) -> str:
    """The URL with this password for its user; one that names no user, or has a password, comes back as it is."""
    found = _USER_ALONE.fullmatch(url)
    return f"{found[1]}:{quote(password, safe='')}{found[2]}" if found else url
