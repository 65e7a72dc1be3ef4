"""Selection of the listed documents that must be read: by size and time first, then by content hash."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from ragstore.errors import ContentError, LossError, MassDeletionError, Retry
from ragstore.ingest.counter import IngestCounter
from ragstore.ingest.deletion import MAX_DELETED, is_mass
from ragstore.ingest.retry import retry_transient
from ragstore.model.collection import Chunking, Collection
from ragstore.model.document import DocumentState, SourceItem, SourceState
from ragstore.model.notes import Notes, losses, sentences
from ragstore.postgres import documents
from ragstore.postgres.documents import Failure, QuarantineState, Touched
from ragstore.postgres.pool import PostgresPool
from ragstore.sources import Unlistable

T = TypeVar("T")

LOOK_UP_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Care:
    """How carefully an ingest looks.

    Args:
        checksum: hash each file, whatever its size and times say.
        reread: also parse each file, whatever its hash says; a document that reads as before keeps its revision.
        strict: put a document into quarantine if its notes say that text may be missing or wrong.
        text_encoding: encoding that the deployment chose; text that was decoded by it was not guessed.
    """

    checksum: bool = False
    reread: bool = False
    strict: bool = False
    text_encoding: str = ""

    def refusal(self, document_id: str, notes: Notes) -> LossError | None:
        """Why a document with these notes is not taken."""
        lost = losses(notes, chosen_encoding=self.text_encoding) if self.strict else {}
        if not lost:
            return None
        return LossError(
            f"{document_id}: {', '.join(sentences(lost))}",
            hint="mend or convert the file, or take it without --strict",
            in_python="mend or convert the file, or take it with strict=False",
        )


USUAL_CARE = Care()


class Planner:
    """Compares a listing with the ledger, a batch of documents for each round trip.

    Args:
        care: what is looked at although size and times are the same.
        allow_mass_delete: whether suspiciously many files may have been emptied.
        worker: name under which documents are put into quarantine; None only compares: nothing is put into
            quarantine and no new modification time is recorded.
        giving_up: ends the waiting for a database that is unavailable.
    """

    def __init__(  # noqa: PLR0913 - the parts it works with, given in one place
        self,
        pool: PostgresPool,
        collection: Collection,
        counter: IngestCounter,
        *,
        content_hash_of: Callable[[SourceItem], str],
        care: Care = USUAL_CARE,
        allow_mass_delete: bool = False,
        worker: str | None = None,
        giving_up: threading.Event | None = None,
    ) -> None:
        self._pool = pool
        self._collection = collection
        self._counter = counter
        self._content_hash_of = content_hash_of
        self._care = care
        self._allow_mass_delete = allow_mass_delete
        self._trusts_times = not care.checksum and not care.reread
        self._worker = worker
        self._giving_up = giving_up
        self._to_retry: set[str] = set()
        self._emptied: list[SourceItem] = []

    @property
    def chunking(self) -> Chunking:
        return self._collection.chunking

    def changed(self, listing: Iterable[SourceItem | Unlistable]) -> Iterator[SourceItem]:
        """The items that must be read; all others are counted, and unlistable ones are put into quarantine."""
        entries = iter(listing)
        batch = list(islice(entries, LOOK_UP_AT_ONCE))
        # Documents that other workers put into quarantine from now on are only tried once more.
        has_quarantine = bool(batch) and self._retry_transient(
            lambda: documents.has_quarantined(self._pool, self._collection)
        )
        if has_quarantine:
            self._to_retry = self._retry_transient(lambda: documents.containers_to_retry(self._pool, self._collection))
        while batch:
            self._set_aside([entry for entry in batch if isinstance(entry, Unlistable)])
            items = [entry for entry in batch if isinstance(entry, SourceItem)]
            yield from self._changed(items, has_quarantine=has_quarantine)
            batch = list(islice(entries, LOOK_UP_AT_ONCE))
        yield from self._emptied_on_purpose()

    def _emptied_on_purpose(self) -> Iterator[SourceItem]:
        """Files that have lost all their bytes; none if there are suspiciously many, as after a power cut."""
        n_emptied = len(self._emptied)
        if n_emptied <= MAX_DELETED or self._allow_mass_delete:
            yield from self._emptied
            return
        n_live = self._retry_transient(lambda: documents.count_live(self._pool, self._collection))
        if not is_mass(n_emptied, n_live):
            yield from self._emptied
            return
        self._refuse([Failure(item, _suspicious(item, n_emptied, n_live)) for item in self._emptied])

    def _changed(self, items: Sequence[SourceItem], *, has_quarantine: bool) -> Iterator[SourceItem]:
        ids = [item.document_id for item in items]
        states = self._retry_transient(lambda: documents.get_source_states(self._pool, self._collection, ids))
        quarantined: dict[str, QuarantineState] = {}
        if has_quarantine:
            quarantined = self._retry_transient(lambda: documents.get_quarantined(self._pool, self._collection, ids))
        unchanged, to_retry, others = [], [], []
        for item in items:
            entry = quarantined.get(item.document_id)
            if entry and self._fails_again(entry, item):
                self._counter.failed(item, entry.code, entry.reason)
            elif item.source_uri in self._to_retry:
                to_retry.append(item)
            elif (
                self._trusts_times
                and entry is None
                and is_unread_same(states.get(item.document_id), item, self.chunking)
            ):
                unchanged.append(item)
            else:
                others.append(item)
        self._counter.unchanged(*unchanged)
        yield from to_retry
        touched: list[Touched] = []
        for item in others:
            state = states.get(item.document_id)
            if state is not None and state.live and state.size and not item.size:
                self._emptied.append(item)
            elif state is not None and self._has_same_content(state, item):
                touched.append(Touched(item, state.revision))
                self._counter.unchanged(item)
            else:
                yield item
        if self._worker is not None:
            self._retry_transient(lambda: documents.touch_documents(self._pool, self._collection, touched))

    def _retry_transient(self, work: Callable[[], T]) -> T:
        return retry_transient(work, giving_up=self._giving_up)

    def _fails_again(self, entry: QuarantineState, item: SourceItem) -> bool:
        seen = (item.size, item.mtime_ns, item.etag)
        is_same_file = entry.seen == seen and entry.ctime_ns == item.ctime_ns
        is_accepted_now = (entry.code == LossError.code and not self._care.strict) or (
            entry.code == MassDeletionError.code and self._allow_mass_delete
        )
        return self._trusts_times and is_same_file and entry.retry == Retry.NEVER and not is_accepted_now

    def _has_same_content(self, state: SourceState, item: SourceItem) -> bool:
        # A document of another size was edited; hashing it as well would be wasted work.
        if self._care.reread or not state.live or state.size != item.size:
            return False
        try:
            return is_same(state, self._content_hash_of(item), self.chunking)
        except ContentError:
            # The reader will meet the same error, and put the document into quarantine with its reason.
            return False

    def _set_aside(self, entries: Sequence[Unlistable]) -> None:
        self._refuse([Failure(SourceItem(e.document_id, e.source_uri, 0), e.error) for e in entries])

    def _refuse(self, failures: Sequence[Failure]) -> None:
        if (worker := self._worker) is not None:
            self._retry_transient(
                lambda: documents.put_quarantine(self._pool, self._collection, failures, worker=worker)
            )
        for failure in failures:
            self._counter.failed(failure.item, failure.error.code, failure.error.message)


def _suspicious(item: SourceItem, n_emptied: int, n_live: int) -> MassDeletionError:
    return MassDeletionError(
        f"{item.document_id} has no bytes any more, as {n_emptied - 1:,} others, of {n_live:,} documents: its last "
        "text stays",
        hint="bring the files back; if they are to be empty, run: ragstore sync PATH --allow-mass-delete",
        in_python="bring the files back, or call sync with allow_mass_delete=True",
    )


READING_VERSION = 2
"""Increase it when readers, splitting or node metadata change: every document is then parsed again, once.

A document that reads as before keeps its revision; of another one only the chunks that changed are embedded.
"""


def fingerprint(content_hash: str, chunking: Chunking) -> str:
    """Hash of a document's content and of all that determines its nodes."""
    shape = f"{READING_VERSION}/{chunking.chunk_size}/{chunking.chunk_overlap}/{content_hash}"
    return hashlib.blake2b(shape.encode(), digest_size=16).hexdigest()


def is_unread_same(state: SourceState | None, item: SourceItem, chunking: Chunking) -> bool:
    """Whether size, times and etag show that the document is unchanged, without reading it.

    The ledger does not know every time of the last change of any kind: then the content is compared, once.
    """
    return (
        state is not None
        and state.size == item.size
        and state.mtime_ns == item.mtime_ns
        and state.ctime_ns == item.ctime_ns
        and state.etag == item.etag
        and is_same(state, state.content_hash, chunking)
    )


def is_same(state: DocumentState | SourceState | None, content_hash: str | None, chunking: Chunking) -> bool:
    """Whether the live revision was made from this content, with the current chunking and reading version."""
    return (
        state is not None
        and state.live
        and content_hash is not None
        and state.fingerprint == fingerprint(content_hash, chunking)
    )


def is_overtaken(state: DocumentState, item: SourceItem, now: tuple[int, int, int] | None) -> bool:
    """Whether the ledger has a newer state of the source than this item, which was read some time ago.

    Args:
        item: as it was when it was read.
        now: size and times of the source unit after ``state`` was looked up, None if the unit is missing.
    """
    # What is known of a member is the time of its container's file.
    read = item.within or item
    if now == (read.size, read.mtime_ns, read.ctime_ns):
        return False
    if now is None and state.deleted_at is not None:
        return True
    is_newer = state.mtime_ns is not None and item.mtime_ns is not None and state.mtime_ns > item.mtime_ns
    if item.within is not None:
        is_of_now = now is not None and state.mtime_ns == now[1]
    else:
        is_of_now = (state.size, state.mtime_ns, state.ctime_ns) == now
    return state.live and (is_newer or is_of_now)
