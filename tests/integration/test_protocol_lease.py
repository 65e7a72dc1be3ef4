"""Leases: renewed while a run is worked on, and not trusted any longer than they are sure."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ragstore.errors import LeaseLostError
from ragstore.model.run import Run, new_run_id
from ragstore.postgres.ledger import Ledger
from ragstore.postgres.pool import PostgresPool
from ragstore.protocol.publish import Heartbeat
from ragstore.settings import Settings
from tests.support.children import until
from tests.support.parts import Parts, execute, open_parts

pytestmark = pytest.mark.on_both

TTL_S = 0.6


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    with open_parts(settings) as parts:
        yield parts


@pytest.fixture
def heartbeat(parts: Parts) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(parts.ledger, lease_ttl_s=TTL_S)
    yield heartbeat
    heartbeat.close()


def a_begun_run(parts: Parts) -> Run:
    run = Run(new_run_id(), "elsewhere/1/2/3", ["a node"])
    parts.ledger.begin_run(run, parts.collection, lease_ttl_s=TTL_S)
    return run


def lease_of(settings: Settings, run: Run) -> Any:
    return execute(settings, "SELECT lease_until FROM ragstore.run WHERE run_id = %s", [run.run_id])[0][0]


def is_lost(heartbeat: Heartbeat, run: Run) -> bool:
    try:
        heartbeat.check(run)
    except LeaseLostError:
        return True
    return False


def test_a_run_outlives_its_first_lease_while_it_is_held(
    settings: Settings, parts: Parts, heartbeat: Heartbeat
) -> None:
    run = a_begun_run(parts)
    first = lease_of(settings, run)
    with heartbeat.holding(run, begun_at=time.monotonic()):
        until(lambda: (lease_of(settings, run) - first).total_seconds() > 2 * TTL_S, what="the lease was renewed twice")
        heartbeat.check(run)
        assert parts.recoverer.recover().runs_abandoned == 0
    until(lambda: parts.recoverer.recover().runs_abandoned == 1, what="the lease runs out once nobody holds the run")


def test_a_run_that_somebody_recovered_is_noticed(settings: Settings, parts: Parts, heartbeat: Heartbeat) -> None:
    run = a_begun_run(parts)
    with heartbeat.holding(run, begun_at=time.monotonic()):
        heartbeat.check(run)
        execute(settings, "DELETE FROM ragstore.run")
        until(lambda: is_lost(heartbeat, run), what="the next beat finds no run")


def test_a_worker_that_is_cut_off_stops_trusting_its_lease() -> None:
    cut_off = Heartbeat(Ledger(PostgresPool("postgresql://nobody@127.0.0.1:1/nothing")), lease_ttl_s=TTL_S)
    run = Run(new_run_id(), "elsewhere/1/2/3", [])
    with cut_off.holding(run, begun_at=time.monotonic()):
        cut_off.check(run)
        until(lambda: is_lost(cut_off, run), what="the lease is not sure any more")
    cut_off.close()


def test_a_run_that_nobody_holds_is_not_trusted(parts: Parts, heartbeat: Heartbeat) -> None:
    assert is_lost(heartbeat, a_begun_run(parts))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_renews_its_own_leases(settings: Settings, parts: Parts, heartbeat: Heartbeat) -> None:
    with heartbeat.holding(a_begun_run(parts), begun_at=time.monotonic()):
        child = os.fork()
        if child == 0:
            # Nothing of the test session may run on in the child, whatever happens.
            try:
                run = a_begun_run(parts)
                first = lease_of(settings, run)
                with heartbeat.holding(run, begun_at=time.monotonic()):
                    until(lambda: lease_of(settings, run) > first, what="the lease was renewed", timeout_s=10)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
