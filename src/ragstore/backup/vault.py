"""Objects as they are stored: compressed, encrypted if there is a key, named by their content, checked when read."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from ragstore.backup.targets import Target, lost
from ragstore.errors import BackupKeyError, UsageError, not_installed
from ragstore.model.backup import StoredObject

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_LEVEL = 1
"""Of zstd; vectors hardly compress at any level, and texts by a tenth more at the next ones."""

_PLAIN, _ENCRYPTED = b"RSO1", b"RSE1"
_NONCE_BYTES = 12
_MIN_KEY_BYTES = 32
_MAX_EXPANDED = 1 << 32


@dataclass(frozen=True, slots=True)
class Key:
    """Keys that are derived from a key file; ``repr`` shows none.

    Args:
        id: names the key in manifests, and tells nothing of it.
    """

    id: str
    cipher: bytes
    names: bytes

    def __repr__(self) -> str:
        return f"Key({self.id})"

    @classmethod
    def read(cls, path: Path) -> Key:
        """The keys of a key file.

        Raises:
            UsageError: it cannot be read, or is too short.
        """
        try:
            secret = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"key file {path} cannot be read: {error.strerror}",
                hint="make one with 'head --bytes=32 /dev/urandom > FILE', and keep a copy elsewhere: "
                "without it no encrypted backup can be restored",
            ) from error
        if len(secret) < _MIN_KEY_BYTES:
            raise UsageError(
                f"key file {path} has {len(secret)} bytes, at least {_MIN_KEY_BYTES} are needed",
                hint="make one with 'head --bytes=32 /dev/urandom > FILE'",
            )

        def derived(purpose: str) -> bytes:
            return hmac.digest(secret, b"ragstore backup " + purpose.encode(), "sha256")

        return cls(derived("id").hex()[:16], derived("cipher"), derived("names"))


class Vault:
    """Stores and reads objects of one target.

    Args:
        key: encrypts what is stored; needed to read what was encrypted.
    """

    def __init__(self, target: Target, key: Key | None = None) -> None:
        self.target = target
        self.key = key
        self._known: dict[str, StoredObject] = {}
        self._lock = threading.Lock()
        self.n_stored = 0
        self.n_bytes_stored = 0

    @property
    def url(self) -> str:
        return self.target.url

    def reading(self, key_id: str | None) -> Vault:
        """The vault for objects that were stored with this key, or with none."""
        return self if self.key is None or key_id is not None else Vault(self.target)

    def trust(self, objects: Iterable[StoredObject]) -> None:
        """Use these objects again where the same content is to be stored."""
        for each in objects:
            self._known.setdefault(_content_id(each.name), each)

    def put(self, folder: str, content: bytes) -> StoredObject:
        """Store a content, unless a trusted object has it already.

        The name has a random end: what a backup that was killed left there, perhaps damaged, is never relied on.

        Crash safety:
            As ``Target.put``.
        """
        content_id = self._hash(content)
        known = self._known.get(content_id)
        if known is not None:
            return known
        stored = self._encoded(content, content_id)
        name = f"{folder}/{content_id[:2]}/{content_id}-{secrets.token_hex(4)}"
        made = StoredObject(name, len(stored), checksum(stored))
        if not self.target.put(name, stored):
            raise lost(self.url, name, "there already, and was not expected")
        with self._lock:
            self._known[content_id] = made
            self.n_stored += 1
            self.n_bytes_stored += len(stored)
        return made

    def get(self, wanted: StoredObject) -> bytes:
        """The content of an object, compared with what was stored.

        Raises:
            BackupLostError: it is missing or damaged.
            BackupKeyError: it is encrypted, and the key is not given or another one.
        """
        stored = self.read(wanted)
        content_id = _content_id(wanted.name)
        content = self._decoded(stored, wanted.name, content_id)
        if not hmac.compare_digest(self._hash(content), content_id):
            raise lost(self.url, wanted.name, "damaged: its content is not what its name says")
        return content

    def read(self, wanted: StoredObject) -> bytes:
        """The bytes of an object as stored; compared with its checksum, not decrypted."""
        stored = self.target.get(wanted.name)
        if len(stored) != wanted.size:
            raise lost(self.url, wanted.name, f"damaged: it has {len(stored):,} bytes instead of {wanted.size:,}")
        if checksum(stored) != wanted.checksum:
            raise lost(self.url, wanted.name, "damaged: its bytes are not those that were stored")
        return stored

    def seal(self, content: bytes, purpose: str) -> bytes:
        """A content as ``put`` would store it, for one that is a part of another object."""
        return self._encoded(content, purpose)

    def unseal(self, stored: bytes, name: str, purpose: str) -> bytes:
        """The content of ``seal``."""
        return self._decoded(stored, name, purpose)

    def _hash(self, content: bytes) -> str:
        # With a key, or else the hashes of encrypted texts could be compared with those of texts that someone guesses.
        named = b"" if self.key is None else self.key.names
        return hashlib.blake2b(content, digest_size=32, key=named).hexdigest()

    def _encoded(self, content: bytes, purpose: str) -> bytes:
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
        if self.key is None:
            return _PLAIN + packed
        nonce = os.urandom(_NONCE_BYTES)
        return _ENCRYPTED + nonce + _cipher(self.key).encrypt(nonce, packed, purpose.encode())

    def _decoded(self, stored: bytes, name: str, purpose: str) -> bytes:
        magic = stored[: len(_PLAIN)]
        packed = stored[len(_PLAIN) :]
        if magic == _ENCRYPTED:
            packed = self._decrypted(packed, name, purpose)
        elif magic != _PLAIN:
            raise lost(self.url, name, "damaged: it does not begin as an object of a backup does")
        try:
            return zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MAX_EXPANDED)
        except zstandard.ZstdError as error:
            raise lost(self.url, name, f"damaged: {error}") from error

    def _decrypted(self, packed: bytes, name: str, purpose: str) -> bytes:
        if self.key is None:
            raise BackupKeyError(
                f"{name} in {self.url} is encrypted",
                hint="name its key file with --key",
                in_python="give key= the path of its key file",
                target=self.url,
            )
        from cryptography.exceptions import InvalidTag

        nonce, sealed = packed[:_NONCE_BYTES], packed[_NONCE_BYTES:]
        try:
            return _cipher(self.key).decrypt(nonce, sealed, purpose.encode())
        except InvalidTag as error:
            raise lost(self.url, name, "damaged, or encrypted with another key") from error


def checksum(stored: bytes) -> str:
    """The checksum of an object's bytes."""
    return hashlib.blake2b(stored, digest_size=32).hexdigest()


def _content_id(name: str) -> str:
    return name.rpartition("/")[2].partition("-")[0]


def _cipher(key: Key) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise UsageError("encrypted backups need a package", hint=not_installed("encryption")) from error
    return AESGCM(key.cipher)
