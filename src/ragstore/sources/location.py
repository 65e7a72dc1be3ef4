"""Names of local files as ids and URIs that any database can store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ragstore.model.document import MAX_DOCUMENT_ID_BYTES

_FILE_SCHEME = "file://"
_HASH_BYTES = 16


def document_id_of(path: str) -> str:
    """The absolute path itself; where that is not UTF-8, backslash-escaped with a hash that keeps it unique."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # A file may really be called r"\xff": only the hash tells the two apart.
        return f"{raw.decode('utf-8', 'backslashreplace')}~{_digest(raw)}"


def source_uri_of(path: str) -> str:
    """The absolute path itself; where that is not UTF-8, a ``file://`` URI of its bytes."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _FILE_SCHEME + quote_from_bytes(raw)


def read_path(source_uri: str) -> Path:
    """The file that ``source_uri_of`` was given."""
    if source_uri.startswith(_FILE_SCHEME):
        return Path(os.fsdecode(unquote_to_bytes(source_uri.removeprefix(_FILE_SCHEME))))
    return Path(os.fsdecode(source_uri.encode("utf-8")))


def is_too_long(document_id: str) -> bool:
    """Whether the ledger refuses it."""
    # A character takes at most 4 bytes, so most ids need no encoding to be measured.
    return len(document_id) * 4 > MAX_DOCUMENT_ID_BYTES and len(document_id.encode()) > MAX_DOCUMENT_ID_BYTES


def shortened(document_id: str) -> str:
    """An id of at most MAX_DOCUMENT_ID_BYTES that still differs wherever the long ones do."""
    raw = document_id.encode()
    tail = f"~{_digest(raw)}"
    return raw[: MAX_DOCUMENT_ID_BYTES - len(tail)].decode("utf-8", "ignore") + tail


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=_HASH_BYTES).hexdigest()
