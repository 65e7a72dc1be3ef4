"""Restore: a backup is loaded into tables that nothing reads, then made live at once.

Whatever is damaged is found while it is loaded, and then nothing is made live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import numpy as np

from ragstore.backup.catalog import Catalog
from ragstore.backup.packs import LiveRows, live_part, unpacked_rows
from ragstore.backup.targets import lost
from ragstore.backup.vault import Vault
from ragstore.errors import BackupLostError, RefusedError, UsageError
from ragstore.model.backup import CollectionBackup, Manifest, RestoreReport, TablePart
from ragstore.model.collection import checked_name
from ragstore.model.report import Listener, Progress
from ragstore.postgres import load
from ragstore.postgres.collections import find_collection
from ragstore.postgres.dump import LEDGER
from ragstore.postgres.load import Loading
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.restore import LedgerRows, Restorer, Switched
from ragstore.telemetry.failpoint import Failpoint, reached

_LOADERS = 2

Ids = np.ndarray[Any, Any]


def parse_names(renamed: Sequence[str], manifest: Manifest) -> dict[str, str]:
    """``OLD=NEW`` or, where the backup has one collection, ``NEW``; by old name.

    Raises:
        UsageError
    """
    found: dict[str, str] = {}
    known = [each.name for each in manifest.collections]
    for each in renamed:
        old, is_pair, new = each.partition("=")
        if not is_pair:
            if len(known) != 1:
                raise UsageError(
                    f"{each!r} does not say which of {len(known)} collections gets this name",
                    hint=f"say --as OLD={each}; the backup has {', '.join(known)}",
                    in_python=f"say OLD={each}; the backup has {', '.join(known)}",
                )
            old, new = known[0], each
        found[old] = checked_name(new)
    return found


def wanted_names(manifest: Manifest, collections: Sequence[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Name in the backup → name in the databases, of all that is to be restored.

    Raises:
        UsageError: the backup has no such collection, or two would get one name.
    """
    known = [each.name for each in manifest.collections]
    chosen = list(dict.fromkeys([*collections, *renamed])) or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise UsageError(
            f"backup {manifest.head.id} has no collection {unknown[0]!r}", hint=f"it has {', '.join(known) or 'none'}"
        )
    found = {name: renamed.get(name, name) for name in chosen}
    if len(set(found.values())) < len(found):
        raise UsageError(
            "two collections would get the same name",
            hint="give each its own with --as OLD=NEW",
            in_python="give each its own name",
        )
    return found


def require_restorable(manifest: Manifest, postgres_schema: str) -> None:
    """Refuse a backup of a newer schema.

    Raises:
        RefusedError
    """
    if manifest.head.postgres_schema > postgres_schema:
        raise RefusedError(
            f"backup {manifest.head.id} is of PostgreSQL schema {manifest.head.postgres_schema}, "
            f"this program works with {postgres_schema}",
            hint=f"restore it with ragstore {manifest.head.program} or newer",
            backup=manifest.head.id,
        )


def manifest_of(vault: Vault, backup: str | None) -> tuple[Vault, Manifest]:
    """The manifest of a backup, and the vault that reads its objects.

    Raises:
        NotFoundError, BackupError
    """
    catalog = Catalog(vault)
    manifest = catalog.manifest(catalog.chosen(backup))
    return vault.reading(manifest.head.key_id), manifest


class Load:
    """Loads the collections of a backup.

    Args:
        names: name in the backup → name in the databases.
    """

    def __init__(
        self, pool: PostgresPool, vault: Vault, manifest: Manifest, names: Mapping[str, str], tell: Listener | None
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._manifest = manifest
        self._names = names
        self._tell = tell
        self._begun = monotonic()
        self._n_done = 0

    def is_done(self) -> bool:
        """Whether a restore of this backup made these collections live, and was killed before MongoDB was ready."""
        for name in self._names.values():
            found = find_collection(self._pool, name)
            noted = load.restored_from(self._pool, name)
            if found is None or noted.get("backup") != self._manifest.head.id:
                return False
            if noted.get("collection_id") != found.collection_id:
                return False
        return True

    def run(self, restorer: Restorer, report: RestoreReport, *, replace: bool) -> Switched:
        """Load everything, then make it live.

        Raises:
            BackupLostError: a part is missing or damaged; nothing was made live.
            RefusedError: a collection of such a name exists.
            StoreError

        Crash safety:
            Each pack is one transaction, in a table that nothing reads; the same restore, run again, goes on. See
            ``Restorer.switch`` for the rest.
        """
        if not replace:
            load.require_free(self._pool, self._names.values())
        load.require_owner(self._pool)
        backups = [each for each in self._manifest.collections if each.name in self._names]
        tokens = {each.name: self._token(each) for each in backups}
        load.abandon(self._pool, load.loading_names(self._pool) - set(tokens.values()))
        self._note_unknown(backups, report)
        try:
            loaded = [(self._load(each, tokens[each.name]), self._ledger(each)) for each in backups]
            report.seconds_load = monotonic() - self._begun
            detail = {
                "backup": self._manifest.head.id,
                "target": self._vault.url,
                "made_at": self._manifest.head.made_at,
            }
            return restorer.switch(loaded, detail, stamp=self._manifest.head.stamp, replace=replace)
        except BackupLostError:
            with suppress(Exception):  # the loss is what must be told
                load.abandon(self._pool, tokens.values())
            raise

    def _token(self, backup: CollectionBackup) -> str:
        return load.token_of(self._manifest.head.id, backup.name, self._names[backup.name])

    def _note_unknown(self, backups: Iterable[CollectionBackup], report: RestoreReport) -> None:
        for each in backups:
            for name in load.unknown_settings(self._pool, each.settings):
                report.notes.append(f"setting of an older schema left out: {name} of {each.name}")

    # Vector table

    def _load(self, backup: CollectionBackup, token: str) -> Loading:
        loading = load.make_table(self._pool, self._names[backup.name], backup.settings, token)
        reached(Failpoint.RESTORE_TABLE_MADE)
        contents = [self._vault.get(each) for each in backup.rows]
        rows = unpacked_rows(contents, self._vault.url, backup.rows)
        with ThreadPoolExecutor(_LOADERS, thread_name_prefix="ragstore-restore") as threads:
            try:
                for n in threads.map(partial(self._load_pack, backup, loading), self._live_by_pack(backup, rows)):
                    self._n_done += n
                    self._say(backup.name)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        if load.count_rows(self._pool, loading) != len(rows):
            raise lost(self._vault.url, backup.name, "damaged: it lacks rows")
        load.build_indexes(self._pool, loading)
        reached(Failpoint.RESTORE_INDEXED)
        return loading

    def _live_by_pack(self, backup: CollectionBackup, rows: LiveRows) -> Iterator[tuple[int, Ids]]:
        order = np.argsort(rows["pack"], kind="stable")
        of_packs = rows["pack"][order]
        if len(rows) and (of_packs[0] < 0 or of_packs[-1] >= len(backup.packs)):
            raise lost(self._vault.url, backup.name, "damaged: rows are in no pack")
        for place in range(len(backup.packs)):
            begin, end = np.searchsorted(of_packs, [place, place + 1])
            if end > begin:
                yield place, rows["id"][order[begin:end]]

    def _load_pack(self, backup: CollectionBackup, loading: Loading, part: tuple[int, Ids]) -> int:
        place, live_ids = part
        if load.has_row(self._pool, loading, int(live_ids[0])):
            return len(live_ids)
        stored = backup.packs[place].object
        pieces, n_rows = live_part(self._vault.get(stored), live_ids, self._vault.url, stored.name)
        load.copy_rows(self._pool, loading, backup.columns, pieces)
        reached(Failpoint.RESTORE_PACK_LOADED)
        return n_rows

    # Ledger

    def _ledger(self, backup: CollectionBackup) -> LedgerRows:
        """The ledger's rows, which the transaction loads that makes the collection live; all are checked before."""
        found = {name: backup.tables[name] for name in LEDGER if name in backup.tables}
        ledger = {name: (table.columns, _Lines(self._vault, table)) for name, table in found.items()}
        for _, lines in ledger.values():
            for _ in lines:
                pass
        return ledger

    def _say(self, name: str) -> None:
        if self._tell is not None:
            self._tell(Progress(name, self._n_done, self._manifest.head.n_nodes, monotonic() - self._begun))


class _Lines:
    """The rows of a ledger table, read part by part whenever they are iterated."""

    def __init__(self, vault: Vault, table: TablePart) -> None:
        self._vault = vault
        self._table = table

    def __iter__(self) -> Iterator[bytes]:
        n_rows = 0
        for each in self._table.parts:
            content = self._vault.get(each)
            n_rows += content.count(b"\n")
            yield content
        if n_rows != self._table.n_rows:
            raise lost(self._vault.url, "a ledger table", "damaged: it lacks rows")
