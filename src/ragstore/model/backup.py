"""Backups as values: the manifest with all that it names, and the reports of the commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1
"""Version of the format that this program writes; it reads no newer one."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a target, as a manifest names it.

    Args:
        name: its place in the target; the last part begins with a hash of the content.
        size: bytes as stored.
        checksum: BLAKE2b of the bytes as stored, 32 bytes in hexadecimal.
    """

    name: str
    size: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows of a vector table in one object; some of them may have been deleted since it was stored."""

    object: StoredObject
    n_rows: int


@dataclass(frozen=True, slots=True)
class TablePart:
    """Rows of one ledger table: its columns, and the objects that hold the rows in order."""

    columns: tuple[str, ...]
    parts: tuple[StoredObject, ...]
    n_rows: int


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A question and its exact answer when the backup was made.

    Args:
        vector: of length ``dim``.
        node_ids: the nearest nodes, nearest first.
        distances: cosine distance of each.
    """

    vector: list[float]
    node_ids: list[str]
    distances: list[float]


@dataclass(frozen=True, slots=True)
class CollectionBackup:
    """One collection in a backup.

    Args:
        settings: the columns of its row in ``ragstore.collection``, in PostgreSQL's text form; None for NULL.
        columns: columns of the rows in the packs.
        packs: all objects with rows of the vector table.
        rows: objects with the id, version and pack of each live row.
        tables: the ledger, by the names of its tables.
    """

    name: str
    collection_id: int
    settings: Mapping[str, str | None]
    n_documents: int
    n_nodes: int
    columns: tuple[str, ...]
    packs: tuple[Pack, ...]
    rows: tuple[StoredObject, ...]
    tables: Mapping[str, TablePart]
    questions: tuple[SampleQuestion, ...] = ()

    def objects(self) -> list[StoredObject]:
        """All objects that it needs."""
        ledger = [part for table in self.tables.values() for part in table.parts]
        return [*(pack.object for pack in self.packs), *self.rows, *ledger]


@dataclass(frozen=True, slots=True)
class Head:
    """What can be read of a manifest without a key.

    Args:
        id: name of the backup, which begins with the time.
        made_at: time of the snapshot, ISO 8601.
        program: version of ragstore.
        postgres_schema, mongo_schema: schema versions.
        server: version of PostgreSQL.
        deployment: id of the databases that it was made from.
        stamp: no row has a larger number.
        key_id: which key encrypts it; None if it is not encrypted.
        claim: the name under which its making was announced.
        objects: all objects that it needs.
        earlier: backups that the target had when this one was made.
    """

    id: str
    made_at: str
    program: str
    postgres_schema: str
    mongo_schema: str
    server: str
    deployment: str
    epoch: int
    stamp: int
    key_id: str | None
    claim: str
    n_documents: int
    n_nodes: int
    n_bytes_new: int
    objects: tuple[StoredObject, ...]
    earlier: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Bytes of all objects that it needs."""
        return sum(each.size for each in self.objects)

    def as_dict(self) -> dict[str, Any]:
        """One line of ``backup list --json``."""
        return {
            "id": self.id,
            "made_at": self.made_at,
            "documents": self.n_documents,
            "nodes": self.n_nodes,
            "objects": len(self.objects),
            "bytes": self.n_bytes,
            "bytes_new": self.n_bytes_new,
            "encrypted": self.key_id is not None,
            "schema": f"postgres {self.postgres_schema}, mongo {self.mongo_schema}",
            "server": self.server,
            "deployment": self.deployment,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """One backup: its head, and its collections."""

    head: Head
    collections: tuple[CollectionBackup, ...]


@dataclass(slots=True)
class BackupReport:
    """Result of ``backup create``.

    Args:
        n_packs_kept: packs of earlier backups that this one uses again.
        bytes_new: bytes that were stored; ``bytes`` are those that the backup needs.
    """

    id: str = ""
    target: str = ""
    collections: list[str] = field(default_factory=list)
    documents: int = 0
    nodes: int = 0
    n_packs: int = 0
    n_packs_kept: int = 0
    objects_new: int = 0
    bytes: int = 0
    bytes_new: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The shape ``backup create --json`` prints."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class Loss:
    """A part of a target that is missing or damaged.

    Args:
        backups: ids of the backups that need it.
        acknowledged: a person said that the loss is known.
    """

    name: str
    what: str
    backups: list[str]
    acknowledged: bool = False


@dataclass(slots=True)
class TargetReport:
    """Result of ``backup verify``.

    Args:
        whole: ids of the backups that can be restored.
        unreferenced: objects that no backup needs: of a backup that was killed, or left by one that was pruned.
        content_checked: whether objects were decrypted too; without the key of an encrypted backup their bytes alone
            are compared.
    """

    target: str
    backups: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0
    unreferenced: int = 0
    content_checked: bool = True
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is lost but what was acknowledged."""
        return all(loss.acknowledged for loss in self.losses)

    def as_dict(self) -> dict[str, Any]:
        """The shape ``backup verify --json`` prints."""
        return {"ok": self.ok, **asdict(self), "seconds": round(self.seconds, 3)}


@dataclass(slots=True)
class PruneReport:
    """Result of ``backup prune``.

    Args:
        blocked_by: an announced backup that may still be in the making; objects were not deleted.
    """

    target: str
    kept: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    objects_deleted: int = 0
    bytes_deleted: int = 0
    blocked_by: str | None = None
    dry_run: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The shape ``backup prune --json`` prints."""
        return asdict(self)


@dataclass(slots=True)
class RestoreReport:
    """Result of ``restore``.

    Args:
        collections: name in the backup → name in the databases.
        replaced: collections whose former content was given up.
        notes: what was renamed or left out, by name.
        epoch: the new epoch; writers of former ones are refused.
        seconds_ready: until both stores and the indexes were ready; ``seconds`` also has the check at the end.
        drift: what the deep verify found, by kind.
    """

    backup: str = ""
    target: str = ""
    made_at: str = ""
    collections: dict[str, str] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    documents: int = 0
    nodes: int = 0
    notes: list[str] = field(default_factory=list)
    epoch: int = 0
    drift: dict[str, int] = field(default_factory=dict)
    seconds_load: float = 0.0
    seconds_ready: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether both stores agree at the end."""
        return not self.drift

    def as_dict(self) -> dict[str, Any]:
        """The shape ``restore --json`` prints."""
        numbers = {name: round(getattr(self, name), 3) for name in ("seconds_load", "seconds_ready", "seconds")}
        return {"ok": self.ok, **asdict(self), **numbers}
