"""Upkeep of a target: list, verify and prune; none of them needs a database."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ragstore.backup.catalog import OBJECT_FOLDERS, Catalog
from ragstore.backup.vault import Vault
from ragstore.errors import BackupLostError, RefusedError, UsageError
from ragstore.model.backup import Head, Loss, PruneReport, StoredObject, TargetReport
from ragstore.model.report import Listener, Progress

_MAKING_S = 24 * 3600.0
"""A backup that was announced this long ago and is not there was killed."""


def list_backups(vault: Vault) -> tuple[list[Head], list[Loss]]:
    """The heads of all backups, oldest first, and the manifests that cannot be read or are missing."""
    catalog = Catalog(vault)
    heads, losses = _heads(catalog)
    return list(heads.values()), losses


def verify_target(
    vault: Vault, *, wanted: str | None = None, acknowledge: Sequence[str] = (), tell: Listener | None = None
) -> TargetReport:
    """Read every byte of every backup and compare it with what was stored; changes nothing.

    Args:
        wanted: only this backup; its beginning is enough.
        acknowledge: names of objects that are known to be lost from now on.

    Raises:
        BackupError: the target cannot be read.
        NotFoundError: there is no such backup.
    """
    begun = time.monotonic()
    catalog = Catalog(vault)
    if acknowledge:
        catalog.note("acknowledged", {"names": list(acknowledge)})
    known = catalog.acknowledged()
    heads, losses = _heads(catalog)
    if wanted is not None:
        chosen = catalog.head(catalog.chosen(wanted))
        heads, losses = {chosen.id: chosen}, []
    check = _Check(vault, catalog, heads, begun, tell)
    losses += check.losses()
    damaged = {backup for loss in losses for backup in loss.backups}
    present = {name for folder in OBJECT_FOLDERS for name in vault.target.names(folder)}
    referenced = {o.name for head in heads.values() for o in head.objects}
    return TargetReport(
        target=vault.url,
        backups=list(heads),
        whole=[backup for backup in heads if backup not in damaged],
        losses=[Loss(loss.name, loss.what, loss.backups, loss.name in known) for loss in losses],
        objects=len(referenced),
        bytes=check.n_bytes,
        unreferenced=len(present - referenced) if wanted is None else 0,
        content_checked=check.content_checked,
        seconds=time.monotonic() - begun,
    )


def _heads(catalog: Catalog) -> tuple[dict[str, Head], list[Loss]]:
    """Readable heads by id, and losses: manifests that are damaged, or that a later one names and that are gone."""
    heads: dict[str, Head] = {}
    losses: list[Loss] = []
    names = catalog.names()
    for backup, name in names.items():
        try:
            heads[backup] = catalog.head(name)
        except BackupLostError as error:
            losses.append(Loss(name, error.facts["what"], [backup]))
    pruned = catalog.pruned()
    earlier = {each for head in heads.values() for each in head.earlier}
    losses += [
        Loss(f"backups/{each}", "missing: a later backup saw it, and no prune deleted it", [each])
        for each in sorted(earlier - names.keys() - pruned)
    ]
    return heads, losses


class _Check:
    """Reads the objects of all backups, each once."""

    def __init__(
        self, vault: Vault, catalog: Catalog, heads: dict[str, Head], begun: float, tell: Listener | None
    ) -> None:
        self._vault = vault
        self._catalog = catalog
        self._heads = heads
        self._begun = begun
        self._tell = tell
        self.n_bytes = 0
        self.content_checked = True

    def losses(self) -> list[Loss]:
        needed: dict[StoredObject, list[str]] = defaultdict(list)
        opened: dict[StoredObject, Vault | None] = {}
        found: list[Loss] = []
        names = self._catalog.names()
        key_id = self._vault.key.id if self._vault.key else None
        for backup, head in self._heads.items():
            can_open = head.key_id in (None, key_id)
            self.content_checked = self.content_checked and can_open
            if can_open:
                try:
                    self._catalog.manifest(names[backup])
                except BackupLostError as error:
                    found.append(Loss(names[backup], error.facts["what"], [backup]))
            for each in head.objects:
                needed[each].append(backup)
                opened[each] = self._vault.reading(head.key_id) if can_open else None
        for place, (each, backups) in enumerate(needed.items()):
            try:
                # With the key also what is in it; without, whether its bytes are those that were stored.
                vault = opened[each]
                _ = self._vault.read(each) if vault is None else vault.get(each)
            except BackupLostError as error:
                found.append(Loss(each.name, error.facts["what"], backups))
            self.n_bytes += each.size
            if self._tell is not None:
                self._tell(Progress("objects", place + 1, len(needed), time.monotonic() - self._begun))
        return found


@dataclass(frozen=True, slots=True)
class Keep:
    """Which backups a prune keeps: the last ones, and the last of each of the last days and weeks.

    The newest backup is always kept.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0

    @classmethod
    def parse(cls, text: str) -> Keep:
        """``7``, ``last=3,daily=14,weekly=8``.

        Raises:
            UsageError
        """
        if text.strip().isdigit():
            text = f"last={text.strip()}"
        found: dict[str, int] = {}
        for part in text.split(","):
            name, _, number = part.strip().partition("=")
            if name not in cls.__slots__ or not number.strip().isdigit():
                raise UsageError(
                    f"{part!r} does not say which backups to keep",
                    hint="say --keep 7, or --keep last=3,daily=14,weekly=8",
                    in_python="give 7, or last=3,daily=14,weekly=8",
                )
            found[name] = int(number)
        if not any(found.values()):
            raise UsageError(
                "nothing would be kept", hint="say how many to keep, such as --keep 7", in_python="say how many to keep"
            )
        return cls(**found)

    def chosen(self, made: dict[str, datetime]) -> set[str]:
        """The ids to keep among backups with these times."""
        newest_first = sorted(made, key=lambda backup: (made[backup], backup), reverse=True)
        kept = set(newest_first[: max(1, self.last)])
        for n, period in ((self.daily, _day), (self.weekly, _week)):
            periods: dict[object, str] = {}
            for backup in newest_first:
                periods.setdefault(period(made[backup]), backup)
            kept.update(list(periods.values())[:n])
        return kept


def _day(at: datetime) -> object:
    return at.date()


def _week(at: datetime) -> object:
    return at.date() - timedelta(days=at.weekday())


def prune(vault: Vault, keep: Keep, *, dry_run: bool = False) -> PruneReport:
    """Delete backups that are not to be kept, and objects that no backup needs; nothing else in ragstore deletes there.

    Raises:
        RefusedError: a manifest is damaged, so that nobody knows which objects it needs.
        BackupError: the target cannot be written.

    Crash safety:
        What is deleted is noted first, then go the manifests, then objects that none needs. A killed prune is run
        again.
    """
    catalog = Catalog(vault)
    heads, losses = _heads(catalog)
    unknown = [loss for loss in losses if loss.name not in catalog.acknowledged()]
    if unknown:
        raise RefusedError(
            f"{unknown[0].name} in {vault.url} is {unknown[0].what}: nobody knows which objects it needs",
            hint=f"see 'ragstore backup verify {vault.url}'; "
            f"'ragstore backup verify {vault.url} --acknowledge {unknown[0].name}' says that it is given up",
            in_python="verify(target) shows it; verify(target, acknowledge=[name]) says that it is given up",
            target=vault.url,
        )
    kept = keep.chosen({backup: datetime.fromisoformat(head.made_at) for backup, head in heads.items()})
    report = PruneReport(vault.url, sorted(kept), sorted(heads.keys() - kept), dry_run=dry_run)
    if dry_run:
        _count_unneeded(vault, [heads[backup] for backup in kept], report)
        return report
    announcement = catalog.announce("prune")
    try:
        _delete(vault, catalog, heads, report)
    finally:
        catalog.withdraw(announcement)
    return report


def _delete(vault: Vault, catalog: Catalog, heads: dict[str, Head], report: PruneReport) -> None:
    if report.deleted:
        catalog.note("pruned", {"backups": report.deleted, "claims": [heads[each].claim for each in report.deleted]})
        names = catalog.names()
        for backup in report.deleted:
            vault.target.delete(names[backup])
    # After the announcement and the manifests: a backup that begins from here on sees both, one that began before is
    # seen here.
    left, _ = _heads(catalog)
    ended = {head.claim for head in left.values()} | {
        claim for note in catalog.notes("pruned") for claim in note["claims"]
    }
    for name, age_s in catalog.announced("create"):
        if name not in ended and age_s < _MAKING_S:
            report.blocked_by = name
            return
        vault.target.delete(name)
    for name in _count_unneeded(vault, list(left.values()), report):
        vault.target.delete(name)


def _count_unneeded(vault: Vault, heads: Sequence[Head], report: PruneReport) -> list[str]:
    needed = {o.name for head in heads for o in head.objects}
    present = {name: size for folder in OBJECT_FOLDERS for name, size in vault.target.names(folder).items()}
    unneeded = {name: size for name, size in present.items() if name not in needed}
    report.objects_deleted, report.bytes_deleted = len(unneeded), sum(unneeded.values())
    return list(unneeded)
