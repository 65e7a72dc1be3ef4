"""Long-running processes ``worker`` and ``maintain``, with all the parts that they need."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

import ragstore
from ragstore import embedded
from ragstore.app.ingestion import selected, target
from ragstore.app.store import Ragstore, open_ragstore
from ragstore.app.wiring import Addresses, configured, home_of, postgres_pool, reachable
from ragstore.errors import StoreUnavailableError
from ragstore.model.collection import checked_filter_keys, checked_name
from ragstore.model.report import IngestReport, Progress
from ragstore.postgres.documents import LedgerGauges, ping, read_gauges
from ragstore.postgres.pool import PostgresPool
from ragstore.postgres.turn import Turn
from ragstore.settings import Settings
from ragstore.worker.health import Health, serving
from ragstore.worker.metrics import Metrics, Probes, TimedProbe
from ragstore.worker.rounds import RoundResult, Rounds
from ragstore.worker.upkeep import Upkeep
from ragstore.worker.worker import Worker

if TYPE_CHECKING:
    from ragstore.mongo.client import Client

_PROBE_S = 2.0
_ANSWER_S = 2.5
"""Time-out of each of three probes, in seconds; Prometheus gives up after 10 seconds."""


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Options of a long-running command.

    Args:
        every_s: seconds between two rounds.
        metrics_at: HOST:PORT at which to serve metrics and health; None to serve none.
    """

    every_s: float
    metrics_at: str | None = None


class SyncOptions(TypedDict, total=False):
    """Arguments of ``Ragstore.sync`` that every round of a worker has."""

    filter_keys: Sequence[str]
    follow_links: bool | None
    include: Sequence[str]
    exclude: Sequence[str]
    default_excludes: bool
    checksum: bool | None
    strict: bool | None


def run_worker(
    settings: Settings,
    paths: Sequence[str],
    *,
    collection: str | None,
    options: LoopOptions,
    **of_sync: Unpack[SyncOptions],
) -> None:
    """Keep a collection equal to its paths for ever.

    Args:
        of_sync: as the arguments of ``Ragstore.sync``.

    Raises:
        PathNotFoundError: a path does not exist.
        UsageError: a path is never read, or the address of the metrics cannot be used.
        RagstoreError: an error that would come back in every round.
    """
    target(settings, paths).listing()
    checked_filter_keys(of_sync.get("filter_keys", ()))
    selected(of_sync.get("include", ()), of_sync.get("exclude", ()), defaults=True)
    name = checked_name(collection or settings.collection)
    health = Health(options.every_s)
    turns = _Turns(settings, name, paths)
    with closing(turns), _Opened(settings) as opened, serving_metrics(settings, options, health) as metrics:

        def report_alive(_progress: Progress) -> None:
            health.alive()

        def sync() -> IngestReport:
            return opened.store().sync(*paths, collection=name, progress=report_alive, **of_sync)

        worker = Worker(
            collection=name,
            turns=turns,
            sync=sync,
            every_s=options.every_s,
            metrics=metrics,
        )
        Rounds(every_s=options.every_s, health=health, watcher=metrics).run(worker.go_round)


def run_maintain(settings: Settings, *, options: LoopOptions, once: bool) -> None:
    """Do the work that a deployment needs in addition to its workers, for ever or once.

    Raises:
        UsageError: the address of the metrics cannot be used.
        RagstoreError: with ``once``, any error; else an error that would come back in every round.
    """
    health = Health(options.every_s)
    with _Opened(settings) as opened, serving_metrics(settings, options, health) as metrics:
        upkeeps: list[Upkeep] = []

        def go_round() -> RoundResult:
            if not upkeeps:
                upkeeps.append(opened.store().upkeep(health, is_last=once))
            changed = upkeeps[0].go_round()
            return RoundResult("changed" if changed else "idle", options.every_s)

        metrics.working(True)
        if once:
            go_round()
            return
        Rounds(every_s=options.every_s, health=health, watcher=metrics).run(go_round)


@contextmanager
def serving_metrics(settings: Settings, options: LoopOptions, health: Health) -> Iterator[Metrics]:
    """Metrics of this process, served if the options have an address."""
    with ExitStack() as closing:
        stores = _StoreProbes(settings, closing)
        probes = Probes(
            TimedProbe(stores.postgres, within_s=_ANSWER_S),
            TimedProbe(stores.mongo, within_s=_ANSWER_S),
            TimedProbe(stores.ledger, within_s=_ANSWER_S),
        )
        metrics = Metrics(version=ragstore.__version__, probes=probes)
        with serving(options.metrics_at, metrics.registry, health):
            yield metrics


class _Opened:
    """The stores, opened when first needed: they may be unreachable when the process starts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Ragstore | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._store is not None:
            self._store.close()

    def store(self) -> Ragstore:
        """Both databases; once opened, they stay open even if they become unreachable.

        Raises:
            StoreError, RefusedError
        """
        if self._store is None:
            self._store = open_ragstore(self._settings)
        return self._store


class _Turns:
    """The turn of this process among all workers with the same paths; only one of them works at a time."""

    def __init__(self, settings: Settings, collection: str, paths: Sequence[str]) -> None:
        self._settings = settings
        self._collection = collection
        self._paths = [os.path.abspath(path) for path in paths]
        self._turn: Turn | None = None

    def mine(self) -> bool:
        """Whether it is this process's turn."""
        if self._turn is None:
            pool = postgres_pool(self._settings, reachable(self._settings))
            self._turn = Turn(pool, collection=self._collection, paths=self._paths)
        return self._turn.mine()

    def close(self) -> None:
        """Give the turn to another process."""
        if self._turn is not None:
            self._turn.close()


class _StoreProbes:
    """Probes of both databases, on separate connections and with short time-outs."""

    def __init__(self, settings: Settings, closing: ExitStack) -> None:
        self._settings = settings
        self._closing = closing
        self._lock = threading.Lock()
        self._pool: PostgresPool | None = None
        self._client: Client | None = None

    def postgres(self) -> None:
        """Probe PostgreSQL; raises StoreError if it does not answer."""
        ping(self._postgres())

    def ledger(self) -> LedgerGauges:
        """The gauges of the ledger."""
        return read_gauges(self._postgres())

    def mongo(self) -> None:
        """Probe MongoDB; raises StoreError if no member of its replica set accepts writes."""
        from ragstore.mongo.client import check_server, connect

        url = self._addresses().mongo_url
        with self._lock:
            if self._client is None:
                self._client = connect(url, timeout_s=_PROBE_S, pool_size=2)
                self._closing.callback(self._client.close)
        check_server(self._client, url)

    def _postgres(self) -> PostgresPool:
        with self._lock:
            if self._pool is None:
                url = self._addresses().postgres_url
                self._pool = PostgresPool(
                    url,
                    size=2,
                    connect_timeout_s=_PROBE_S,
                    statement_timeout_s=_PROBE_S,
                    idle_in_transaction_s=10,
                    schema=self._settings.postgres_schema,
                )
                self._closing.callback(self._pool.close)
            return self._pool

    def _addresses(self) -> Addresses:
        """Addresses of running servers; a probe starts none."""
        found = configured(self._settings)
        if found:
            return found
        urls = embedded.remembered_urls(home_of(self._settings))
        if urls is None:
            raise StoreUnavailableError("the embedded servers do not run", hint="start them with 'ragstore up'")
        return Addresses(urls.postgres_url, urls.mongo_url)
