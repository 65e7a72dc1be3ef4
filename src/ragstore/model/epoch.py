"""Epochs and marks: what two stores must agree on if neither was restored to another moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Store = Literal["PostgreSQL", "MongoDB"]


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """An outbox row that is being carried out, or was.

    Args:
        number: the row's; 0 before the first one.
        token: of the row alone: after a restore another row may get the same number.
    """

    number: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class StorePosition:
    """How far a store is: its epoch, and the newest mark in it."""

    epoch: int = 1
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True, slots=True)
class Restored:
    """The finding that one store was restored to another moment than the other."""

    store: Store
    reason: str
    postgres: StorePosition
    mongo: StorePosition

    @property
    def message(self) -> str:
        """One line, lower-case but for names."""
        return f"{self.store} was restored to another moment: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Facts for errors and reports."""
        return {"restored": self.store, "postgres_epoch": self.postgres.epoch, "mongo_epoch": self.mongo.epoch}


def find_restored(postgres: StorePosition, mongo: StorePosition, knows: Callable[[Mark], bool]) -> Restored | None:
    """Which store was restored, if one was.

    MongoDB is given a row's mark before anything that the row asks for, and PostgreSQL notes the mark in the
    transaction that deletes the row. So PostgreSQL has a row that waits, or a note, for whatever mark MongoDB shows.

    Args:
        postgres: read before MongoDB was.
        knows: whether PostgreSQL, asked now, has the row of a mark or has noted it or a later one.
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
