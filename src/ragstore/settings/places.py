"""Places that options are read from (call, environment, files, secrets), and passwords in their URLs."""

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
    """One place that was searched for options.

    Args:
        where: the place as shown to users, e.g. the path of the file.
        values: option → unchecked value in this place.
        names: option or unknown name → its spelling in this place.
        note: why the place has no options, e.g. ``not there``.
    """

    origin: Origin
    where: str
    values: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def read_places(options: Collection[str], call: Mapping[str, Any]) -> list[Place]:
    """All places with the options that are set in them, in order of precedence, highest first.

    Args:
        options: the names of all options, lower-case, without prefix.
        call: what the caller passed from Python.

    Raises:
        SettingsError: a file or folder that was named explicitly does not exist, or a place cannot be read.
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
    """Value of RAGSTORE_CONFIG or RAGSTORE_SECRETS_DIR, which name places and are not options themselves."""
    return os.environ.get(PREFIX + name.upper()) or dotenv.values.get(name) or None


def _place(origin: Origin, where: str, variables: Mapping[str, str | None]) -> Place:
    """Variables with our prefix; an empty value counts as unset, because compose files pass on ``${NAME:-}``."""
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
    """Files ``ragstore_NAME`` and ``ragstore/NAME``; also ``NAME`` in a folder that was named explicitly.

    Files of other programs are not opened: /run/secrets is shared, and its files may be large or not text.
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

# Greedy up to the last '@': a password may contain '@' and '/' that were not encoded, and to mask too much is safe.
_PASSWORD_IN_AUTHORITY = re.compile(r"://([^:@/?#]*):.*@", re.DOTALL)
_PASSWORD_IN_QUERY = re.compile(r"(?i)([?&](?:ssl|tlsCertificateKeyFile)?password=)[^&#]*")
_AUTHORITY = re.compile(r"[a-z0-9+]+://([^/?#]*)(.*)", re.DOTALL)
_USER_ALONE = re.compile(r"([a-z0-9+]+://[^:@/?#]+)(@.*)", re.DOTALL)
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_encoded(url: str) -> bool:
    """Whether drivers will find the correct end of the password; else their errors would show the rest of it."""
    found = _AUTHORITY.fullmatch(url)
    return bool(found and found[1].count("@") <= 1 and "@" not in found[2] and not _LONE_PERCENT.search(found[1]))


def without_driver(url: str) -> str:
    """Remove the name of SQLAlchemy's driver from a URL of PostgreSQL, so that libpq can read it.

    LlamaIndex's stores take URLs with the driver's name.
    """
    scheme, separator, rest = url.partition("://")
    name, plus, driver = scheme.partition("+")
    if name not in ("postgresql", "postgres") or not plus:
        return url
    if driver == "asyncpg":
        # The name of this option in asyncpg.
        rest = re.sub(r"([?&])ssl=", r"\1sslmode=", rest)
    return f"{name}{separator}{rest}"


def masked_url(url: str) -> str:
    """The URL with its password masked; other text, and a URL without a password, are returned unchanged."""
    return _PASSWORD_IN_QUERY.sub(rf"\g<1>{MASK}", _PASSWORD_IN_AUTHORITY.sub(rf"://\g<1>:{MASK}@", url))


def takes_password(url: str) -> bool:
    """Whether the URL has a user and no password."""
    return _USER_ALONE.fullmatch(url) is not None


def with_password(url: str, password: str) -> str:
    """The URL with this password added; unchanged if it has no user, or has a password already."""
    found = _USER_ALONE.fullmatch(url)
    return f"{found[1]}:{quote(password, safe='')}{found[2]}" if found else url
