"""One ingest from listing to published revisions, its stages overlapping, in bounded memory.

Reading and cutting happen in a child process, embedding in the calling thread, storing in two threads, so that one
batch is staged in MongoDB while another is published in PostgreSQL: at any time at most one batch is being embedded,
two are stored, and a small window of documents is read ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ragstore.embedding import Embedder
from ragstore.errors import ContentError
from ragstore.ingest.ahead import Ahead
from ragstore.ingest.parsing import ParserPool
from ragstore.ingest.patience import patiently
from ragstore.ingest.planning import Planner
from ragstore.ingest.storing import Storer
from ragstore.ingest.tally import Tally
from ragstore.ingest.vectors import Parsed, Vectorizer
from ragstore.model.chunk import ParsedDocument
from ragstore.model.collection import Collection
from ragstore.model.document import SourceItem
from ragstore.model.progress import Progress
from ragstore.model.report import IngestReport
from ragstore.postgres import vectors
from ragstore.postgres.documents import Failure
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Publisher
from ragstore.protocol.recover import Recoverer
from ragstore.sources import Unlistable

STORED_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds an ingest.

    Args:
        batch_chunks: chunks that are published together, about; a document is never divided.
        index_min_nodes: nodes from which a collection gets an HNSW index.
    """

    batch_chunks: int = 1000
    index_min_nodes: int = 10_000


@dataclass(frozen=True, slots=True)
class Services:
    """What an ingest works with.

    Args:
        is_lost: tells of a source URI whether its document is certainly not there any more, and so may have been
            renamed.
    """

    pool: PostgresPool
    publisher: Publisher
    recoverer: Recoverer
    embedder: Callable[[], Embedder]
    parsers: ParserPool
    worker: str
    is_lost: Callable[[str], bool]


def ingest(
    services: Services,
    collection: Collection,
    listing: Iterable[SourceItem | Unlistable],
    *,
    limits: Limits,
    tell: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Bring a collection up to date with a listing; documents that the listing lacks stay.

    Args:
        tell: called about ten times a second, from several threads.

    Raises:
        StoreError, ModelError: the ingest cannot go on; what was published stays, a later ingest goes on from there.

    Crash safety:
        Every batch is published as a whole or not at all; unchanged documents are not read again.
    """
    tally = Tally(tell)
    ahead: Ahead[SourceItem | Unlistable] = Ahead(listing)
    tally.watch(ahead)
    planner = Planner(
        services.pool,
        collection,
        tally,
        content_hash_of=services.parsers.hash_only,
        worker=services.worker,
    )
    storer = Storer(
        services.pool,
        collection,
        services.publisher,
        services.recoverer,
        tally,
        worker=services.worker,
        is_lost=services.is_lost,
    )
    vectorizer = Vectorizer(services.pool, collection, services.embedder)
    parsed = services.parsers.parse_all(planner.changed(ahead))
    _store_all(_batches(parsed, limits.batch_chunks), vectorizer, storer)
    # Not only what is due: a worker that died meanwhile has left its run to whoever is alive.
    patiently(services.publisher.settle)
    patiently(services.recoverer.recover)
    if tally.report.chunks:
        patiently(lambda: vectors.refresh_statistics(services.pool, collection))
    # Also where nothing changed: an ingest that died while it built the index has left that to the next one.
    patiently(lambda: vectors.ensure_index(services.pool, collection, min_nodes=limits.index_min_nodes))
    return tally.finish()


def _store_all(batches: Iterable[tuple[list[Parsed], list[Failure]]], vectorizer: Vectorizer, storer: Storer) -> None:
    """Embed one batch while those before it are stored."""
    with ThreadPoolExecutor(STORED_AT_ONCE, thread_name_prefix="ragstore-store") as storing:
        stored: deque[Future[None]] = deque()
        try:
            for batch, failures in batches:
                prepared, refused = vectorizer.prepare(batch)
                storer.set_aside(failures + refused)
                if len(stored) == STORED_AT_ONCE:
                    stored.popleft().result()
                stored.append(storing.submit(storer.store, prepared))
            for future in stored:
                future.result()
        except BaseException:
            # An interrupt, too: the threads end with what they do now, and do not wait a minute for it to succeed.
            storer.give_up()
            raise


def _batches(
    parsed: Iterable[tuple[SourceItem, ParsedDocument | ContentError]], batch_chunks: int
) -> Iterator[tuple[list[Parsed], list[Failure]]]:
    batch: list[Parsed] = []
    failures: list[Failure] = []
    n_chunks = 0
    for item, result in parsed:
        if isinstance(result, ContentError):
            failures.append(Failure(item, result))
        else:
            batch.append(Parsed(item, result))
            n_chunks += len(result.chunks)
        if n_chunks >= batch_chunks or len(failures) >= batch_chunks:
            yield batch, failures
            batch, failures, n_chunks = [], [], 0
    if batch or failures:
        yield batch, failures
