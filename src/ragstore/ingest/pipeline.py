"""Pipeline of one ingest, from listing to published revisions: overlapping stages in bounded memory.

One thread lists, one compares with the ledger and hands out files, child processes read and split them, the calling
thread embeds, and two threads store, so that one batch is staged in MongoDB while another is published in PostgreSQL.
A fast stage waits for a slow one: documents that are read but not yet stored stay within a memory budget.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

from ragstore.embedding import Embedder
from ragstore.errors import ContentError
from ragstore.ingest.container_reading import ContainerReading
from ragstore.ingest.counter import IngestCounter
from ragstore.ingest.parse_process import ParserPool
from ragstore.ingest.planner import USUAL_CARE, Care, Planner, is_same
from ragstore.ingest.prefetch import MemoryBudget, Outcome, PrefetchedListing, read_all
from ragstore.ingest.retry import retry_transient
from ragstore.ingest.storer import Storer
from ragstore.ingest.vectors import Parsed, Prepared, Vectorizer
from ragstore.model.collection import Collection
from ragstore.model.document import SourceItem
from ragstore.model.report import IngestReport, Listener
from ragstore.postgres import documents, vectors
from ragstore.postgres.documents import Failure
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.indexing import Indexer
from ragstore.protocol.publish import Publisher
from ragstore.protocol.recover import Recoverer
from ragstore.sources import Unlistable

STORED_AT_ONCE = 2
_BATCHES_UNDER_WAY = STORED_AT_ONCE + 2
"""Batches at the same time: those that are stored, one that is collected, and one that is embedded."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an ingest.

    Args:
        batch_chunks: chunks that are published together, about; a document is never divided.
        memory_mb: memory of the documents that are read and not yet stored, about; a document that is larger is
            processed alone.
    """

    batch_chunks: int = 1000
    memory_mb: int = 256


@dataclass(frozen=True, slots=True)
class Services:
    """Stores, model and parsers that an ingest works with.

    Args:
        source_missing: whether the file of a source URI is certainly missing, and so may have been renamed.
        care: how carefully the ingest looks.
        allow_mass_delete: whether a container may lose suspiciously many members, and suspiciously many files be empty.
    """

    pool: PostgresPool
    publisher: Publisher
    recoverer: Recoverer
    indexer: Indexer
    embedder: Callable[[], Embedder]
    parsers: ParserPool
    worker: str
    source_missing: Callable[[str], bool]
    care: Care = USUAL_CARE
    allow_mass_delete: bool = False


def ingest(
    services: Services,
    collection: Collection,
    listing: Iterable[SourceItem | Unlistable],
    *,
    limits: Limits,
    tell: Listener | None = None,
) -> IngestReport:
    """Bring a collection up to date with a listing; documents that are not in the listing stay.

    Args:
        tell: called about ten times a second, from several threads.

    Raises:
        StoreError, ModelError: the ingest cannot continue; what was published stays, a later ingest continues there.

    Crash safety:
        Every batch is published as a whole or not at all; unchanged documents are not read again.
    """
    counter, giving_up = IngestCounter(tell), threading.Event()
    prefetched: PrefetchedListing[SourceItem | Unlistable] = PrefetchedListing(listing, giving_up=giving_up)
    counter.watch(prefetched)
    planner = Planner(
        services.pool,
        collection,
        counter,
        content_hash_of=services.parsers.hash_only,
        care=services.care,
        allow_mass_delete=services.allow_mass_delete,
        worker=services.worker,
        giving_up=giving_up,
    )
    storer = Storer(
        services.pool,
        collection,
        services.publisher,
        services.recoverer,
        counter,
        worker=services.worker,
        care=services.care,
        source_missing=services.source_missing,
        allow_mass_delete=services.allow_mass_delete,
        giving_up=giving_up,
    )
    budget = MemoryBudget(limits.memory_mb * 2**20, dim=collection.space.dim, giving_up=giving_up)
    flow = _Flow(Vectorizer(services.pool, collection, services.embedder), storer, budget, limits)
    reading_of = partial(
        ContainerReading,
        look_up=lambda item: retry_transient(lambda: documents.get_members(services.pool, collection, item)),
        is_current=lambda state: not services.care.reread and is_same(state, state.content_hash, collection.chunking),
        unchanged=counter.unchanged,
    )
    with (
        closing(
            read_all(
                planner.changed(prefetched), services.parsers, budget, lambda item, emit: reading_of(item, emit=emit)
            )
        ) as read,
        closing(_refused(read, services.care)) as outcomes,
        closing(flow.store_all(outcomes)) as stored,
    ):
        for n_chunks in stored:
            services.indexer.added(collection, n_chunks, in_bulk=True)
    # Also runs that are not of this ingest: a worker that died has left its run to any other process.
    retry_transient(services.publisher.abandon_failed)
    retry_transient(services.recoverer.recover)
    if counter.report.chunks:
        retry_transient(lambda: vectors.refresh_statistics(services.pool, collection, n_changed=counter.report.chunks))
    # Also if nothing changed: an ingest that died while it built the index has left that work to the next one.
    retry_transient(lambda: services.indexer.finish(collection))
    return counter.finish()


def _refused(outcomes: Iterable[Outcome | None], care: Care) -> Generator[Outcome | None, None, None]:
    """The same outcomes, but errors in place of documents that are not taken with this care."""
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome.result, ContentError):
            refusal = care.refusal(outcome.item.document_id, outcome.result.notes)
            yield replace(outcome, result=refusal) if refusal else outcome
        else:
            yield outcome


class _Flow:
    """Embeds one batch while earlier batches are stored."""

    def __init__(self, vectorizer: Vectorizer, storer: Storer, budget: MemoryBudget, limits: Limits) -> None:
        self._vectorizer = vectorizer
        self._storer = storer
        self._budget = budget
        self._limits = limits
        self._stored: deque[Future[None]] = deque()

    def store_all(self, outcomes: Iterable[Outcome | None]) -> Generator[int, None, None]:
        """Embed and store what was read; yields the number of chunks of each batch."""
        with ThreadPoolExecutor(STORED_AT_ONCE, thread_name_prefix="ragstore-store") as storing:
            try:
                for batch in self._batches(outcomes):
                    if not batch.begun_at:
                        # A container waits for its last members to be stored.
                        self._stored.popleft().result()
                        continue
                    prepared, refused = self._vectorizer.prepare(batch.parsed)
                    self._storer.set_aside(batch.failures + refused)
                    if len(self._stored) == STORED_AT_ONCE:
                        self._stored.popleft().result()
                    future = storing.submit(self._store, prepared, batch)
                    future.add_done_callback(partial(self._stored_now, batch.n_bytes))
                    self._stored.append(future)
                    yield sum(len(each.document.chunks) for each in prepared)
                for future in self._stored:
                    future.result()
            except BaseException:
                # Also for an interrupt: the threads finish their current step and do not retry it for a minute.
                self._storer.give_up()
                raise

    def _store(self, prepared: Sequence[Prepared], batch: Batch) -> None:
        self._storer.store(prepared)
        for reading, n_members in batch.members.items():
            reading.done(n_members)

    def _batches(self, outcomes: Iterable[Outcome | None]) -> Iterator[Batch]:
        max_bytes = self._budget.n_bytes // _BATCHES_UNDER_WAY
        return batches(outcomes, max_chunks=self._limits.batch_chunks, max_bytes=max_bytes, is_idle=self._is_idle)

    def _stored_now(self, n_bytes: int, _: Future[None]) -> None:
        self._budget.release(n_bytes)

    def _is_idle(self) -> bool:
        return all(future.done() for future in self._stored)


MAX_WAIT_S = 0.5
"""A batch that is not full is sent after this time if nothing else is being stored, because waiting gains nothing."""


@dataclass(slots=True)
class Batch:
    """Documents that are embedded and published together.

    Args:
        members: how many of them belong to each container.
        n_bytes: bytes of the memory budget that these documents have acquired.
    """

    parsed: list[Parsed] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    members: Counter[ContainerReading] = field(default_factory=Counter)
    n_chunks: int = 0
    n_bytes: int = 0
    begun_at: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.begun_at = self.begun_at or time.monotonic()
        self.n_bytes += outcome.n_bytes
        if outcome.container and outcome.is_member:
            self.members[outcome.container] += 1
        if isinstance(outcome.result, ContentError):
            self.failures.append(Failure(outcome.item, outcome.result))
            return
        self.parsed.append(Parsed(outcome.item, outcome.result, None if outcome.is_member else outcome.container))
        self.n_chunks += len(outcome.result.chunks)

    @property
    def has_waited(self) -> bool:
        """Whether its first document has waited longer than ``MAX_WAIT_S``."""
        return self.begun_at > 0 and time.monotonic() - self.begun_at > MAX_WAIT_S


def batches(
    outcomes: Iterable[Outcome | None], *, max_chunks: int, max_bytes: int, is_idle: Callable[[], bool]
) -> Iterator[Batch]:
    """Group outcomes into batches; an empty one asks to wait until a batch is stored.

    A container comes after its members: in the batch of the last ones, or after that was stored.

    Args:
        outcomes: None means that nothing came for a moment, so that the age of a batch can be checked.
        max_chunks: chunks of a batch, about; a document is never divided.
        is_idle: whether nothing is being stored.
    """
    batch = Batch()
    waiting: list[Outcome] = []
    for outcome in outcomes:
        if outcome is not None and _must_wait(outcome, batch):
            waiting.append(outcome)
        elif outcome is not None:
            batch.add(outcome)
        if waiting:
            waiting = _without_ready(waiting, batch)
        is_full = max(batch.n_chunks, len(batch.failures)) >= max_chunks or batch.n_bytes >= max_bytes
        if is_full or (batch.has_waited and is_idle()):
            yield batch
            batch = Batch()
    while batch.begun_at or waiting:
        yield batch
        batch = Batch()
        waiting = _without_ready(waiting, batch)


def _must_wait(outcome: Outcome, batch: Batch) -> bool:
    """Whether a container has members that are neither stored nor in this batch."""
    reading = outcome.container
    if reading is None or outcome.is_member or isinstance(outcome.result, ContentError):
        return False
    return reading.n_open > batch.members[reading]


def _without_ready(waiting: list[Outcome], batch: Batch) -> list[Outcome]:
    """Add the containers that need not wait any longer to the batch; returns the others."""
    still = []
    for outcome in waiting:
        if _must_wait(outcome, batch):
            still.append(outcome)
        else:
            batch.add(outcome)
    return still
