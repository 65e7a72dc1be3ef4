"""Puts together what an ingest and a sync work with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ragstore.app.models import Models
from ragstore.app.writer import Writer
from ragstore.ingest.dry_run import dry_run
from ragstore.ingest.parsing import ParserPool
from ragstore.ingest.pipeline import Limits, Services, ingest
from ragstore.ingest.sync import Source, sync
from ragstore.model.collection import Collection
from ragstore.model.progress import Progress
from ragstore.model.report import IngestReport
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings
from ragstore.sources import Listing, walk
from ragstore.sources.presence import Roots

Paths = Sequence[str | Path]
Tell = Callable[[Progress], None] | None


def list_paths(settings: Settings, paths: Paths) -> Listing:
    """The files of these paths.

    Raises:
        PathNotFoundError: one does not exist.
    """
    return walk(paths, max_bytes=settings.max_file_mb * 2**20)


class Ingesting:
    """Ingests and syncs into one collection."""

    def __init__(self, settings: Settings, pool: PostgresPool, models: Models, writer: Writer) -> None:
        self._settings = settings
        self._pool = pool
        self._models = models
        self._writer = writer
        self._limits = Limits(settings.batch_chunks, settings.ingest_memory_mb)

    def ingest(self, collection: Collection, listing: Listing, paths: Paths, tell: Tell) -> IngestReport:
        """Add and update."""
        with self._services(collection, Roots(paths)) as services:
            report = ingest(services, collection, listing, limits=self._limits, tell=tell)
        report.passed_over = listing.passed_over
        return report

    def sync(
        self, collection: Collection, listing: Listing, paths: Paths, tell: Tell, *, allow_mass_delete: bool
    ) -> IngestReport:
        """Add, update and delete."""
        roots = Roots(paths)
        source = Source(listing, roots, self._relist)
        with self._services(collection, roots) as services:
            return sync(
                services, collection, source, allow_mass_delete=allow_mass_delete, limits=self._limits, tell=tell
            )

    def _relist(self, paths: Sequence[str]) -> Listing:
        return list_paths(self._settings, [path for path in paths if os.path.lexists(path)])

    @contextmanager
    def _services(self, collection: Collection, roots: Roots) -> Iterator[Services]:
        settings, writer = self._settings, self._writer
        with ParserPool(
            chunking=collection.chunking,
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
                is_lost=roots.lost,
            )


def foretell(
    pool: PostgresPool,
    collection: Collection | None,
    listing: Listing,
    paths: Paths,
    tell: Tell,
    *,
    allow_mass_delete: bool,
) -> IngestReport:
    """What a sync would report."""
    return dry_run(pool, collection, listing, Roots(paths), allow_mass_delete=allow_mass_delete, tell=tell)
