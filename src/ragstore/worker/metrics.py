"""Prometheus metrics of ``worker`` and ``maintain``, and probes of the stores with a time-out.

================================================  =========  =========================================================
name                                              type       meaning
================================================  =========  =========================================================
ragstore_build_info{version}                      gauge      1, for the version that runs
ragstore_documents{collection}                    gauge      live documents, from the ledger
ragstore_nodes{collection}                        gauge      live nodes, from the ledger
ragstore_quarantined_documents{collection}        gauge      documents set aside, from the ledger
ragstore_segments{collection}                     gauge      segments of the vector index
ragstore_recall{collection}                       gauge      share of the 10 nearest nodes that is found, as measured
ragstore_self_recall{collection}                  gauge      share of nodes that their own vector finds, as measured
ragstore_asked_recall{collection}                 gauge      share of the 10 nearest of the last questions, as measured
ragstore_segment_recall{collection,segment}       gauge      the same of one segment, by its place from 0
ragstore_segment_self_recall{collection,segment}  gauge      the same of one segment's nodes
ragstore_outbox_rows                              gauge      what must still happen in MongoDB, from the ledger
ragstore_outbox_oldest_due_seconds                gauge      how long the oldest of it that is due waits, 0 for none
ragstore_runs                                     gauge      runs in flight, from the ledger
ragstore_runs_expired                             gauge      runs whose lease ran out, not recovered yet
ragstore_store_up{store}                          gauge      1 where postgres or mongo answers, else 0
ragstore_passes_total{outcome}                    counter    rounds: changed, idle, refused, failed, standing_by
ragstore_pass_duration_seconds                    histogram  length of the rounds at work
ragstore_last_success_timestamp_seconds           gauge      end of the last round changed or idle, 0 before it
ragstore_documents_total{action}                  counter    added, updated, renamed, deleted, failed: by this process
ragstore_chunks_total{kind}                       counter    embedded, reused: published by this process
ragstore_working                                  gauge      1 at work, 0 standing by
================================================  =========  =========================================================

The ledger is read at each request of Prometheus. If it does not answer in time, its gauges are left out; counters are
always there. They are served as text, not as OpenMetrics, where a gauge and a counter cannot share the name
``ragstore_documents``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ragstore.errors import StoreError, StoreUnavailableError
from ragstore.model.report import IngestReport
from ragstore.postgres.documents import LedgerGauges
from ragstore.worker.rounds import Outcome

OUTCOMES: tuple[Outcome, ...] = ("changed", "idle", "refused", "failed", "standing_by")
ACTIONS = ("added", "updated", "renamed", "deleted", "failed")
KINDS = ("embedded", "reused")

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


@dataclass(frozen=True, slots=True)
class Probes:
    """Probes of the stores; each raises StoreError if its store does not answer in time."""

    postgres: Callable[[], None]
    mongo: Callable[[], None]
    ledger: Callable[[], LedgerGauges]


class Metrics:
    """The counters of this process, and gauges that are read from the ledger at each request."""

    def __init__(self, *, version: str, probes: Probes) -> None:
        without_times_of_creation: Callable[[], None] = disable_created_metrics
        without_times_of_creation()
        self.registry = registry = CollectorRegistry()
        build = Gauge("ragstore_build_info", "1, for the version that runs", ["version"], registry=registry)
        build.labels(version).set(1)
        self._passes = Counter("ragstore_passes", "rounds, by how they ended", ["outcome"], registry=registry)
        self._durations = Histogram(
            "ragstore_pass_duration_seconds", "length of a round at work", buckets=_SECONDS, registry=registry
        )
        self._succeeded = Gauge(
            "ragstore_last_success_timestamp_seconds", "end of the last round that succeeded", registry=registry
        )
        self._documents = Counter(
            "ragstore_documents", "documents that this process changed", ["action"], registry=registry
        )
        self._chunks = Counter("ragstore_chunks", "chunks that this process published", ["kind"], registry=registry)
        self._working = Gauge("ragstore_working", "1 at work, 0 standing by", registry=registry)
        for outcome in OUTCOMES:
            self._passes.labels(outcome)
        for action in ACTIONS:
            self._documents.labels(action)
        for kind in KINDS:
            self._chunks.labels(kind)
        registry.register(_Stores(probes))

    def passed(self, outcome: Outcome, seconds: float) -> None:
        self._passes.labels(outcome).inc()
        if outcome != "standing_by":
            self._durations.observe(seconds)
        if outcome in ("changed", "idle"):
            self._succeeded.set(time.time())

    def reported(self, report: IngestReport, *, n_failed: int) -> None:
        """Count the work of a sync, also of one that refused to delete; ``n_failed`` of its failures are new."""
        for action in ACTIONS:
            self._documents.labels(action).inc(n_failed if action == "failed" else getattr(report, action))
        for kind in KINDS:
            self._chunks.labels(kind).inc(getattr(report, kind))

    def working(self, at_work: bool) -> None:
        """Set whether this process is the one that works."""
        self._working.set(1 if at_work else 0)


class _Stores(Collector):
    """Collector that probes both stores at each request for the metrics."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    def collect(self) -> Iterator[Metric]:
        """Gauges of the stores that answer in time."""
        has_postgres, has_mongo = _answers(self._probes.postgres), _answers(self._probes.mongo)
        up = GaugeMetricFamily("ragstore_store_up", "1 where the store answers, else 0", labels=["store"])
        up.add_metric(["postgres"], int(has_postgres))
        up.add_metric(["mongo"], int(has_mongo))
        yield up
        if has_postgres:
            try:
                yield from _ledger_metrics(self._probes.ledger())
            except StoreError:
                # Too slow, or not migrated yet: gauges without a value are left out.
                return

    def describe(self) -> list[Metric]:
        """Nothing in advance: probes take time, and one name belongs to a gauge and to a counter."""
        return []


def _answers(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except StoreError:
        return False
    return True


def _found_metrics(ledger: LedgerGauges) -> Iterator[Metric]:
    for name, help_text, attribute in (
        ("ragstore_recall", "share of the 10 nearest nodes that searches find, as measured", "recall"),
        ("ragstore_self_recall", "share of the nodes that their own vector finds first, as measured", "self_recall"),
        ("ragstore_asked_recall", "share of the 10 nearest of the last questions, as measured", "asked_recall"),
    ):
        family = GaugeMetricFamily(name, help_text, labels=["collection"])
        for collection in ledger.collections:
            share = getattr(collection.found, attribute, None)
            if share is not None:
                family.add_metric([collection.name], share)
        yield family
    for name, help_text, attribute in (
        ("ragstore_segment_recall", "of the 10 nearest nodes those of one segment, share that is found", "recall"),
        ("ragstore_segment_self_recall", "share of a segment's nodes that their own vector finds first", "self_recall"),
    ):
        family = GaugeMetricFamily(name, help_text, labels=["collection", "segment"])
        for collection in ledger.collections:
            for place, segment in enumerate(collection.found.of_segments if collection.found else ()):
                share = getattr(segment, attribute)
                if share is not None:
                    family.add_metric([collection.name, str(place)], share)
        yield family


def _ledger_metrics(ledger: LedgerGauges) -> Iterator[Metric]:
    for name, help_text, value in (
        ("ragstore_outbox_rows", "what must still happen in MongoDB", ledger.n_outbox),
        ("ragstore_outbox_oldest_due_seconds", "how long the oldest of it that is due waits", ledger.oldest_due_s),
        ("ragstore_runs", "runs in flight", ledger.n_runs),
        ("ragstore_runs_expired", "runs whose lease ran out, not recovered yet", ledger.n_runs_expired),
    ):
        yield GaugeMetricFamily(name, help_text, value=value)
    for name, help_text, attribute in (
        ("ragstore_documents", "live documents", "n_documents"),
        ("ragstore_nodes", "live nodes", "n_nodes"),
        ("ragstore_quarantined_documents", "documents set aside", "n_quarantined"),
        ("ragstore_segments", "segments of the vector index", "n_segments"),
    ):
        family = GaugeMetricFamily(name, help_text, labels=["collection"])
        for collection in ledger.collections:
            family.add_metric([collection.name], getattr(collection, attribute))
        yield family
    yield from _found_metrics(ledger)


T = TypeVar("T")


class TimedProbe(Generic[T]):
    """Runs a blocking probe with a time-out, in a thread of its own.

    A database that was stopped in the middle of an answer blocks its clients until it runs again; a statement time-out
    does not help, because the server measures it. Only one probe runs at a time; the next call waits for it.
    """

    def __init__(self, ask: Callable[[], T], *, within_s: float) -> None:
        self._ask = ask
        self._within_s = within_s
        self._busy = threading.Lock()

    def __call__(self) -> T:
        """The answer of the probe.

        Raises:
            StoreError: the probe raised it; or this probe, or the one before, did not end within ``within_s`` seconds.
        """
        if not self._busy.acquire(timeout=self._within_s):
            raise self._too_late()
        answers: queue.SimpleQueue[T | StoreError] = queue.SimpleQueue()
        threading.Thread(target=self._put_answer, args=(answers,), name="ragstore-look", daemon=True).start()
        try:
            answer = answers.get(timeout=self._within_s)
        except queue.Empty:
            raise self._too_late() from None
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def _put_answer(self, answers: queue.SimpleQueue[T | StoreError]) -> None:
        try:
            answers.put(self._ask())
        except StoreError as error:
            answers.put(error)
        finally:
            self._busy.release()

    def _too_late(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"no answer within {self._within_s:g} s", hint="see 'ragstore status'; the server may be stopped"
        )
