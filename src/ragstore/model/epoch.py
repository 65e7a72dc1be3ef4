"""Epochs and marks, on which both stores agree unless one was restored to another moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Store = Literal["PostgreSQL", "MongoDB"]


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Mark of an outbox row that is, or was, carried out.

    Args:
        number: number of the row; 0 before the first row.
        token: unique for the row, because after a restore another row may get the same number.
    """

    number: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class StorePosition:
    """Position of a store: its epoch, and the newest mark in that epoch."""

    epoch: int = 1
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True, slots=True)
class Restored:
    """Finding that one store was restored to another moment than the other."""

    store: Store
    reason: str
    postgres: StorePosition
    mongo: StorePosition

    @property
    def message(self) -> str:
        """One line, lower-case except for names."""
        return f"{self.store} was restored to another moment: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Facts for errors and reports."""
        return {"restored": self.store, "postgres_epoch": self.postgres.epoch, "mongo_epoch": self.mongo.epoch}


def find_restored(postgres: StorePosition, mongo: StorePosition, knows: Callable[[Mark], bool]) -> Restored | None:
    """Find out which store was restored; None if neither was.

    A row's mark is written to MongoDB before any change that the row asks for, and PostgreSQL records the mark in the
    transaction that deletes the row. So for every mark in MongoDB, PostgreSQL has a waiting row or a record.

    Args:
        postgres: must be read before ``mongo``.
        knows: whether PostgreSQL, asked now, has the row of a mark, or has recorded this mark or a later one.
    """
    if mongo.epoch > postgres.epoch:
        reason = f"it is in epoch {postgres.epoch}, MongoDB in epoch {mongo.epoch}"
        return Restored("PostgreSQL", reason, postgres, mongo)
    if mongo.epoch < postgres.epoch:
        reason = f"it is in epoch {mongo.epoch}, PostgreSQL in epoch {postgres.epoch}; or a reconcile did not end"
        return Restored("MongoDB", reason, postgres, mongo)
    if mongo.mark.number < postgres.mark.number:
        reason = f"it ends at mark {mongo.mark.number}, PostgreSQL has seen it at {postgres.mark.number}"
        return Restored("MongoDB", reason, postgres, mongo)
    if not knows(mongo.mark):
        reason = f"MongoDB has seen its change {mongo.mark.number}, which it does not know"
        return Restored("PostgreSQL", reason, postgres, mongo)
    return None
