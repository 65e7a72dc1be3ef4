"""Metrics against their own table, and what is served over HTTP."""

from __future__ import annotations

import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ragstore.errors import StoreUnavailableError, UsageError
from ragstore.model.collection import Found, FoundInSegment
from ragstore.model.report import IngestReport
from ragstore.postgres.documents import CollectionGauges, LedgerGauges
from ragstore.worker import metrics as metrics_module
from ragstore.worker.health import Health, parsed_address, serving
from ragstore.worker.metrics import Metrics, Probes, TimedProbe
from tests.support.children import until

FOUND = Found(0.99, 1.0, 0.98, (FoundInSegment(30, 0.97, 1.0), FoundInSegment(10, None, 1.0)))
LEDGER = LedgerGauges(
    3, 1.5, 2, 1, [CollectionGauges("docs", 10, 40, 1, 2, FOUND), CollectionGauges("notes", 1, 2, 0, 0, None)]
)
_ROW = re.compile(r"^(ragstore_\w+)(?:\{([\w,]+)\})? +(gauge|counter|histogram) ", re.MULTILINE)


class Stores:
    """What the probes see."""

    def __init__(self) -> None:
        self.up = {"postgres": True, "mongo": True, "ledger": True}

    def _ask(self, name: str) -> None:
        if not self.up[name]:
            raise StoreUnavailableError(f"{name} is away")

    def ledger(self) -> LedgerGauges:
        self._ask("ledger")
        return LEDGER

    @property
    def probes(self) -> Probes:
        return Probes(lambda: self._ask("postgres"), lambda: self._ask("mongo"), self.ledger)


@pytest.fixture
def stores() -> Stores:
    return Stores()


@pytest.fixture
def metrics(stores: Stores) -> Metrics:
    return Metrics(version="1.2.3", probes=stores.probes)


@pytest.fixture
def health() -> Health:
    return Health(10, lambda: 0.0)


@pytest.fixture
def port(metrics: Metrics, health: Health) -> Iterator[int]:
    with serving("127.0.0.1:0", metrics.registry, health) as port:
        assert port
        yield port


def fetched(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scraped(port: int) -> dict[tuple[str, str], float]:
    """(name, values of its labels) → value, but for buckets."""
    status, text = fetched(port, "/metrics")
    assert status == 200
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_the_table_names_every_metric_with_its_type_and_label(port: int) -> None:
    described = {(name, label, kind) for name, label, kind in _ROW.findall(metrics_module.__doc__ or "")}
    text = fetched(port, "/metrics")[1]
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    served = {
        (name, ",".join(k for k in re.findall(r"(\w+)=", labels or "") if k != "le"), kinds[name])
        for name, labels in re.findall(r"^(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$", text, re.MULTILINE)
    }
    assert served == described


def test_every_metric_says_what_it_is(port: int) -> None:
    text = fetched(port, "/metrics")[1]
    assert set(re.findall(r"^# HELP (\w+) \S", text, re.MULTILINE)) == set(
        re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)
    )


def test_the_values_are_those_of_the_ledger_and_of_what_was_done(metrics: Metrics, port: int) -> None:
    metrics.working(True)
    metrics.passed("changed", 2.0)
    metrics.passed("standing_by", 0.1)
    metrics.reported(IngestReport(added=3, deleted=2, failed=5, embedded=7, reused=1), n_failed=1)
    now = scraped(port)
    assert now["ragstore_build_info", "1.2.3"] == 1
    assert now["ragstore_documents", "docs"] == 10
    assert now["ragstore_nodes", "notes"] == 2
    assert now["ragstore_quarantined_documents", "docs"] == 1
    recalls = [now[f"ragstore_{name}recall", "docs"] for name in ("", "self_", "asked_")]
    assert recalls == [0.99, 1.0, 0.98] and ("ragstore_recall", "notes") not in now
    assert now["ragstore_segment_recall", "docs,0"] == 0.97 and ("ragstore_segment_recall", "docs,1") not in now
    assert now["ragstore_segment_self_recall", "docs,1"] == 1
    assert (now["ragstore_outbox_rows", ""], now["ragstore_outbox_oldest_due_seconds", ""]) == (3, 1.5)
    assert (now["ragstore_runs", ""], now["ragstore_runs_expired", ""]) == (2, 1)
    assert now["ragstore_passes_total", "changed"] == now["ragstore_passes_total", "standing_by"] == 1
    assert now["ragstore_passes_total", "failed"] == 0
    assert (now["ragstore_pass_duration_seconds_count", ""], now["ragstore_pass_duration_seconds_sum", ""]) == (1, 2)
    assert now["ragstore_documents_total", "added"] == 3
    assert now["ragstore_documents_total", "failed"] == 1
    assert now["ragstore_chunks_total", "embedded"] == 7
    assert now["ragstore_working", ""] == 1
    assert now["ragstore_last_success_timestamp_seconds", ""] > 1_700_000_000


@pytest.mark.parametrize(
    ("away", "up", "has_ledger"),
    [("postgres", (0, 1), False), ("mongo", (1, 0), True), ("ledger", (1, 1), False)],
)
def test_a_store_that_is_away_fails_no_scrape(
    away: str, up: tuple[int, int], has_ledger: bool, stores: Stores, port: int
) -> None:
    stores.up[away] = False
    now = scraped(port)
    assert (now["ragstore_store_up", "postgres"], now["ragstore_store_up", "mongo"]) == up
    assert (("ragstore_runs", "") in now) is has_ledger
    assert ("ragstore_working", "") in now


def test_health_says_ok_or_why_not(metrics: Metrics) -> None:
    now = 0.0
    health = Health(10, lambda: now)
    with serving("127.0.0.1:0", metrics.registry, health) as port:
        assert port
        assert fetched(port, "/health") == (200, "ok\n")
        now = 91.0
        assert fetched(port, "/health") == (503, "no sign of life for 91 s\n")


def test_nothing_else_is_served(port: int) -> None:
    assert fetched(port, "/")[0] == fetched(port, "/metrics/../etc/passwd")[0] == 404
    assert fetched(port, "/metrics?name=x")[0] == 200


def test_a_client_that_says_nothing_holds_up_nobody(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        assert fetched(port, "/health")[0] == 200


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_addresses(address: str, parsed: tuple[str, int]) -> None:
    assert parsed_address(address) == parsed


@pytest.mark.parametrize(
    "address", ["", "9464", ":9464", "host", "host:", "host:x", "host:65536", "::1:9464", "[]:1", "h:²"]
)
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(UsageError) as raised:
        parsed_address(address)
    assert "HOST:PORT" in raised.value.hint


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_address_where_nothing_can_listen_is_refused(host: str, port: int, metrics: Metrics, health: Health) -> None:
    with pytest.raises(UsageError, match="cannot listen"), serving(f"{host}:{port}", metrics.registry, health):
        pass


def test_a_question_without_an_answer_holds_up_neither_this_look_nor_the_next() -> None:
    answers = threading.Event()
    look = TimedProbe(lambda: answers.wait(60), within_s=0.05)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="no answer within"):
            look()
    answers.set()
    patient = TimedProbe(lambda: 42, within_s=60)
    assert [patient(), patient()] == [42, 42]
    until(lambda: answered(look), what="the next look is answered")


def answered(look: TimedProbe[bool]) -> bool:
    try:
        return look()
    except StoreUnavailableError:
        return False
