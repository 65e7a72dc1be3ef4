"""Drift between ledger and stores: its kinds, findings, and the reports of verify, repair and reconcile."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ragstore.model.collection import Found
from ragstore.model.report import Findings


class Kind(StrEnum):
    """Kinds of drift."""

    MISSING_IN_MONGO = "missing_in_mongo"
    ORPHAN_IN_MONGO = "orphans_in_mongo"
    MISSING_IN_POSTGRES = "missing_in_postgres"
    ALTERED_IN_MONGO = "altered_in_mongo"
    DOUBLED_ROW = "doubled_rows"
    UNREADABLE_ROW = "unreadable_rows"
    UNUSABLE_VECTOR = "unusable_vectors"
    MISSING_IN_LEDGER = "missing_in_ledger"
    WRONG_COUNT = "wrong_counts"
    STALE_ENTRY = "stale_entries"
    INVALID_INDEX = "invalid_indexes"
    LARGE_STRUCT = "large_index_structs"
    STALE_STRUCT = "stale_index_structs"
    MISSING_TABLE = "missing_tables"
    MISSING_REGISTRY = "missing_registry"
    RESTORED_STORE = "restored_stores"
    LEFT_OVER_NAMESPACE = "left_over_namespaces"


_OWN_COUNT = (Kind.MISSING_IN_MONGO, Kind.ORPHAN_IN_MONGO, Kind.MISSING_IN_POSTGRES)


@dataclass(slots=True)
class VerifyReport:
    """Result of verify.

    Args:
        documents: live documents.
        nodes: live nodes, with a vector or without.
        pending: runs in progress and outbox rows; documents and nodes that they name are not drift.
        found: measured recall of each collection with trees in its segments; only a deep verify measures it.
    """

    documents: int = 0
    nodes: int = 0
    pending: int = 0
    drift: Findings = field(default_factory=Findings)
    found: dict[str, Found] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether ledger and stores agree."""
        return not self.drift.counts

    def as_dict(self) -> dict[str, Any]:
        """The shape ``verify --json`` prints; kinds without a count of their own are in ``mismatched``."""
        own = {kind.value: self.drift.counts.get(kind, 0) for kind in _OWN_COUNT}
        return {
            "ok": self.ok,
            "documents": self.documents,
            "nodes": self.nodes,
            **own,
            "mismatched": self.drift.total - sum(own.values()),
            "pending": self.pending,
            "found": {name: asdict(found) for name, found in self.found.items()},
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class RepairReport:
    """Result of repair, or in a dry run what it would do.

    Args:
        repaired: drift that was repaired.
        kept: drift that stays, each example with the reason.
        set_aside: data moved to collections of MongoDB that nothing reads.
        places: names of those collections.
        embedded: vectors that had to be computed; other missing vectors were copied from nodes with equal text.
    """

    dry_run: bool = False
    repaired: Findings = field(default_factory=Findings)
    kept: Findings = field(default_factory=Findings)
    set_aside: Findings = field(default_factory=Findings)
    places: list[str] = field(default_factory=list)
    embedded: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no drift stays, and in a dry run whether there is nothing to do."""
        return not self.kept.counts and not (self.dry_run and (self.repaired.counts or self.set_aside.counts))

    def as_dict(self) -> dict[str, Any]:
        """The shape ``repair --json`` prints."""
        return {
            "ok": self.ok,
            "dry_run": self.dry_run,
            "repaired": self.repaired.as_dict(),
            "kept": self.kept.as_dict(),
            "set_aside": self.set_aside.as_dict(),
            "places": self.places,
            "embedded": self.embedded,
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class ReconcileReport:
    """Result of reconcile, or in a dry run what it would do.

    Args:
        restored: which store was restored, as a sentence; None if neither was, and nothing was done.
        epoch: the current epoch.
        repair: what was changed to PostgreSQL's state, and what was set aside.
    """

    restored: str | None
    epoch: int
    repair: RepairReport

    @property
    def ok(self) -> bool:
        """Whether the stores agree now."""
        return self.repair.ok and not (self.repair.dry_run and self.restored is not None)

    def as_dict(self) -> dict[str, Any]:
        """The shape ``reconcile --json`` prints."""
        return {**self.repair.as_dict(), "ok": self.ok, "restored": self.restored, "epoch": self.epoch}
