"""Dry run of a sync: the report that the sync would give, made without changing anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from ragstore.errors import ContentError
from ragstore.ingest.counter import IngestCounter
from ragstore.ingest.deletion import (
    MissingSources,
    incomplete,
    is_left_out,
    missing_by_root,
    missing_in_quarantine,
    refusal,
    survey,
)
from ragstore.ingest.planner import LOOK_UP_AT_ONCE, USUAL_CARE, Care, Planner
from ragstore.ingest.prefetch import PrefetchedListing
from ragstore.model.collection import Collection
from ragstore.model.document import SourceItem
from ragstore.model.report import IngestReport, Listener, SetAside
from ragstore.postgres import documents
from ragstore.postgres.documents import KnownSource
from ragstore.postgres.pool import PostgresPool
from ragstore.sources import Listing, Unlistable
from ragstore.sources.file_bytes import content_hash_of
from ragstore.sources.presence import Roots


def dry_run(  # noqa: PLR0913 - what a sync works with
    pool: PostgresPool,
    collection: Collection | None,
    listing: Listing,
    roots: Roots,
    *,
    allow_mass_delete: bool = False,
    care: Care = USUAL_CARE,
    tell: Listener | None = None,
) -> IngestReport:
    """The report that a sync would give; it has ``refused`` if the sync would refuse to delete.

    A file is hashed if its size and time do not decide whether it changed; a new file also if a missing one may have
    been renamed to it. No file is parsed, so a file that cannot be read counts as added.

    Args:
        collection: None if it does not exist yet.
    """
    counter = IngestCounter(tell)
    report = counter.report
    report.passed_over = listing.passed_over
    if collection is None:
        for entry in listing:
            if isinstance(entry, Unlistable):
                _count(report, "failed")
                report.quarantined.append(SetAside(entry.document_id, entry.error.code, entry.error.message))
            else:
                _count(report, "added")
        return counter.finish()
    begun_at = time.monotonic()
    missing = survey(pool, collection, roots)
    prefetched: PrefetchedListing[SourceItem | Unlistable] = PrefetchedListing(roots.watching(listing))
    counter.watch(prefetched)
    planner = Planner(
        pool,
        collection,
        counter,
        content_hash_of=partial(_content_hash, roots),
        care=care,
        allow_mass_delete=allow_mass_delete,
    )
    renamed = _RenamedFiles(pool, collection, roots, missing)
    for batch in _batches(planner.changed(prefetched)):
        states = documents.get_documents(pool, collection, [item.document_id for item in batch])
        new = []
        for item in batch:
            state = states.get(item.document_id)
            if state is not None and state.live:
                _count(report, "updated")
            else:
                new.append(item)
        n_renamed = renamed.count_in(new)
        _count(report, "renamed", n_renamed)
        _count(report, "added", len(new) - n_renamed)
    if listing.complete:
        left = missing_by_root(renamed.left(), roots, n_live=missing.n_live)
        report.deleted, report.deleted_documents = left.n_missing, left.document_ids
        report.left_out_documents = [s.document_id for s in left.sources if is_left_out(roots, s.source_uri)]
        report.refused = None if allow_mass_delete else refusal(left, roots.silent)
        if report.refused is None:
            gone = missing_in_quarantine(pool, collection, roots)
            # A deletion also takes the document out of quarantine.
            deleted = set(report.deleted_documents)
            report.forgotten_documents = [s.document_id for s in gone if s.document_id not in deleted]
    else:
        report.refused = incomplete()
    report = counter.finish()
    report.seconds = round(time.monotonic() - begun_at, 3)
    return report


class _RenamedFiles:
    """Counts how many new files are missing files under another name, each missing file once."""

    def __init__(self, pool: PostgresPool, collection: Collection, roots: Roots, missing: MissingSources) -> None:
        self._pool = pool
        self._collection = collection
        self._roots = roots
        self._missing = missing.sources
        self._n_left = missing.n_missing
        self._matched: set[str] = set()

    def left(self) -> list[KnownSource]:
        """Missing sources that were not found under another name."""
        return [source for source in self._missing if source.document_id not in self._matched]

    def count_in(self, items: Sequence[SourceItem]) -> int:
        """How many of these files are renamed ones; they are read only while missing sources are left."""
        if not self._n_left:
            return 0
        hashes = [h for item in items if (h := _hash_or_none(self._roots, item))]
        by_content = documents.find_by_content(self._pool, self._collection, hashes)
        n_renamed = 0
        for content_hash in hashes:
            for candidate in by_content.get(content_hash, []):
                if candidate.document_id not in self._matched and self._roots.source_missing(candidate.source_uri):
                    self._matched.add(candidate.document_id)
                    n_renamed += 1
                    break
        self._n_left -= n_renamed
        return n_renamed


def _count(report: IngestReport, name: str, n: int = 1) -> None:
    setattr(report, name, getattr(report, name) + n)


def _batches(items: Iterator[SourceItem]) -> Iterator[list[SourceItem]]:
    while batch := list(islice(items, LOOK_UP_AT_ONCE)):
        yield batch


def _content_hash(roots: Roots, item: SourceItem) -> str:
    return content_hash_of(item.source_uri, roots.bounds)


def _hash_or_none(roots: Roots, item: SourceItem) -> str | None:
    try:
        return _content_hash(roots, item)
    except ContentError:
        return None
