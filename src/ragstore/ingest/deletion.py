"""Deletion of documents whose source is missing or left out; refused when suspiciously many are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from ragstore.errors import MassDeletionError, RefusedError
from ragstore.ingest.retry import retry_transient
from ragstore.model.collection import Collection
from ragstore.model.report import DeleteReport
from ragstore.postgres import documents
from ragstore.postgres.documents import KnownSource
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Publisher
from ragstore.protocol.recover import Recoverer
from ragstore.sources.bounds import below
from ragstore.sources.presence import Roots

MAX_DELETED = 10
MAX_DELETED_SHARE = 0.2
"""A sync is refused if it would delete more than ``MAX_DELETED`` documents and also more than this share of them."""

DELETED_AT_ONCE = 100

_OPTION, _ARGUMENT = "run the same command with --allow-mass-delete", "call it again with allow_mass_delete=True"
_HINT = f"--dry-run names them; if they are to go, {_OPTION}"
_IN_PYTHON = f"sync(..., dry_run=True).deleted_documents names them; if they are to go, {_ARGUMENT}"
_HINT_EMPTIED = f"is it mounted? if it was emptied on purpose, {_OPTION}"


@dataclass(frozen=True, slots=True)
class MissingSources:
    """Live documents in the ledger with a source that is certainly missing, or that the selection leaves out.

    Args:
        n_left_out: those of them with a file that exists, which a pattern leaves out.
        n_live: live documents of the collection from all sources; counted only if some sources are missing, else 0.
        by_root: number of missing sources below each folder; a file below two of the folders counts in both.
        sources: the missing sources themselves.
    """

    n_live: int = 0
    n_missing: int = 0
    by_root: dict[str, int] = field(default_factory=dict)
    sources: list[KnownSource] = field(default_factory=list)
    n_left_out: int = 0

    @property
    def document_ids(self) -> list[str]:
        """Ids of the documents with a missing source."""
        return [source.document_id for source in self.sources]


def survey(pool: PostgresPool, collection: Collection, roots: Roots) -> MissingSources:
    """Find the live documents below these folders with a missing source; only their names are kept in memory."""
    lost = list(_gone(pool, collection, roots))
    n_live = retry_transient(lambda: documents.count_live(pool, collection)) if lost else 0
    return missing_by_root(lost, roots, n_live=n_live)


def missing_by_root(lost: list[KnownSource], roots: Roots, *, n_live: int) -> MissingSources:
    """Count these sources below each folder."""
    by_root = Counter(root for source in lost for root in roots.of(source.source_uri))
    n_left_out = sum(1 for source in lost if is_left_out(roots, source.source_uri))
    return MissingSources(n_live, len(lost), dict(by_root), lost, n_left_out)


def is_left_out(roots: Roots, source_uri: str) -> bool:
    """Whether a document is deleted although its file exists, because a pattern leaves it out."""
    return not roots.source_missing(source_uri) and roots.left_out(source_uri) is not None


def is_mass(n_deleted: int, n_live: int) -> bool:
    """Whether this many deletions look like an accident."""
    return n_deleted > MAX_DELETED and n_deleted > MAX_DELETED_SHARE * n_live


def refusal(missing: MissingSources, silent: set[str]) -> MassDeletionError | None:
    """The error that refuses these deletions, or None if they can be done without a confirmation.

    Args:
        silent: folders in which the listing found no file at all: emptied on purpose, or not mounted.
    """
    facts = {"n_lost": missing.n_missing, "n_live": missing.n_live}
    emptied = sorted(silent & missing.by_root.keys())
    if emptied:
        return MassDeletionError(
            f"{emptied[0]} shows no document any more, and {missing.by_root[emptied[0]]:,} came from there: "
            "nothing was deleted",
            hint=_HINT_EMPTIED,
            in_python=_HINT_EMPTIED.replace(_OPTION, _ARGUMENT),
            **facts,
        )
    if is_mass(missing.n_missing, missing.n_live):
        left_out = f", {missing.n_left_out:,} of them left out by a pattern" if missing.n_left_out else ""
        return MassDeletionError(
            f"{missing.n_missing:,} of {missing.n_live:,} documents are gone from their folders{left_out}: "
            "nothing was deleted",
            hint=_HINT,
            in_python=_IN_PYTHON,
            **facts,
        )
    return None


def incomplete() -> RefusedError:
    """The error that refuses all deletions because a folder could not be listed."""
    return RefusedError(
        "nothing was deleted: a folder could not be listed, so nobody knows what is gone",
        hint="see 'ragstore quarantine' for the folder, then run the same command again",
        in_python="quarantined() has the folder; then call it again",
    )


class Deletion:
    """Deletes documents whose source is missing or left out, in batches; each is checked again just before.

    Args:
        alive: called after each batch.
    """

    def __init__(
        self,
        pool: PostgresPool,
        collection: Collection,
        roots: Roots,
        *,
        publisher: Publisher,
        recoverer: Recoverer,
        alive: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._collection = collection
        self._roots = roots
        self._publisher = publisher
        self._recoverer = recoverer
        self._alive = alive
        self.deleted: list[str] = []
        self.left_out: list[str] = []
        self.returned: list[str] = []
        self.forgotten: list[str] = []

    def run(self, missing: MissingSources, *, allow_mass_delete: bool) -> None:
        """Delete the documents with a source that is missing now.

        Afterwards ``deleted`` has their ids, ``left_out`` those of files that exist, ``returned`` the URIs of sources
        that came back during the deletion, and ``forgotten`` the ids of documents that left the quarantine because
        their file is gone.

        Raises:
            MassDeletionError: more sources are missing than the survey found, or a folder was replaced by another one.

        Crash safety:
            Each batch is one transaction; the next sync finds again what was not deleted.
        """
        # If the survey just found nothing missing, a second look at every document would find next to nothing.
        lost = _gone(self._pool, self._collection, self._roots) if missing.n_missing else iter(())
        while batch := list(islice(lost, DELETED_AT_ONCE)):
            self._check(missing, len(batch), allow_mass_delete)
            self._delete(batch)
        gone = missing_in_quarantine(self._pool, self._collection, self._roots)
        while batch := list(islice(gone, DELETED_AT_ONCE)):
            self._check(missing, 0, allow_mass_delete)
            self._forget(batch)

    def _check(self, missing: MissingSources, n_more: int, allow_mass_delete: bool) -> None:
        """Check right before each batch, because a drive can be removed at any moment."""
        replaced = self._roots.replaced
        if replaced:
            raise MassDeletionError(
                f"{replaced[0]} became another folder during the sync; {len(self.deleted):,} were deleted before",
                hint="mount what belongs there, then run the same command again",
            )
        if not allow_mass_delete and is_mass(len(self.deleted) + n_more, missing.n_live):
            raise MassDeletionError(
                f"more documents went during the sync; {len(self.deleted):,} were deleted before",
                hint=_HINT,
                in_python=_IN_PYTHON,
            )

    def _delete(self, batch: Sequence[KnownSource]) -> None:
        planned_from = {source.document_id: source.revision for source in batch}
        left_out = {source.document_id for source in batch if is_left_out(self._roots, source.source_uri)}
        deleted = retry_transient(
            lambda: self._publisher.delete_live(self._collection, list(planned_from), planned_from=planned_from)
        )
        self.deleted += deleted
        self.left_out += [document_id for document_id in deleted if document_id in left_out]
        # Another worker may have seen that a file came back and is unchanged, just before its document was deleted.
        self.returned += [s.source_uri for s in batch if not self._roots.is_gone(s.source_uri)]
        retry_transient(self._recoverer.retire)
        self._alive()

    def _forget(self, batch: Sequence[KnownSource]) -> None:
        document_ids = [source.document_id for source in batch]
        retry_transient(lambda: documents.forget_quarantined(self._pool, self._collection, document_ids))
        self.forgotten += document_ids


def delete_below(
    pool: PostgresPool,
    collection: Collection,
    path: str,
    found: Sequence[KnownSource],
    *,
    publisher: Publisher,
    recoverer: Recoverer,
) -> DeleteReport:
    """Delete these documents below a path; those that another writer changes meanwhile stay.

    Crash safety:
        Each batch is one transaction; called again, it deletes the rest.
    """
    deleted: list[str] = []
    for i in range(0, len(found), DELETED_AT_ONCE):
        planned_from = {source.document_id: source.revision for source in found[i : i + DELETED_AT_ONCE]}
        deleted += retry_transient(
            partial(publisher.delete_live, collection, list(planned_from), planned_from=planned_from)
        )
        retry_transient(recoverer.retire)
    forgotten = [s.document_id for s in documents.find_below(pool, collection, below(path), quarantined=True)]
    retry_transient(lambda: documents.forget_quarantined(pool, collection, forgotten))
    return DeleteReport(deleted, forgotten)


def check_mass(n_deleted: int, n_live: int) -> None:
    """Raise MassDeletionError if this many deletions look like an accident."""
    if is_mass(n_deleted, n_live):
        raise MassDeletionError(
            f"{n_deleted:,} of {n_live:,} documents would go: nothing was deleted",
            hint=_HINT,
            in_python=f"delete_below(..., dry_run=True) names them; if they are to go, {_ARGUMENT}",
            n_lost=n_deleted,
            n_live=n_live,
        )


def missing_in_quarantine(pool: PostgresPool, collection: Collection, roots: Roots) -> Iterator[KnownSource]:
    """Documents in quarantine with a missing source; read from the ledger a page at a time."""
    return _gone(pool, collection, roots, quarantined=True)


def _gone(
    pool: PostgresPool, collection: Collection, roots: Roots, *, quarantined: bool = False
) -> Iterator[KnownSource]:
    """Documents of the ledger below these folders that a sync deletes; read from the ledger a page at a time."""
    after, folders = "", roots.uris
    # Without folders no source can be missing: named files exist, otherwise the listing would have refused them.
    while folders:
        page = retry_transient(
            partial(documents.page_of_sources, pool, collection, folders, after=after, quarantined=quarantined)
        )
        for source in page:
            if roots.is_gone(source.source_uri):
                yield source
        if len(page) < documents.PAGE:
            return
        after = page[-1].document_id
