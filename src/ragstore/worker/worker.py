"""Worker that keeps a collection equal to its paths, or stands by while another worker does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ragstore.errors import MassDeletionError, StoreError
from ragstore.model.report import Findings, IngestReport
from ragstore.telemetry.logging import get_logger
from ragstore.worker.metrics import Metrics
from ragstore.worker.rounds import RoundResult

STAND_BY_S = 1.0
"""Seconds between two checks of a worker that stands by; it takes over after at most so long."""

MAX_NAMED = 20
"""Most documents named in one line of the log; the audit trail has all, see ``ragstore history``."""

_log = get_logger(__name__)


class Turns(Protocol):
    """The turn among the workers with the same paths."""

    def mine(self) -> bool:
        """Whether it is this process's turn."""


class Worker:
    """One round: take the turn or stand by; at work, one sync.

    Args:
        sync: one pass over the paths; opens the stores when it is first called.
    """

    def __init__(
        self, *, collection: str, turns: Turns, sync: Callable[[], IngestReport], every_s: float, metrics: Metrics
    ) -> None:
        self._collection = collection
        self._turns = turns
        self._sync = sync
        self._every_s = every_s
        self._metrics = metrics
        self._at_work: bool | None = None
        self._n_failed = 0
        self._passed_over: Mapping[str, int] = {}

    def go_round(self) -> RoundResult:
        """Run one round; raises as ``sync`` does."""
        try:
            self._note(self._turns.mine())
        except StoreError:
            self._note(False)
            raise
        if not self._at_work:
            return RoundResult("standing_by", STAND_BY_S)
        try:
            report = self._sync()
        except MassDeletionError as error:
            done = error.facts.get("report")
            if isinstance(done, IngestReport):
                self._tell(done)
            raise
        changed = self._tell(report)
        if report.refused is not None:
            _log.warning(report.refused.message, action="sync_incomplete", hint=report.refused.hint)
        return RoundResult("changed" if changed else "idle", self._every_s)

    def _note(self, at_work: bool) -> None:
        if at_work is not self._at_work:
            _log.info("at work" if at_work else "standing by", action="turn", collection=self._collection)
        self._at_work = at_work
        self._metrics.working(at_work)

    def _tell(self, report: IngestReport) -> bool:
        """Count and log a sync; returns whether it did something that the last one had not done already."""
        # A file that cannot be read fails again in every sync.
        n_failed, self._n_failed = self._n_failed, report.failed
        self._metrics.reported(report, n_failed=max(0, report.failed - n_failed))
        self._say_passed_over(report.passed_over)
        if not (report.added or report.updated or report.renamed or report.deleted or report.failed != n_failed):
            return False
        made = report.collection_made
        _log.info(
            "synced",
            action="sync",
            collection=self._collection,
            n_added=report.added,
            n_updated=report.updated,
            n_renamed=report.renamed,
            n_deleted=report.deleted,
            n_unchanged=report.unchanged,
            n_failed=report.failed,
            n_passed_over=report.passed_over.total,
            n_chunks=report.chunks,
            n_embedded=report.embedded,
            seconds=report.seconds,
            deleted=" ".join(report.deleted_documents[:MAX_NAMED]),
            set_aside=" ".join(each.document_id for each in report.quarantined[:MAX_NAMED]),
            left_quarantine=" ".join(report.forgotten_documents[:MAX_NAMED]),
            collection_made=f"{made.model}, {made.dim} dimensions" if made else "",
        )
        return True

    def _say_passed_over(self, found: Findings) -> None:
        """Log each reason with another count than in the last sync."""
        for reason, count in sorted(found.counts.items()):
            if count != self._passed_over.get(reason):
                names = " ".join(found.examples[reason][:MAX_NAMED])
                _log.info(f"passed over: {count:,} ({reason})", action="passed_over", examples=names)
        self._passed_over = dict(found.counts)
