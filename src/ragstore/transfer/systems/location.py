"""Address of a store in another system, as ``--from`` and ``--docstore`` take it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from ragstore.errors import PathNotFoundError, UsageError
from ragstore.settings import masked_url, with_password

MASK = "********"
_SCHEME = re.compile(r"([a-z][a-z0-9+]*):(.*)", re.DOTALL)
_USER = re.compile(r"^//.*@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Location:
    """``SCHEME:ADDRESS?OPTIONS#NAME``; ``repr`` and ``shown`` have no secret.

    Args:
        scheme: e.g. ``chroma+http``; ``path`` for a text without a scheme.
        address: the text between the scheme and the options.
        name: what follows ``#``: a collection, a table, an index struct or a namespace.
        secret: API key, token or password, which did not come with the address.
    """

    scheme: str
    address: str = field(repr=False)
    options: dict[str, str] = field(repr=False)
    name: str | None
    shown: str
    secret: str | None = field(default=None, repr=False)

    @property
    def system(self) -> str:
        """The scheme without its transport."""
        return self.scheme.partition("+")[0]

    @property
    def is_remote(self) -> bool:
        """Whether it is a server's address."""
        return self.address.startswith("//")

    def take(self, *known: str) -> dict[str, str]:
        """The options.

        Raises:
            UsageError: there are others than these.
        """
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise UsageError(
                f"{self.shown} has an option {unknown[0]!r}, which {self.system} has not",
                hint=f"options of {self.system}: {', '.join(known) or 'none'}; keys and passwords belong into "
                "RAGSTORE_FROM_SECRET and RAGSTORE_DOCSTORE_SECRET",
            )
        return self.options

    def http_url(self) -> str:
        """``http://…`` or ``https://…`` of a server.

        Raises:
            UsageError: it has a user, or another transport.
        """
        transport = self.scheme.partition("+")[2]
        if transport not in ("http", "https"):
            raise UsageError(
                f"{self.shown} cannot be used: the scheme is {self.system}+http or {self.system}+https",
                hint=f"{self.system}+https://HOST:PORT#NAME for a server, {self.system}:PATH#NAME for local files",
            )
        return f"{transport}:{self.address}"

    def driver_url(self, *own: str) -> str:
        """The URL as the system's own driver takes it, with the secret as its password.

        Args:
            own: options that are ours and not the driver's.
        """
        rest = {name: value for name, value in self.options.items() if name not in own}
        url = f"{self.scheme}:{self.address}" + (f"?{urlencode(rest)}" if rest else "")
        return with_password(url, self.secret) if self.secret else url

    def local_path(self, *needed: str) -> str:
        """The local file or folder.

        Args:
            needed: name of a file that must be in the folder; clients make what does not exist.

        Raises:
            PathNotFoundError: it does not exist.
        """
        path = os.path.abspath(os.path.expanduser(self.address))
        if not os.path.exists(os.path.join(path, *needed)):
            what = f"no {needed[0]} is there" if needed and os.path.exists(path) else "it does not exist"
            raise PathNotFoundError(f"{self.shown} cannot be read: {what}", hint="check the path", url=self.shown)
        return path

    def hidden(self, text: str) -> str:
        """The text without the secret."""
        return text.replace(self.secret, MASK) if self.secret else text


def parse_location(text: str, secret: str | None, schemes: tuple[str, ...]) -> Location:
    """The location that a text names.

    Args:
        schemes: those that can be used; ``path`` among them for a text without a scheme.

    Raises:
        UsageError: none of them.
    """
    shown = masked_url(text)
    found = _SCHEME.fullmatch(text)
    if "path" in schemes and (found is None or found[1] not in schemes):
        path, mark, name = (text, "", "") if os.path.exists(text) else _split_off_name(text)
        return Location("path", path, {}, name if mark else None, shown, secret)
    if found is None or found[1] not in schemes:
        raise UsageError(
            f"{shown} cannot be read: nothing is known of such an address",
            hint=f"one of: {', '.join(f'{each}:' for each in schemes if each != 'path')}",
        )
    scheme, rest = found.groups()
    if scheme.endswith(("+http", "+https")) and _USER.search(rest):
        hidden = f"{scheme}:{_USER.sub(f'//{MASK}@', rest)}"
        raise UsageError(
            f"{hidden} has a key in it", hint="give the key as RAGSTORE_FROM_SECRET, best as a secret file"
        )
    rest, mark, name = _split_off_name(rest)
    address, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return Location(scheme, address, options, name if mark else None, shown, secret)


def _split_off_name(text: str) -> tuple[str, str, str]:
    return text.rpartition("#") if "#" in text else (text, "", "")
