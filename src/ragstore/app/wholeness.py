"""Whether the stores hold what they should, as far as a quick look shows; ``verify`` looks at every node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ragstore.app.addresses import Addresses, mongo_database, postgres_pool
from ragstore.postgres.documents import missing_tables, read_gauges
from ragstore.settings import Settings


@dataclass(frozen=True, slots=True)
class Wholeness:
    """What a quick look found.

    Args:
        missing_tables: collections whose vector table is gone.
        empty_in_mongo: collections with live nodes of which MongoDB has none.
        pending: changes that must still reach MongoDB.
        overdue_s: for how long the oldest of them has been due.
        quarantined: documents that were set aside, by collection.
    """

    missing_tables: list[str] = field(default_factory=list)
    empty_in_mongo: list[str] = field(default_factory=list)
    pending: int = 0
    overdue_s: float = 0.0
    quarantined: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost; what is pending or in quarantine is not."""
        return not (self.missing_tables or self.empty_in_mongo)

    def as_dict(self) -> dict[str, Any]:
        """The shape ``status --json`` prints."""
        return {
            "ok": self.ok,
            "missing_tables": self.missing_tables,
            "empty_in_mongo": self.empty_in_mongo,
            "pending": self.pending,
            "overdue_s": round(self.overdue_s, 1),
            "quarantined": self.quarantined,
        }


def look(settings: Settings, addresses: Addresses) -> Wholeness:
    """Look at both stores; costs the same however much they hold, but for the counts of the ledger.

    Raises:
        StoreError
    """
    from ragstore.mongo.nodes import has_nodes

    pool = postgres_pool(settings, addresses)
    try:
        gauges, missing = read_gauges(pool), missing_tables(pool)
    finally:
        pool.close()
    filled = [each.name for each in gauges.collections if each.n_nodes]
    with mongo_database(settings, addresses) as mongo:
        empty = [name for name in filled if not has_nodes(mongo, name)]
    quarantined = {each.name: each.n_quarantined for each in gauges.collections if each.n_quarantined}
    return Wholeness(missing, empty, gauges.n_outbox, gauges.oldest_due_s, quarantined)
