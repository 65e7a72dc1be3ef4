"""Backoff, health and rounds of processes that live long."""

from __future__ import annotations

import logging

import pytest

from ragstore.errors import (
    EmptyStoreError,
    MassDeletionError,
    ParseError,
    RagstoreError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from ragstore.worker.health import Health
from ragstore.worker.rounds import Backoff, LogOnce, Outcome, RoundResult, Rounds


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Counted:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def passed(self, outcome: Outcome, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes.append(outcome)


class Script:
    """Rounds that end as told, one after the other."""

    def __init__(self, *steps: Outcome | RagstoreError) -> None:
        self.steps = list(steps)

    def __call__(self) -> RoundResult:
        step = self.steps.pop(0)
        if isinstance(step, RagstoreError):
            raise step
        return RoundResult(step, 7.0)


@pytest.fixture
def watcher() -> Counted:
    return Counted()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rounds(watcher: Counted, clock: Clock) -> Rounds:
    return Rounds(every_s=7.0, health=Health(7.0, clock), watcher=watcher)


AWAY = StoreUnavailableError("PostgreSQL: connection refused", hint="see 'ragstore status'")


def test_pauses_grow_to_half_a_minute_and_begin_anew_after_a_success() -> None:
    backoff = Backoff()
    assert [backoff.next_s() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]
    backoff.reset()
    assert backoff.next_s() == 1


def test_a_message_is_told_once_until_it_changes_or_gets_old(clock: Clock) -> None:
    log_once = LogOnce(clock)
    assert [log_once.is_new(text) for text in ("a", "a", "b", "a", "a")] == [True, False, True, True, False]
    clock.now += 301
    assert log_once.is_new("a")
    log_once.reset()
    assert log_once.is_new("a")


def test_what_passes_by_itself_is_tried_again_after_growing_pauses(rounds: Rounds, watcher: Counted) -> None:
    script = Script(AWAY, AWAY, EmptyStoreError("emptied"), "idle", AWAY)
    assert [rounds.one(script) for _ in range(5)] == [1, 2, 4, 7, 1]
    assert watcher.outcomes == ["failed", "failed", "failed", "idle", "failed"]


def test_a_refused_mass_deletion_is_told_and_the_next_pass_comes_in_time(
    rounds: Rounds, watcher: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    refused = MassDeletionError("12 of 40 are gone", hint="--allow-mass-delete")
    assert [rounds.one(Script(refused)) for _ in range(3)] == [7, 7, 7]
    assert watcher.outcomes == ["refused"] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.fields["hint"] == "--allow-mass-delete"  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [UsageError("no such path"), StoreError("syntax error")])
def test_what_would_fail_for_ever_ends_the_process(rounds: Rounds, error: RagstoreError) -> None:
    with pytest.raises(type(error)):
        rounds.one(Script(error))


def test_what_is_about_one_document_does_not_end_the_process(rounds: Rounds) -> None:
    assert rounds.one(Script(ParseError("truncated"))) == 1


def test_an_outage_is_one_line_and_its_end_lets_the_next_one_be_told(
    rounds: Rounds, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(AWAY, AWAY, AWAY, "idle", AWAY)
    for _ in range(5):
        rounds.one(script)
    assert len(caplog.records) == 2


def test_a_process_is_well_while_its_rounds_end(clock: Clock) -> None:
    health = Health(10, clock)
    clock.now += 90
    assert health.unhealthy_reason() is None
    clock.now += 1
    assert health.unhealthy_reason() == "no sign of life for 91 s"
    health.alive()
    assert health.unhealthy_reason() is None


def test_a_process_that_fails_for_long_is_ill_until_it_succeeds(clock: Clock) -> None:
    health = Health(10, clock)
    for _ in range(4):
        health.failed("PostgreSQL: connection\nrefused")
        clock.now += 30
    assert health.unhealthy_reason() == "failing for 120 s: PostgreSQL: connection refused"
    health.alive()
    assert health.unhealthy_reason()
    health.succeeded()
    assert health.unhealthy_reason() is None


def test_a_step_that_takes_as_long_as_it_takes_is_no_illness(clock: Clock) -> None:
    health = Health(10, clock)
    with health.long_step():
        clock.now += 10_000
        assert health.unhealthy_reason() is None
    assert health.unhealthy_reason() is None
    clock.now += 91
    assert health.unhealthy_reason()


def test_a_failing_process_in_a_long_step_is_still_ill(clock: Clock) -> None:
    health = Health(10, clock)
    health.failed("down")
    with health.long_step():
        clock.now += 91
        assert health.unhealthy_reason()
