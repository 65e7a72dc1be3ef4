"""Sync: an ingest, then the deletion of documents that the source no longer has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ragstore.errors import MassDeletionError
from ragstore.ingest.deletion import Deletion, incomplete, refusal, survey
from ragstore.ingest.pipeline import Limits, Services, ingest
from ragstore.model.collection import Collection
from ragstore.model.report import IngestReport, Listener, Progress
from ragstore.sources import Listing, read_path
from ragstore.sources.presence import Roots


@dataclass(frozen=True, slots=True)
class Source:
    """Source that a sync makes a collection equal to.

    Args:
        relist: lists files that came back while their documents were being deleted.
    """

    listing: Listing
    roots: Roots
    relist: Callable[[Sequence[str]], Listing]


def sync(
    services: Services,
    collection: Collection,
    source: Source,
    *,
    allow_mass_delete: bool,
    limits: Limits,
    tell: Listener | None = None,
) -> IngestReport:
    """Bring a collection up to date with a listing, and delete documents with a file that is missing or left out.

    Only documents that an ingest read from below the listed folders are deleted. If a folder could not be listed,
    nothing is deleted, and the report has ``refused``.

    Raises:
        MassDeletionError: suspiciously many files are missing; what was added and updated stays, ``facts`` has the
            report and, as ``lost_documents``, the ids of the documents with a missing file.
        StoreError, ModelError: as ``ingest``.

    Crash safety:
        As ``ingest``; each batch of deletions is one transaction, and the next sync finds the rest again.
    """
    begun_at = time.monotonic()
    relay = _ProgressRelay(tell)
    report = ingest(services, collection, source.roots.watching(source.listing), limits=limits, tell=relay)
    report.passed_over.merge(source.listing.passed_over)
    if not source.listing.complete:
        report.refused = incomplete()
        return report
    deletion = Deletion(
        services.pool,
        collection,
        source.roots,
        publisher=services.publisher,
        recoverer=services.recoverer,
        alive=relay.repeat_last,
    )
    try:
        missing = survey(services.pool, collection, source.roots)
        refused = None if allow_mass_delete else refusal(missing, source.roots.silent)
        if refused:
            refused.facts["lost_documents"] = missing.document_ids
            raise refused
        deletion.run(missing, allow_mass_delete=allow_mass_delete)
    except MassDeletionError as error:
        error.facts["report"] = report
        raise
    finally:
        report.deleted += len(deletion.deleted)
        report.deleted_documents += deletion.deleted
        report.left_out_documents += deletion.left_out
        report.forgotten_documents += deletion.forgotten
    if deletion.returned:
        _take_back(services, collection, source.relist(_paths(deletion.returned)), limits, report)
    report.seconds = round(time.monotonic() - begun_at, 3)
    return report


class _ProgressRelay:
    """Forwards progress; repeats the last event as a keep-alive during deletion."""

    def __init__(self, tell: Listener | None) -> None:
        self._tell = tell
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        if self._tell is not None:
            self._tell(progress)

    def repeat_last(self) -> None:
        if self._tell is not None and self._last is not None:
            self._tell(self._last)


def _paths(source_uris: Sequence[str]) -> list[str]:
    return [str(read_path(uri)) for uri in source_uris]


def _take_back(
    services: Services, collection: Collection, listing: Listing, limits: Limits, report: IngestReport
) -> None:
    """Ingest files again that came back after their documents were deleted."""
    again = ingest(services, collection, listing, limits=limits)
    for count in ("added", "updated", "renamed", "failed", "chunks", "embedded", "reused"):
        setattr(report, count, getattr(report, count) + getattr(again, count))
    report.quarantined += again.quarantined
    report.noted.merge(again.noted)
