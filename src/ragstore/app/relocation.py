"""Deletion and move of all documents below a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ragstore.app.writer import Writer
from ragstore.errors import DocumentNotFoundError, UsageError
from ragstore.ingest import deletion
from ragstore.ingest.relocation import Move, find_at_or_below
from ragstore.model.collection import Collection
from ragstore.model.report import DeleteReport, MoveReport
from ragstore.postgres import documents
from ragstore.postgres.documents import KnownSource
from ragstore.postgres.pool import PostgresPool
from ragstore.sources.bounds import below


def move(
    pool: PostgresPool, collection: Collection, old: str | Path, new: str | Path, writer: Writer, batch_chunks: int
) -> MoveReport:
    """Give documents below one path ids below another one; see ``Ragstore.move``."""
    known, _ = _known(pool, collection, old)
    target = os.path.abspath(os.path.expanduser(new))
    if _lies_in(known, target) or _lies_in(target, known):
        raise UsageError(
            f"{known} and {target}: one lies in the other", hint="move it to a path apart, and from there to its place"
        )
    return Move(pool, collection, writer.publisher, writer.recoverer, known, target, batch_chunks).run()


def delete_below(
    pool: PostgresPool,
    collection: Collection,
    path: str | Path,
    writer: Callable[[], Writer],
    *,
    allow_mass_delete: bool,
    dry_run: bool,
) -> DeleteReport:
    """Delete all documents below a path; see ``Ragstore.delete_below``."""
    known, found = _known(pool, collection, path)
    if not allow_mass_delete:
        deletion.check_mass(len(found), documents.count_live(pool, collection))
    if dry_run:
        ids = [source.document_id for source in found]
        quarantined = documents.find_below(pool, collection, below(known), quarantined=True)
        return DeleteReport(ids, [source.document_id for source in quarantined])
    parts = writer()
    return deletion.delete_below(pool, collection, known, found, publisher=parts.publisher, recoverer=parts.recoverer)


def _known(pool: PostgresPool, collection: Collection, path: str | Path) -> tuple[str, list[KnownSource]]:
    """The form of the path by which documents are known, and these documents."""
    absolute = os.path.abspath(os.path.expanduser(path))
    for known in dict.fromkeys([absolute, os.path.realpath(absolute)]):
        if found := find_at_or_below(pool, collection, known):
            return known, found
    raise DocumentNotFoundError(
        f"no document below {absolute}",
        hint="run: ragstore documents; -c names another collection",
        in_python="documents() has those of a collection",
        path=absolute,
    )


def _lies_in(path: str, folder: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))
