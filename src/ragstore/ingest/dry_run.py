"""What a sync would do, found without changing anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from ragstore.errors import ContentError, MassDeletionError
from ragstore.ingest.ahead import Ahead
from ragstore.ingest.deletion import Loss, refusal, survey
from ragstore.ingest.planning import LOOK_UP_AT_ONCE, Planner
from ragstore.ingest.tally import Tally
from ragstore.model.collection import Collection
from ragstore.model.document import SourceItem
from ragstore.model.progress import Progress
from ragstore.model.report import IngestReport
from ragstore.postgres import documents
from ragstore.postgres.pool import PostgresPool
from ragstore.sources import Listing, Unlistable
from ragstore.sources.opening import content_hash_of
from ragstore.sources.presence import Roots


def dry_run(
    pool: PostgresPool,
    collection: Collection | None,
    listing: Listing,
    roots: Roots,
    *,
    tell: Callable[[Progress], None] | None = None,
) -> tuple[IngestReport, MassDeletionError | None]:
    """Counts of documents that a sync would add, update, move and delete, and why it would refuse to delete.

    Files are hashed where size and time do not tell, and new ones where one that is gone may have been renamed; none
    is parsed, so that one which cannot be read counts as added.

    Args:
        collection: None where it does not exist yet.
    """
    tally = Tally(tell)
    report = tally.report
    if collection is None:
        for entry in listing:
            _count(report, "failed" if isinstance(entry, Unlistable) else "added")
        return tally.finish(), None
    begun_at = time.monotonic()
    loss = survey(pool, collection, roots)
    ahead: Ahead[SourceItem | Unlistable] = Ahead(roots.watching(listing))
    tally.watch(ahead)
    planner = Planner(pool, collection, tally, content_hash_of=partial(_content_hash, roots))
    moved = _Moved(pool, collection, roots, loss)
    for batch in _batches(planner.changed(ahead)):
        states = documents.get_documents(pool, collection, [item.document_id for item in batch])
        new = []
        for item in batch:
            state = states.get(item.document_id)
            if state is not None and state.live:
                _count(report, "updated")
            else:
                new.append(item)
        n_renamed = moved.among(new)
        _count(report, "renamed", n_renamed)
        _count(report, "added", len(new) - n_renamed)
    if listing.complete:
        report.deleted = loss.n_lost - report.renamed
    left = Loss(loss.n_live, report.deleted, loss.by_root)
    report = tally.finish()
    report.seconds = round(time.monotonic() - begun_at, 3)
    return report, refusal(left, roots.silent) if report.deleted else None


class _Moved:
    """Tells of new files how many are those that are gone, under another name."""

    def __init__(self, pool: PostgresPool, collection: Collection, roots: Roots, loss: Loss) -> None:
        self._pool = pool
        self._collection = collection
        self._roots = roots
        self._n_left = loss.n_lost
        self._taken: set[str] = set()

    def among(self, items: Sequence[SourceItem]) -> int:
        """Files are read only while there is something gone that they may be."""
        if not self._n_left:
            return 0
        hashes = [h for item in items if (h := _hash_or_none(self._roots, item))]
        by_content = documents.find_by_content(self._pool, self._collection, hashes)
        n_moved = 0
        for content_hash in hashes:
            for candidate in by_content.get(content_hash, []):
                if candidate.document_id not in self._taken and self._roots.lost(candidate.source_uri):
                    self._taken.add(candidate.document_id)
                    n_moved += 1
                    break
        self._n_left -= n_moved
        return n_moved


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
