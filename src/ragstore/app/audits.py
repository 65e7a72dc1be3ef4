"""What the opened store can compare, mend and bring together of its two databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ragstore.app.addresses import Addresses
from ragstore.app.models import Models
from ragstore.model.collection import Collection
from ragstore.postgres import collections
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings

if TYPE_CHECKING:
    from ragstore.model.drift import AuditProgress, ReconcileReport, RepairReport, VerifyReport


class Audits:
    """The part of the opened store that verifies, repairs and reconciles."""

    settings: Settings
    _addresses: Addresses
    _pool: PostgresPool
    _models: Models

    def verify(
        self,
        collection: str | None = None,
        *,
        deep: bool = False,
        progress: Callable[[AuditProgress], None] | None = None,
    ) -> VerifyReport:
        """Compare both stores with the ledger; changes nothing, and is right also while workers run.

        Args:
            collection: only this one; all where none is named.
            deep: compare texts, metadata and vectors too, not only which nodes there are.

        Raises:
            EmptyStoreError: MongoDB belongs to another PostgreSQL database.
            CollectionNotFoundError, StoreError
        """
        from ragstore.app.health import opened_for_audit
        from ragstore.audit.verify import verify

        wanted = self._audited(collection)
        with opened_for_audit(self.settings, self._addresses) as audited:
            return verify(
                audited.pool, audited.database, wanted, deep=deep, everything=collection is None, tell=progress
            )

    def repair(
        self,
        collection: str | None = None,
        *,
        dry_run: bool = False,
        set_aside: bool = False,
        progress: Callable[[AuditProgress], None] | None = None,
    ) -> RepairReport:
        """Remove the drift that ``verify(deep=True)`` finds; what cannot be proved garbage is kept and reported.

        Args:
            collection: only this one; all where none is named.
            dry_run: say what would be done, and change nothing.
            set_aside: move what would be kept to a place in MongoDB where nothing reads it; the report names it.

        Raises:
            EmptyStoreError: MongoDB belongs to another PostgreSQL database.
            RestoredStoreError: one store was restored to another moment than the other.
            RefusedError: another repair is at work.
            ModelError: vectors must be computed and the model cannot be used; what was done by then stays.
            CollectionNotFoundError, StoreError
        """
        from ragstore.app.health import opened_for_audit, repairing
        from ragstore.audit.repair import RepairOptions, repair

        wanted = self._audited(collection)
        of, min_nodes = self._models.of, self.settings.index_min_nodes
        with opened_for_audit(self.settings, self._addresses) as audited:
            aside = audited.aside(dry_run=dry_run) if set_aside else None
            options = RepairOptions(of, min_nodes, set_aside=aside, whole=collection is None)
            if dry_run:
                audited.watch.check()
                return repair(audited.pool, audited.database, wanted, options, None, progress)
            with repairing(audited) as (repairer, registered):
                options = replace(options, registered=registered)
                return repair(audited.pool, audited.database, wanted, options, repairer, progress)

    def reconcile(
        self, *, dry_run: bool = False, progress: Callable[[AuditProgress], None] | None = None
    ) -> ReconcileReport:
        """After one of the stores was restored to another moment: bring MongoDB to PostgreSQL's state.

        What only MongoDB has is moved where nothing reads it, as the report names it. Writers that began before it are
        refused with EpochEndedError, all others until it has ended. Where neither was restored, nothing is done.

        Args:
            dry_run: say what would be done, and change nothing.

        Raises:
            EmptyStoreError: MongoDB belongs to another PostgreSQL database.
            RefusedError, StoreError: a repair or another reconcile is at work, or a database away.
        """
        from ragstore.app.health import opened_for_audit, reconcile
        from ragstore.audit.repair import RepairOptions

        of, min_nodes = self._models.of, self.settings.index_min_nodes
        with opened_for_audit(self.settings, self._addresses) as audited:
            options = RepairOptions(of, min_nodes, set_aside=audited.aside(dry_run=dry_run), by_postgres=True)
            return reconcile(audited, lambda: self._audited(None), options, dry_run=dry_run, tell=progress)

    def _audited(self, name: str | None) -> list[tuple[Collection, int]]:
        """The collection of that name, or all, each with the ledger's count of its nodes."""
        wanted = None if name is None else collections.get_collection(self._pool, name).name
        return [
            (collections.get_collection(self._pool, summary.name), summary.nodes)
            for summary in collections.list_collections(self._pool)
            if wanted in (None, summary.name)
        ]
