"""Ingest and sync with all the parts they need, and the files that they read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ragstore.app.models import Models
from ragstore.app.wiring import home_of
from ragstore.app.writer import Writer
from ragstore.ingest.dry_run import dry_run
from ragstore.ingest.parse_process import ParserPool
from ragstore.ingest.pipeline import Limits, Services, ingest
from ragstore.ingest.sync import Source, sync
from ragstore.model.collection import Collection
from ragstore.model.report import IngestReport, Listener
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings
from ragstore.sources import Bounds, Listing, walk
from ragstore.sources.presence import Roots
from ragstore.sources.raw import Choices

Paths = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Target:
    """The paths that an ingest or a sync reads.

    Args:
        bounds: fixed before anything is listed, so that later changes of the file system do not widen them.
        max_bytes: largest file that is read.
    """

    paths: Paths
    bounds: Bounds
    max_bytes: int

    def listing(self, paths: Paths | None = None) -> Listing:
        """The files below these paths, or below all paths of the target, within its bounds.

        Raises:
            PathNotFoundError: one does not exist.
            UsageError: one of them is never read.
        """
        return walk(self.paths if paths is None else paths, max_bytes=self.max_bytes, bounds=self.bounds)

    def roots(self) -> Roots:
        """The folders among the paths."""
        return Roots(self.paths, self.bounds)


def target(settings: Settings, paths: Paths, *, follow_links: bool | None = None) -> Target:
    """The target with these paths; the folder of the embedded servers and the settings files are never read."""
    follow = settings.follow_links if follow_links is None else follow_links
    bounds = Bounds.of(paths, never=[home_of(settings), *settings.places], follow_links=follow)
    return Target(paths, bounds, settings.max_file_mb * 2**20)


class Ingestion:
    """Ingests and syncs into one collection."""

    def __init__(self, settings: Settings, pool: PostgresPool, models: Models, writer: Writer) -> None:
        self._settings = settings
        self._pool = pool
        self._models = models
        self._writer = writer
        self._limits = Limits(settings.batch_chunks, settings.ingest_memory_mb)

    def ingest(self, collection: Collection, read: Target, listing: Listing, tell: Listener | None) -> IngestReport:
        """Add and update documents."""
        with self._services(collection, read.roots()) as services:
            report = ingest(services, collection, listing, limits=self._limits, tell=tell)
        report.passed_over = listing.passed_over
        return report

    def sync(
        self, collection: Collection, read: Target, listing: Listing, tell: Listener | None, *, allow_mass_delete: bool
    ) -> IngestReport:
        """Add, update and delete documents."""
        roots = read.roots()
        source = Source(listing, roots, lambda paths: read.listing([path for path in paths if os.path.lexists(path)]))
        with self._services(collection, roots) as services:
            return sync(
                services, collection, source, allow_mass_delete=allow_mass_delete, limits=self._limits, tell=tell
            )

    @contextmanager
    def _services(self, collection: Collection, roots: Roots) -> Iterator[Services]:
        settings, writer = self._settings, self._writer
        with ParserPool(
            chunking=collection.chunking,
            bounds=roots.bounds,
            choices=Choices(settings.text_encoding),
            timeout_s=settings.parse_timeout_s,
            memory_mb=settings.parse_memory_mb,
            n_children=settings.parse_processes,
        ) as parsers:
            yield Services(
                pool=self._pool,
                publisher=writer.publisher,
                recoverer=writer.recoverer,
                indexer=writer.indexer,
                embedder=lambda: self._models.of(collection),
                parsers=parsers,
                worker=writer.worker,
                source_missing=roots.source_missing,
            )


def preview_sync(
    pool: PostgresPool,
    collection: Collection | None,
    read: Target,
    listing: Listing,
    tell: Listener | None,
    *,
    allow_mass_delete: bool,
) -> IngestReport:
    """The report that a sync would give; changes nothing."""
    return dry_run(pool, collection, listing, read.roots(), allow_mass_delete=allow_mass_delete, tell=tell)
