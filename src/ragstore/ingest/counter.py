"""Counter of what an ingest does, which also reports the progress to a listener."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ragstore.ingest.prefetch import PrefetchedListing
from ragstore.model.document import SourceItem
from ragstore.model.notes import Notes
from ragstore.model.report import IngestReport, Listener, Progress, SetAside

REPORT_EVERY_S = 0.1


class IngestCounter:
    """The counts of one ingest; used from several threads."""

    def __init__(self, tell: Listener | None = None) -> None:
        self.report = IngestReport()
        self._tell = tell
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._reported_at = self._started
        self._n_done = 0
        self._bytes_done = 0
        self._listing: PrefetchedListing[Any] | None = None

    def watch(self, listing: PrefetchedListing[Any]) -> None:
        """Take the total number and size of documents from this listing."""
        self._listing = listing

    def unchanged(self, *items: SourceItem) -> None:
        """Count documents that the ledger already has with the same content."""
        with self._lock:
            self.report.unchanged += len(items)
        self._did(*items)

    def failed(self, item: SourceItem, code: str, reason: str) -> None:
        """Count a document that was put into quarantine."""
        with self._lock:
            self.report.failed += 1
            self.report.quarantined.append(SetAside(item.document_id, code, reason))
        self._did(item)

    def published(self, item: SourceItem, action: str, *, n_chunks: int, n_embedded: int, notes: Notes) -> None:
        """Count a new live revision; ``action`` is added, updated or renamed."""
        with self._lock:
            setattr(self.report, action, getattr(self.report, action) + 1)
            self.report.chunks += n_chunks
            self.report.embedded += n_embedded
            self.report.reused += n_chunks - n_embedded
            self.report.noted.add(item.document_id, notes)
        self._did(item)

    def deleted(self, document_ids: Sequence[str]) -> None:
        """Count members that their container no longer has."""
        with self._lock:
            self.report.deleted += len(document_ids)
            self.report.deleted_documents += document_ids

    def left_out(self, left_out: Mapping[str, tuple[int, Sequence[str]]]) -> None:
        """Count members of a container that are not read, by reason: how many, and the ids of the first."""
        with self._lock:
            for reason, (n, examples) in left_out.items():
                self.report.passed_over.add(reason, examples, n_more=n - len(examples))

    def finish(self) -> IngestReport:
        """Report the progress a last time and return the counts."""
        self.report.seconds = round(time.monotonic() - self._started, 3)
        self._report_progress()
        return self.report

    def _did(self, *items: SourceItem) -> None:
        with self._lock:
            # Members are not listed, so they do not count in what was listed and is done.
            listed = [item for item in items if item.within is None]
            self._n_done += len(listed)
            self._bytes_done += sum(item.size for item in listed)
            due = time.monotonic() - self._reported_at >= REPORT_EVERY_S
            if due:
                self._reported_at = time.monotonic()
        if due:
            self._report_progress()

    def _report_progress(self) -> None:
        if self._tell is None:
            return
        listing = self._listing
        self._tell(
            Progress(
                "documents",
                self._n_done,
                listing.listed if listing else 0,
                time.monotonic() - self._started,
                is_final=listing.done if listing else False,
                failed=self.report.failed,
                chunks=self.report.chunks,
                bytes_done=self._bytes_done,
                bytes_expected=listing.bytes_listed if listing else 0,
            )
        )
