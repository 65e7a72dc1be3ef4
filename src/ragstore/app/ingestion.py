"""Ingest and sync with all the parts they need, and the files that they read."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ragstore.app.models import Models
from ragstore.app.wiring import home_of
from ragstore.app.writer import Writer
from ragstore.errors import PathNotFoundError
from ragstore.ingest.dry_run import dry_run
from ragstore.ingest.parse_process import ParserPool
from ragstore.ingest.pipeline import Limits, Services, ingest
from ragstore.ingest.planner import USUAL_CARE, Care
from ragstore.ingest.sync import Source, sync
from ragstore.model.collection import Collection
from ragstore.model.report import IngestReport, Listener
from ragstore.postgres import documents
from ragstore.postgres.pool import PostgresPool
from ragstore.settings import Settings
from ragstore.settings.options import split_list
from ragstore.sources import Bounds, Listing, walk
from ragstore.sources.bounds import below
from ragstore.sources.presence import Roots
from ragstore.sources.raw import DETECTED, Choices
from ragstore.sources.selection import EVERYTHING, Selection

Paths = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Target:
    """The paths that an ingest or a sync reads.

    Args:
        bounds: fixed before anything is listed, so that later changes of the file system do not widen them.
        max_bytes: largest file that is read.
        selection: what is taken from folders.
        choices: what the deployment has decided about reading.
    """

    paths: Paths
    bounds: Bounds
    max_bytes: int
    selection: Selection = EVERYTHING
    choices: Choices = DETECTED

    def listing(self, paths: Paths | None = None) -> Listing:
        """The files below these paths, or below all paths of the target, within its bounds.

        Raises:
            PathNotFoundError: one does not exist.
            UsageError: one of them is never read.
        """
        return walk(
            self.paths if paths is None else paths,
            max_bytes=self.max_bytes,
            bounds=self.bounds,
            selection=self.selection,
            choices=self.choices,
        )

    def roots(self) -> Roots:
        """The folders among the paths."""
        return Roots(self.paths, self.bounds, self.selection)


def target(
    settings: Settings, paths: Paths, *, follow_links: bool | None = None, selection: Selection = EVERYTHING
) -> Target:
    """The target with these paths; the folder of the embedded servers and the settings files are never read."""
    follow = settings.follow_links if follow_links is None else follow_links
    bounds = Bounds.of(paths, never=[home_of(settings), *settings.places], follow_links=follow)
    return Target(paths, bounds, settings.max_file_mb * 2**20, selection, choices_of(settings))


def selected(include: Sequence[str], exclude: Sequence[str], *, defaults: bool) -> Selection:
    """The selection by the patterns of a call; raises UsageError for one that is no pattern."""
    return Selection.of(include, exclude, defaults=defaults)


def known_roots(pool: PostgresPool, collection: Collection | None, paths: Paths) -> Paths:
    """The paths, but the real one of a folder that is named by a link, if its documents are known by that already.

    So they are not taken in a second time under another name. Otherwise the link stays the name: what it leads to may
    change with each release.
    """
    if collection is None:
        return paths
    return [_real_if_known(pool, collection, path) for path in paths]


def _real_if_known(pool: PostgresPool, collection: Collection, path: str | Path) -> str | Path:
    real = os.path.realpath(path)
    if real == os.path.abspath(path) or not os.path.isdir(real):
        return path
    return real if documents.has_below(pool, collection, below(real)) else path


def of_moved_root(pool: PostgresPool, collection: Collection, error: PathNotFoundError) -> PathNotFoundError | None:
    """The error that also says what to do with the documents below the path that does not exist; None without such."""
    path = str(error.facts["path"])
    if not documents.has_below(pool, collection, below(path)):
        return None
    named, into = shlex.quote(path), f" -c {collection.name}"
    return PathNotFoundError(
        f"{error.message}, and documents from there are in collection {collection.name!r}",
        hint=f"if the folder was moved, run: ragstore move {named} NEW{into}; if it is gone for good: "
        f"ragstore delete --below {named}{into}",
        in_python="if the folder was moved, call move(old, new); if it is gone for good, delete_below(path)",
        path=path,
    )


def care_of(
    settings: Settings, *, strict: bool | None = None, checksum: bool | None = None, reread: bool = False
) -> Care:
    """How carefully an ingest looks, by the call and otherwise by the settings."""
    return Care(
        checksum=settings.checksum if checksum is None else checksum,
        reread=reread,
        strict=settings.strict if strict is None else strict,
        text_encoding=settings.text_encoding,
    )


def choices_of(settings: Settings) -> Choices:
    """What the settings say about reading."""
    readers = (pair.split("=", 1) for pair in split_list(settings.readers))
    return Choices(
        settings.text_encoding,
        settings.table_header,
        [name.lower() for name in split_list(settings.text_suffixes)],
        {suffix.lower(): reader for suffix, reader in readers},
    )


class Ingestion:
    """Ingests and syncs into one collection."""

    def __init__(
        self, settings: Settings, pool: PostgresPool, models: Models, writer: Writer, care: Care = USUAL_CARE
    ) -> None:
        self._care = care
        self._settings = settings
        self._pool = pool
        self._models = models
        self._writer = writer
        self._limits = Limits(settings.batch_chunks, settings.ingest_memory_mb)

    def ingest(self, collection: Collection, read: Target, listing: Listing, tell: Listener | None) -> IngestReport:
        """Add and update documents."""
        with self._services(collection, read.roots()) as services:
            report = ingest(services, collection, listing, limits=self._limits, tell=tell)
        report.passed_over.merge(listing.passed_over)
        return report

    def sync(
        self, collection: Collection, read: Target, listing: Listing, tell: Listener | None, *, allow_mass_delete: bool
    ) -> IngestReport:
        """Add, update and delete documents."""
        roots = read.roots()
        source = Source(listing, roots, lambda paths: read.listing([path for path in paths if os.path.lexists(path)]))
        with self._services(collection, roots, allow_mass_delete=allow_mass_delete) as services:
            return sync(
                services, collection, source, allow_mass_delete=allow_mass_delete, limits=self._limits, tell=tell
            )

    @contextmanager
    def _services(self, collection: Collection, roots: Roots, *, allow_mass_delete: bool = False) -> Iterator[Services]:
        settings, writer = self._settings, self._writer
        with ParserPool(
            chunking=collection.chunking,
            bounds=roots.bounds,
            choices=choices_of(settings),
            timeout_s=settings.parse_timeout_s,
            memory_mb=settings.parse_memory_mb,
            max_file_mb=settings.max_file_mb,
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
                care=self._care,
                allow_mass_delete=allow_mass_delete,
            )


def preview_sync(  # noqa: PLR0913 - what a sync works with
    pool: PostgresPool,
    collection: Collection | None,
    read: Target,
    listing: Listing,
    tell: Listener | None,
    *,
    allow_mass_delete: bool,
    care: Care,
) -> IngestReport:
    """The report that a sync would give; changes nothing."""
    return dry_run(pool, collection, listing, read.roots(), allow_mass_delete=allow_mass_delete, care=care, tell=tell)
