"""Catalog of a target: its manifests, the announcements of backups in the making, and notes of what was given up.

``backups/<id>.<hash>.json`` is a manifest; its name has the hash of its bytes. ``open/…`` announces a backup or a prune
in the making. ``notes/…`` has what a prune deleted and which losses a person acknowledged.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from ragstore.backup.targets import lost
from ragstore.backup.vault import Vault
from ragstore.errors import BackupError, BackupKeyError, BackupLostError, NotFoundError, RefusedError
from ragstore.model.backup import (
    FORMAT,
    CollectionBackup,
    Head,
    Manifest,
    Pack,
    SampleQuestion,
    StoredObject,
    TablePart,
)

BACKUPS, OPEN, NOTES = "backups", "open", "notes"
OBJECT_FOLDERS = ("packs", "ledger")

_PURPOSE = "manifest"
_PRUNE_AFTER_S = 3600.0


def new_id() -> str:
    """A name that begins with the time, and that nobody else makes."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"


class Catalog:
    """Manifests and notes of one target."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._target = vault.target

    @property
    def url(self) -> str:
        return self._target.url

    # Manifests

    def names(self) -> dict[str, str]:
        """Id of each backup → name of its manifest, oldest first."""
        found = {}
        for name in sorted(self._target.names(BACKUPS)):
            file = name.rpartition("/")[2]
            if file.endswith(".json"):
                found[file.removesuffix(".json").rpartition(".")[0]] = name
        return found

    def head(self, name: str) -> Head:
        """The head of a manifest.

        Raises:
            BackupLostError: it is damaged.
            RefusedError: a newer program wrote it.
        """
        return _head(self._read(name)["head"])

    def manifest(self, name: str) -> Manifest:
        """A whole manifest.

        Raises:
            BackupLostError, RefusedError: as ``head``.
            BackupKeyError: it is encrypted, and the key is not given or another one.
        """
        found = self._read(name)
        head = _head(found["head"])
        key = self._vault.key
        if head.key_id is not None and (key is None or key.id != head.key_id):
            raise BackupKeyError(
                f"backup {head.id} in {self.url} is encrypted with key {head.key_id}"
                + (f", the given one is {key.id}" if key else ""),
                hint="name its key file with --key",
                in_python="give key= the path of its key file",
                target=self.url,
                key_id=head.key_id,
            )
        sealed = base64.b64decode(found["sealed"])
        content = orjson.loads(self._vault.unseal(sealed, name, f"{_PURPOSE} {head.id}"))
        return Manifest(head, tuple(_collection(each, head.objects) for each in content))

    def put(self, manifest: Manifest) -> str:
        """Store a manifest, the last object of a backup; returns its name.

        Crash safety:
            As ``Target.put``: before it the backup does not exist, after it it is complete.
        """
        places = {each.name: place for place, each in enumerate(manifest.head.objects)}
        content = [_packed(each, places) for each in manifest.collections]
        sealed = self._vault.seal(orjson.dumps(content), f"{_PURPOSE} {manifest.head.id}")
        head = asdict(manifest.head) | {"objects": [[o.name, o.size, o.checksum] for o in manifest.head.objects]}
        data = orjson.dumps({"format": FORMAT, "head": head, "sealed": base64.b64encode(sealed).decode()})
        name = f"{BACKUPS}/{manifest.head.id}.{_hash(data)}.json"
        if not self._target.put(name, data):
            raise lost(self.url, name, "there already, and was not expected")
        return name

    def chosen(self, wanted: str | None) -> str:
        """The name of the manifest of this backup, or of the newest; the beginning of an id is enough.

        Raises:
            NotFoundError: there is none.
        """
        names = self.names()
        if not names:
            raise NotFoundError(
                f"there is no backup in {self.url}",
                hint=f"make one with 'ragstore backup create {self.url}'",
                target=self.url,
            )
        if wanted is None:
            return names[max(names)]
        found = [name for each, name in names.items() if each.startswith(wanted)]
        if len(found) != 1:
            raise NotFoundError(
                f"{'no backup' if not found else f'{len(found)} backups'} in {self.url} begin with {wanted!r}",
                hint=f"see 'ragstore backup list {self.url}'",
                target=self.url,
            )
        return found[0]

    def _read(self, name: str) -> dict[str, Any]:
        data = self._target.get(name)
        if name.removesuffix(".json").rpartition(".")[2] != _hash(data):
            raise lost(self.url, name, "damaged: its bytes are not those that its name says")
        found: dict[str, Any] = orjson.loads(data)
        if found["format"] > FORMAT:
            raise RefusedError(
                f"{name} in {self.url} has format {found['format']}, this program reads {FORMAT}",
                hint="use the ragstore that made the backup, or a newer one",
                target=self.url,
            )
        return found

    # Announcements and notes

    def announce(self, what: str) -> str:
        """Announce a backup or a prune in the making; returns the name of the announcement."""
        name = f"{OPEN}/{what}-{new_id()}"
        self._target.put(name, b"{}")
        return name

    def withdraw(self, announcement: str) -> None:
        self._target.delete(announcement)

    def announced(self, what: str) -> Iterator[tuple[str, float]]:
        """Announcements of this kind, each with its age in seconds."""
        for name in sorted(self._target.names(OPEN)):
            if name.startswith(f"{OPEN}/{what}-"):
                try:
                    yield name, self._target.age_s(name)
                except BackupError:
                    if name in self._target.names(OPEN):
                        raise

    def refuse_prune(self) -> None:
        """Refuse to begin a backup while a prune deletes objects.

        Raises:
            RefusedError
        """
        for name, age_s in self.announced("prune"):
            if age_s < _PRUNE_AFTER_S:
                raise RefusedError(
                    f"a prune of {self.url} is at work",
                    hint=f"run the same command when it has ended; if it was killed, after an hour, or delete {name}",
                    target=self.url,
                )

    def note(self, kind: str, what: dict[str, Any]) -> None:
        """Store a note."""
        data = orjson.dumps({"kind": kind, "at": datetime.now(UTC).isoformat(), **what})
        self._target.put(f"{NOTES}/{new_id()}.{_hash(data)}.json", data)

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """All readable notes of a kind, oldest first."""
        found = []
        for name in sorted(self._target.names(NOTES)):
            try:
                data = self._target.get(name)
            except BackupLostError:
                continue
            if name.removesuffix(".json").rpartition(".")[2] == _hash(data):
                found.append(orjson.loads(data))
        return [each for each in found if each["kind"] == kind]

    def pruned(self) -> set[str]:
        """Ids of backups that a prune deleted."""
        return {each for note in self.notes("pruned") for each in note["backups"]}

    def acknowledged(self) -> set[str]:
        """Names of objects whose loss a person acknowledged."""
        return {each for note in self.notes("acknowledged") for each in note["names"]}


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _packed(collection: CollectionBackup, places: dict[str, int]) -> dict[str, Any]:
    """A collection as JSON, in which objects are places in the list of the head."""
    return {
        "name": collection.name,
        "collection_id": collection.collection_id,
        "settings": dict(collection.settings),
        "n_documents": collection.n_documents,
        "n_nodes": collection.n_nodes,
        "columns": collection.columns,
        "packs": [[places[pack.object.name], pack.n_rows] for pack in collection.packs],
        "rows": [places[each.name] for each in collection.rows],
        "tables": {
            name: {
                "columns": table.columns,
                "parts": [places[each.name] for each in table.parts],
                "n_rows": table.n_rows,
            }
            for name, table in collection.tables.items()
        },
        "questions": [asdict(each) for each in collection.questions],
    }


def _head(found: dict[str, Any]) -> Head:
    objects = tuple(StoredObject(*each) for each in found["objects"])
    return Head(**found | {"objects": objects, "earlier": tuple(found["earlier"])})


def _collection(found: dict[str, Any], objects: tuple[StoredObject, ...]) -> CollectionBackup:
    return CollectionBackup(
        **found
        | {
            "columns": tuple(found["columns"]),
            "packs": tuple(Pack(objects[place], n_rows) for place, n_rows in found["packs"]),
            "rows": tuple(objects[place] for place in found["rows"]),
            "tables": {
                name: TablePart(tuple(t["columns"]), tuple(objects[p] for p in t["parts"]), t["n_rows"])
                for name, t in found["tables"].items()
            },
            "questions": tuple(SampleQuestion(**each) for each in found["questions"]),
        }
    )
