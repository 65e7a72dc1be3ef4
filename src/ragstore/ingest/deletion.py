"""Deleting documents whose source is gone, and refusing to when too many of them seem to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from ragstore.errors import MassDeletionError
from ragstore.ingest.patience import patiently
from ragstore.model.collection import Collection
from ragstore.postgres import sources
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.sources import KnownSource
from ragstore.protocol.publish import Publisher
from ragstore.protocol.recover import Recoverer
from ragstore.sources.presence import Roots

MAX_DELETED = 10
MAX_DELETED_SHARE = 0.2
"""A sync that would delete more than both is refused."""

DELETED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Loss:
    """What is gone, of what the ledger knows.

    Args:
        n_live: live documents of the collection, wherever they came from; counted only where some are gone.
        by_root: how many are gone below each folder; a file below two of them counts in both.
    """

    n_live: int = 0
    n_lost: int = 0
    by_root: dict[str, int] = field(default_factory=dict)


def is_mass(n_deleted: int, n_live: int) -> bool:
    """Whether so many deletions look like an accident."""
    return n_deleted > MAX_DELETED and n_deleted > MAX_DELETED_SHARE * n_live


def survey(pool: PostgresPool, collection: Collection, roots: Roots) -> Loss:
    """Count the live documents below these folders whose source is certainly gone, in constant memory."""
    by_root: Counter[str] = Counter()
    n_lost = 0
    for source in _lost(pool, collection, roots):
        n_lost += 1
        by_root.update(roots.of(source.source_uri))
    n_live = patiently(lambda: sources.count_live(pool, collection)) if n_lost else 0
    return Loss(n_live, n_lost, dict(by_root))


def refusal(loss: Loss, silent: set[str]) -> MassDeletionError | None:
    """Why these deletions must not be done unasked, if so.

    Args:
        silent: folders that showed no file at all: emptied on purpose, or not mounted.
    """
    facts = {"n_lost": loss.n_lost, "n_live": loss.n_live}
    emptied = sorted(silent & loss.by_root.keys())
    if emptied:
        return MassDeletionError(
            f"{emptied[0]} shows no document any more, and {loss.by_root[emptied[0]]:,} came from there: "
            "nothing was deleted",
            hint=_HINT_EMPTIED,
            **facts,
        )
    if is_mass(loss.n_lost, loss.n_live):
        return MassDeletionError(
            f"{loss.n_lost:,} of {loss.n_live:,} documents are gone from their folders: nothing was deleted",
            hint=_HINT,
            **facts,
        )
    return None


class Deletion:
    """Deletes what a survey found, a batch at a time.

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
        self.n_deleted = 0
        self.returned: list[str] = []

    def run(self, loss: Loss, *, allow_mass_delete: bool) -> None:
        """Delete what is gone now; ``n_deleted`` says how much, ``returned`` what came back at the same moment.

        Raises:
            MassDeletionError: more is gone than a moment ago, or a folder is another one than at the beginning.

        Crash safety:
            Each batch is one transaction; what is left is found again by the next sync.
        """
        # Where nothing was gone a moment ago, looking at every document once more would find next to nothing.
        lost = _lost(self._pool, self._collection, self._roots) if loss.n_lost else iter(())
        while batch := list(islice(lost, DELETED_AT_ONCE)):
            self._check(loss, len(batch), allow_mass_delete)
            self._delete(batch)
        gone = _lost(self._pool, self._collection, self._roots, quarantined=True)
        while batch := list(islice(gone, DELETED_AT_ONCE)):
            self._check(loss, 0, allow_mass_delete)
            self._forget(batch)

    def _check(self, loss: Loss, n_more: int, allow_mass_delete: bool) -> None:
        """Look again right before each batch: a drive may be taken away between any two looks."""
        replaced = self._roots.replaced
        if replaced:
            raise MassDeletionError(
                f"{replaced[0]} became another folder during the sync; {self.n_deleted:,} were deleted before",
                hint="mount what belongs there, then run the same command again",
            )
        if not allow_mass_delete and is_mass(self.n_deleted + n_more, loss.n_live):
            raise MassDeletionError(
                f"more documents went during the sync; {self.n_deleted:,} were deleted before", hint=_HINT
            )

    def _delete(self, batch: Sequence[KnownSource]) -> None:
        planned_from = {source.document_id: source.revision for source in batch}
        self.n_deleted += patiently(
            lambda: self._publisher.delete(self._collection, list(planned_from), planned_from=planned_from)
        )
        # Another worker may have found a file there again and its document unchanged, just before it was deleted.
        self.returned += [s.source_uri for s in batch if not self._roots.lost(s.source_uri)]
        patiently(self._recoverer.retire)
        self._alive()

    def _forget(self, batch: Sequence[KnownSource]) -> None:
        document_ids = [source.document_id for source in batch]
        patiently(lambda: sources.forget_quarantined(self._pool, self._collection, document_ids))


def _lost(
    pool: PostgresPool, collection: Collection, roots: Roots, *, quarantined: bool = False
) -> Iterator[KnownSource]:
    """What the ledger has below these folders and the folders have no more; a page at a time."""
    after, folders = "", roots.uris
    # With no folder nothing can be lost: named files are there, or the listing had refused them.
    while folders:
        page = patiently(
            partial(sources.page_of_sources, pool, collection, folders, after=after, quarantined=quarantined)
        )
        for source in page:
            if roots.lost(source.source_uri):
                yield source
        if len(page) < sources.PAGE:
            return
        after = page[-1].document_id


_HINT = "--dry-run shows the counts; if it is right, run the same command with --allow-mass-delete"
_HINT_EMPTIED = "is it mounted? if it was emptied on purpose, run the same command with --allow-mass-delete"
