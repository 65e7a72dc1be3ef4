"""What the ledger remembers of the past: events, and documents set aside in quarantine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from ragstore.errors import Retry


@dataclass(frozen=True, slots=True)
class Event:
    """One row of ``ragstore.event``: who did what to a document, and when by the database's clock.

    Args:
        document_id: None where the event concerns the whole collection.
        n_nodes: nodes of the new revision; ``n_embedded + n_reused`` of them have a vector.
    """

    event_id: int
    at: datetime
    worker: str
    document_id: str | None
    revision: int | None
    action: str
    run_id: str | None = None
    n_nodes: int | None = None
    n_embedded: int | None = None
    n_reused: int | None = None
    detail: dict[str, Any] | None = field(default=None)

    def as_dict(self) -> dict[str, Any]:
        """The shape ``history --json`` prints, times in ISO 8601."""
        return asdict(self) | {"at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One row of ``ragstore.quarantine``: a document set aside, with the reason.

    Args:
        code: the error's stable code, e.g. ``content.parse``.
        attempts: how often it was tried, at least 1.
    """

    document_id: str
    source_uri: str
    code: str
    reason: str
    hint: str
    retry: Retry
    attempts: int
    first_at: datetime
    last_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """The shape ``quarantine list --json`` prints, times in ISO 8601."""
        times = {"first_at": self.first_at.isoformat(), "last_at": self.last_at.isoformat()}
        return asdict(self) | times
