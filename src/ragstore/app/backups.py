"""Backups of the databases of the settings: create, and what needs only a target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ragstore.app.migrations import check_deployment, check_or_apply, migrate_mongo
from ragstore.app.store import Ragstore
from ragstore.app.wiring import Addresses, mongo_database, postgres_pool, reachable
from ragstore.backup import restore as restoring
from ragstore.backup import upkeep
from ragstore.backup.create import Versions
from ragstore.backup.create import create as create_backup
from ragstore.backup.targets import open_target
from ragstore.backup.vault import Key, Vault
from ragstore.migrate.versions import head
from ragstore.model.backup import BackupReport, Head, Loss, PruneReport, RestoreReport, TargetReport
from ragstore.model.report import Listener
from ragstore.mongo.nodes import NodeStore
from ragstore.postgres.collections import get_collection
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.rebuild import exclusive_repair
from ragstore.protocol.epoch import EpochWatch
from ragstore.protocol.recover import Recoverer, this_worker
from ragstore.protocol.restore import Restorer
from ragstore.settings import Settings

_CONNECTIONS = 6
"""For two loads, their looks, the lock of repairs, and a recovery at the same time."""


def open_vault(target: str, key: Path | None) -> Vault:
    """The target at a path or URL, with the keys of a key file.

    Raises:
        UsageError: the key file cannot be used, or the URL.
    """
    return Vault(open_target(target), Key.read(key) if key is not None else None)


def create(
    settings: Settings,
    target: str,
    *,
    collections: Sequence[str] = (),
    key: Path | None = None,
    starting: Callable[[], None] | None = None,
    progress: Listener | None = None,
) -> BackupReport:
    """Store a backup of these collections, or of all; see ``backup.create``."""
    vault = open_vault(target, key)
    with opened(settings, reachable(settings, starting=starting)) as pool:
        versions = Versions(version("ragstore"), head("postgres"), head("mongo"))
        return create_backup(pool, vault, versions, collections, progress)


def list_backups(target: str) -> tuple[list[Head], list[Loss]]:
    """All backups of a target, oldest first, and manifests that are lost."""
    return upkeep.list_backups(open_vault(target, None))


def verify(
    target: str,
    *,
    key: Path | None = None,
    backup: str | None = None,
    acknowledge: Sequence[str] = (),
    progress: Listener | None = None,
) -> TargetReport:
    """Read every byte of a target; see ``upkeep.verify_target``."""
    return upkeep.verify_target(open_vault(target, key), wanted=backup, acknowledge=acknowledge, tell=progress)


def prune(target: str, keep: str, *, dry_run: bool = False) -> PruneReport:
    """Delete backups that are not to be kept; see ``upkeep.prune``."""
    return upkeep.prune(open_vault(target, None), upkeep.Keep.parse(keep), dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be restored, and how.

    Args:
        backup: id, or its beginning; None for the newest.
        collections: only these; all if both this and ``renamed`` are empty.
        renamed: ``OLD=NEW``, or ``NEW`` where the backup has one collection.
        replace: give up collections that have the names; they stay until the others are complete.
    """

    backup: str | None = None
    collections: Sequence[str] = ()
    renamed: Sequence[str] = ()
    replace: bool = False


def restore(
    settings: Settings,
    target: str,
    wanted: Wanted | None = None,
    *,
    key: Path | None = None,
    starting: Callable[[], None] | None = None,
    progress: Listener | None = None,
) -> RestoreReport:
    """Restore collections of a backup into the databases of the settings, and check both stores at the end.

    Raises:
        RefusedError: a collection of such a name exists, or the backup is of a newer schema; nothing was changed.
        BackupLostError: a part is missing or damaged; nothing was restored.
        NotFoundError, UsageError, BackupError, StoreError

    Crash safety:
        The same call goes on where a killed one stopped. Nothing of a collection can be read before all of it can.
    """
    begun = time.monotonic()
    wanted = wanted or Wanted()
    vault, manifest = restoring.manifest_of(open_vault(target, key), wanted.backup)
    restoring.require_restorable(manifest, head("postgres"))
    names = restoring.wanted_names(manifest, wanted.collections, restoring.parse_names(wanted.renamed, manifest))
    addresses = reachable(settings, starting=starting)
    report = RestoreReport(manifest.head.id, vault.url, manifest.head.made_at, dict(names))
    chosen = [each for each in manifest.collections if each.name in names]
    report.documents, report.nodes = sum(c.n_documents for c in chosen), sum(c.n_nodes for c in chosen)
    with opened(settings, addresses, size=_CONNECTIONS) as pool, mongo_database(settings, addresses) as mongo:
        with exclusive_repair(pool):
            check_deployment(mongo, pool)
            migrate_mongo(mongo)
            restorer = Restorer(pool, mongo, worker=this_worker())
            loading = restoring.Load(pool, vault, manifest, names, progress)
            if not (loading.is_done() and EpochWatch(pool, mongo).find()):
                # What is due in MongoDB is done before; the rest of the outbox ends with the epoch.
                if EpochWatch(pool, mongo).find() is None:
                    Recoverer(pool, Ledger(pool), NodeStore(mongo), grace_s=settings.grace_s).recover()
                done = loading.run(restorer, report, replace=wanted.replace)
                report.replaced, report.notes = done.replaced, [*report.notes, *done.notes]
            for name in names.values():
                restorer.fill(get_collection(pool, name))
        _finish(settings, addresses, report, begun, progress)
    report.seconds = time.monotonic() - begun
    return report


def _finish(
    settings: Settings, addresses: Addresses, report: RestoreReport, begun: float, progress: Listener | None
) -> None:
    """Build the segments, bring MongoDB into the epoch, and compare both stores deeply."""
    with Ragstore(settings, addresses, postgres_pool(settings, addresses, size=settings.pool_size)) as store:
        reconciled = store.reconcile(progress=progress)
        report.epoch = reconciled.epoch
        report.notes += [f"set aside in MongoDB: {place}" for place in reconciled.repair.places]
        store.upkeep(is_last=True).go_round()
        report.seconds_ready = time.monotonic() - begun
        report.drift = dict(store.verify(deep=True, progress=progress).drift.counts)


@contextmanager
def opened(settings: Settings, addresses: Addresses, *, size: int = 1) -> Iterator[PostgresPool]:
    """PostgreSQL with the schema of this program, for the length of the block."""
    pool = postgres_pool(settings, addresses, size=size)
    try:
        check_or_apply(settings, addresses, pool)
        yield pool
    finally:
        pool.close()
