"""URLs of databases: made ready for the driver, secrets covered for people."""

from __future__ import annotations

import re
from urllib.parse import quote

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
