"""Create: one snapshot of PostgreSQL stored in a target, without what an earlier backup there has already."""

from __future__ import annotations

import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ragstore.backup.catalog import Catalog, new_id
from ragstore.backup.packs import LIVE_ROW, PACK_BYTES, LiveRows, OpenPack, PackWriter, packed_rows, unpacked_rows
from ragstore.backup.vault import Vault
from ragstore.errors import BackupError, CollectionNotFoundError, MissingTableError, RefusedError
from ragstore.model.backup import (
    BackupReport,
    CollectionBackup,
    Head,
    Manifest,
    Pack,
    SampleQuestion,
    StoredObject,
    TablePart,
)
from ragstore.model.collection import Collection
from ragstore.model.report import Listener, Progress
from ragstore.postgres.dump import LEDGER, Dump, dump
from ragstore.postgres.pool import PostgresPool
from ragstore.telemetry.failpoint import Failpoint, reached
from ragstore.telemetry.logging import get_logger

_THREADS = 2
_IN_FLIGHT = 3
"""Packs that are compressed and stored while the next one is read; each needs about three times its size."""

_PART_BYTES = 4 << 20
_CUT_EVERY = 2_048
"""A part of a ledger table ends after about so many rows, at a row whose checksum says so: parts before a changed row
stay what they were."""

_MIN_LIVE_SHARE = 0.5
_SMALL_PACK_BYTES = PACK_BYTES // 4
_N_QUESTIONS = 4
_N_HITS = 10
_TELL_EVERY = 1_000

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Versions:
    """Of the program and of the schemas that it works with."""

    program: str
    postgres_schema: str
    mongo_schema: str


def create(
    pool: PostgresPool,
    vault: Vault,
    versions: Versions,
    names: Sequence[str] = (),
    tell: Listener | None = None,
) -> BackupReport:
    """Store a backup; writers go on meanwhile.

    Args:
        names: only these collections; all if empty.

    Raises:
        CollectionNotFoundError
        RefusedError: a prune is at work in the target.
        BackupError: the target cannot be written; what is stored by then is no backup.
        StoreError

    Crash safety:
        The manifest is stored last; without it the target has some objects that no backup needs, until a prune.
    """
    begun = time.monotonic()
    catalog = Catalog(vault)
    claim = catalog.announce("create")
    reached(Failpoint.BACKUP_CLAIMED)
    catalog.refuse_prune()
    earlier = catalog.names()
    with dump(pool) as snapshot:
        base = _newest_of(catalog, vault, earlier, snapshot)
        wanted = _wanted(snapshot.collections(), names)
        position = snapshot.position()
        made = [_Create(snapshot, vault, each, base, begun, tell).run() for each in wanted]
    collections = tuple(made)
    objects = {o.name: o for each in collections for o in each.objects()}
    _require_objects(vault, objects)
    head = Head(
        id=new_id(),
        made_at=position.now,
        program=versions.program,
        postgres_schema=versions.postgres_schema,
        mongo_schema=versions.mongo_schema,
        server=position.server,
        deployment=position.deployment,
        epoch=position.epoch,
        stamp=position.stamp,
        key_id=vault.key.id if vault.key else None,
        claim=claim,
        n_documents=sum(each.n_documents for each in collections),
        n_nodes=sum(each.n_nodes for each in collections),
        n_bytes_new=vault.n_bytes_stored,
        objects=tuple(objects.values()),
        earlier=tuple(earlier),
    )
    catalog.refuse_prune()
    catalog.put(Manifest(head, collections))
    reached(Failpoint.BACKUP_STORED)
    kept = {pack.object.name for each in base for pack in each.packs}
    report = BackupReport(
        id=head.id,
        target=vault.url,
        collections=[each.name for each in collections],
        documents=head.n_documents,
        nodes=head.n_nodes,
        n_packs=sum(len(each.packs) for each in collections),
        n_packs_kept=sum(pack.object.name in kept for each in collections for pack in each.packs),
        objects_new=vault.n_stored,
        bytes=head.n_bytes,
        bytes_new=vault.n_bytes_stored,
        seconds=time.monotonic() - begun,
    )
    _log.info("backup stored", action="backup", backup=head.id, bytes_new=report.bytes_new, nodes=report.nodes)
    return report


def _newest_of(catalog: Catalog, vault: Vault, earlier: dict[str, str], snapshot: Dump) -> tuple[CollectionBackup, ...]:
    """The collections of the newest readable backup of this timeline, whose objects may be used again."""
    position = snapshot.position()
    given_up = catalog.acknowledged()
    present: dict[str, int] = {}
    for backup in sorted(earlier, reverse=True):
        try:
            manifest = catalog.manifest(earlier[backup])
        except (BackupError, RefusedError) as error:
            _log.warning("earlier backup not used", action="backup", backup=backup, error=error.message)
            continue
        head = manifest.head
        if head.key_id != (vault.key.id if vault.key else None):
            continue
        # Ids of rows, and the versions of rows, mean the same in one epoch of one deployment.
        if (head.deployment, head.epoch) != (position.deployment, position.epoch):
            continue
        present = present or _present(vault)
        good = {o.name for o in head.objects if o.name not in given_up and present.get(o.name) == o.size}
        vault.trust(o for o in head.objects if o.name in good)
        return tuple(each for each in manifest.collections if all(o.name in good for o in each.objects()))
    return ()


def _present(vault: Vault) -> dict[str, int]:
    return vault.target.names("packs") | vault.target.names("ledger")


def _require_objects(vault: Vault, objects: dict[str, StoredObject]) -> None:
    present = _present(vault)
    gone = [name for name, each in objects.items() if present.get(name) != each.size]
    if gone:
        raise BackupError(
            f"{len(gone)} objects of the backup, {gone[0]} among them, went from {vault.url} while it was made",
            hint="see who deletes there, then run the same command again",
            target=vault.url,
        )


def _wanted(found: Sequence[Collection], names: Sequence[str]) -> list[Collection]:
    unknown = sorted(set(names) - {each.name for each in found})
    if unknown:
        raise CollectionNotFoundError(
            f"no collection named {unknown[0]!r}", hint="'ragstore status' lists the collections", name=unknown[0]
        )
    return [each for each in found if not names or each.name in names]


class _Create:
    """Stores one collection."""

    def __init__(
        self,
        snapshot: Dump,
        vault: Vault,
        collection: Collection,
        base: Sequence[CollectionBackup],
        begun: float,
        tell: Listener | None,
    ) -> None:
        self._snapshot = snapshot
        self._vault = vault
        self._collection = collection
        self._base = next((b for b in base if b.collection_id == collection.collection_id), None)
        self._begun = begun
        self._tell = tell
        self._packs: list[Pack] = []
        self._lock = threading.Lock()
        self._n_done = 0

    def run(self) -> CollectionBackup:
        collection, snapshot = self._collection, self._snapshot
        if not snapshot.has_table(collection):
            raise MissingTableError(
                f"collection {collection.name!r} has no table", hint="run 'ragstore repair', then make the backup"
            )
        columns = snapshot.row_columns(collection)
        rows = self._store_rows(columns)
        row_objects = tuple(self._vault.put("ledger", part) for part in packed_rows(rows))
        tables = {name: self._store_table(name) for name in LEDGER}
        reached(Failpoint.BACKUP_LEDGER_STORED)
        n_documents, n_bodies = snapshot.counts(collection)
        return CollectionBackup(
            name=collection.name,
            collection_id=collection.collection_id,
            settings=snapshot.settings(collection),
            n_documents=n_documents,
            n_nodes=len(rows) + n_bodies,
            columns=columns,
            packs=tuple(self._packs),
            rows=row_objects,
            tables=tables,
            questions=self._questions(rows),
        )

    # Vector table

    def _store_rows(self, columns: tuple[str, ...]) -> LiveRows:
        """Store the rows that no pack of the earlier backup has; returns all live rows with their packs."""
        versions = self._snapshot.row_versions(self._collection)
        live = np.empty(len(versions), dtype=LIVE_ROW)
        live["id"], live["version"], live["pack"] = versions["id"], versions["version"], -1
        if self._base is not None and self._base.columns == columns:
            self._use_again(self._base, live)
        self._n_done = int((live["pack"] >= 0).sum())
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="ragstore-backup") as threads:
            storing = _Storing(threads)
            writer = PackWriter(lambda pack: storing.add(partial(self._store_pack, pack, self._place(pack, live))))
            for bounds in _gaps(live):
                self._snapshot.copy_rows(self._collection, columns, bounds, writer.take)
            writer.close()
            storing.finish()
        return live

    def _use_again(self, base: CollectionBackup, live: LiveRows) -> None:
        """Give the live rows that the earlier backup has their pack there, unless a pack should be written again."""
        contents = [self._vault.get(each) for each in base.rows]
        old = unpacked_rows(contents, self._vault.url, base.rows)
        at = np.searchsorted(old["id"], live["id"])
        at[at == len(old)] = 0
        same = np.zeros(len(live), dtype=bool)
        if len(old):
            same = (old["id"][at] == live["id"]) & (old["version"][at] == live["version"])
        pack_of = np.where(same, old["pack"][at] if len(old) else -1, -1)
        n_live = np.bincount(pack_of[pack_of >= 0], minlength=len(base.packs))
        kept = _worth_keeping(base.packs, n_live, n_new=int((~same).sum()))
        places = np.full(len(base.packs) + 1, -1, dtype="<i4")
        for place in kept:
            places[place] = len(self._packs)
            self._packs.append(base.packs[place])
        live["pack"] = places[pack_of]

    def _place(self, pack: OpenPack, live: LiveRows) -> int:
        with self._lock:
            place = len(self._packs)
            self._packs.append(Pack(StoredObject("", 0, ""), len(pack.rows)))
        live["pack"][np.searchsorted(live["id"], pack.ids())] = place
        return place

    def _store_pack(self, pack: OpenPack, place: int) -> None:
        stored = self._vault.put("packs", pack.content())
        reached(Failpoint.BACKUP_PACK_STORED)
        with self._lock:
            self._packs[place] = replace(self._packs[place], object=stored)
            self._n_done += len(pack.rows)
            if self._tell is not None:
                self._tell(Progress(self._collection.name, self._n_done, None, time.monotonic() - self._begun))

    # Ledger

    def _store_table(self, table: str) -> TablePart:
        columns = self._snapshot.table_columns(table)
        parts: list[StoredObject] = []
        lines = _Lines(lambda content: parts.append(self._vault.put("ledger", content)))
        n_rows = self._snapshot.copy_table(self._collection, table, columns, lines.take)
        lines.close()
        return TablePart(columns, tuple(parts), n_rows)

    def _questions(self, rows: LiveRows) -> tuple[SampleQuestion, ...]:
        """The last questions and some nodes' own vectors, each with its exact answer."""
        if not len(rows):
            return ()
        spread = np.linspace(0, len(rows) - 1, _N_QUESTIONS // 2, dtype=np.int64)
        vectors = self._snapshot.questions(self._collection, rows["id"][spread].tolist(), _N_QUESTIONS // 2)
        answers = [self._snapshot.nearest(self._collection, vector, _N_HITS) for vector in vectors]
        return tuple(
            SampleQuestion(vector, [node_id for node_id, _ in hits], [distance for _, distance in hits])
            for vector, hits in zip(vectors, answers, strict=True)
        )


class _Storing:
    """Runs of a pool of threads, of which only some are under way at once; an error is raised in the caller."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._under_way: deque[Future[None]] = deque()

    def add(self, work: Callable[[], None]) -> None:
        while len(self._under_way) >= _IN_FLIGHT:
            self._under_way.popleft().result()
        self._under_way.append(self._threads.submit(work))

    def finish(self) -> None:
        while self._under_way:
            self._under_way.popleft().result()


class _Lines:
    """Joins lines into parts."""

    def __init__(self, store: Callable[[bytes], None]) -> None:
        self._store = store
        self._lines: list[bytes] = []
        self._n_bytes = 0

    def take(self, line: bytes) -> None:
        self._lines.append(line)
        self._n_bytes += len(line)
        if self._n_bytes >= _PART_BYTES or zlib.crc32(line) % _CUT_EVERY == 0:
            self.close()

    def close(self) -> None:
        if self._lines:
            self._store(b"".join(self._lines))
            self._lines, self._n_bytes = [], 0


def _gaps(live: LiveRows) -> list[tuple[int, int]]:
    """First and last id of each run of live rows that have no pack yet."""
    lacking = np.flatnonzero(live["pack"] < 0)
    if not len(lacking):
        return []
    runs = np.split(lacking, np.flatnonzero(np.diff(lacking) > 1) + 1)
    return [(int(live["id"][run[0]]), int(live["id"][run[-1]])) for run in runs]


def _worth_keeping(packs: Sequence[Pack], n_live: np.ndarray[Any, Any], *, n_new: int) -> list[int]:
    """Places of the packs to use again.

    Not one of which most rows were deleted. Not the last small ones while they have no more rows than what is new: so
    small packs become larger ones, and each row is stored a few times at most.
    """
    kept = [p for p, pack in enumerate(packs) if n_live[p] and n_live[p] >= _MIN_LIVE_SHARE * pack.n_rows]
    while n_new and kept and packs[kept[-1]].object.size < _SMALL_PACK_BYTES and n_live[kept[-1]] <= n_new:
        n_new += int(n_live[kept.pop()])
    return kept
