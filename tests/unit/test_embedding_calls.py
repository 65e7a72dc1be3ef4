from __future__ import annotations

import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from ragstore.embedding.service import MAX_RETRY_AFTER_S, BadStatusError, Caller, CallPolicy, Option, Service
from ragstore.errors import ModelError, ModelUnavailableError, SettingsError

KEY = "sk-very-secret"


def a_service(**changes: Any) -> Service:
    return Service(**{"name": "openai:m", "url": "http://model.test/v1", "api_key": KEY, **changes})


def a_status(status: int, body: str = "", **headers: str) -> BadStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return BadStatusError(httpx.Response(status, text=body, headers=named))


def a_request(*outcomes: Exception | str) -> Callable[[], str]:
    remaining = iter(outcomes)

    def request() -> str:
        outcome = next(remaining)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return request


class Sleeps(list[float]):
    """Takes note of what was to be slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def a_caller(sleeps: Sleeps, **policy: Any) -> Caller:
    return Caller(a_service(), CallPolicy(**{"max_retries": 3, "sleep": sleeps, **policy}))


@pytest.mark.parametrize(
    "passing",
    [
        a_status(408),
        a_status(425),
        a_status(429),
        a_status(500),
        a_status(503),
        a_status(529),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("disconnected"),
    ],
)
def test_a_cause_that_passes_is_tried_again(passing: Exception) -> None:
    sleeps = Sleeps()
    assert a_caller(sleeps).call(a_request(passing, passing, "done")) == "done"
    assert len(sleeps) == 2


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    sleeps = Sleeps()
    with pytest.raises(ModelError) as refused:
        a_caller(sleeps).call(a_request(a_status(status), "never reached"))
    assert not isinstance(refused.value, ModelUnavailableError)
    assert refused.value.facts["status"] == status
    assert "openai:m at http://model.test/v1" in refused.value.message
    assert "RAGSTORE_MODEL" in refused.value.hint
    assert sleeps == []


def test_it_gives_up_after_the_last_retry() -> None:
    sleeps = Sleeps()
    with pytest.raises(ModelUnavailableError, match="status 503"):
        a_caller(sleeps, max_retries=3).call(a_request(*[a_status(503)] * 4, "never reached"))
    assert len(sleeps) == 3


def test_the_waits_grow_and_are_bounded() -> None:
    sleeps = Sleeps()
    for _ in range(50):
        with pytest.raises(ModelUnavailableError):
            a_caller(sleeps, max_retries=9).call(a_request(*[a_status(500)] * 10))
    first, last = sleeps[0::9], sleeps[8::9]
    assert max(first) <= 0.5
    assert 5 < max(last) <= 30
    assert len(set(sleeps)) == len(sleeps), "all clients of a server would come back at the same moment"


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    sleeps = Sleeps()
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    limits = [a_status(429, Retry_After="7"), a_status(503, Retry_After=in_a_minute), a_status(429, Retry_After="soon")]
    a_caller(sleeps).call(a_request(*limits, "done"))
    assert 7 <= sleeps[0] <= 7.5
    assert 55 <= sleeps[1] <= 61
    assert sleeps[2] <= 2, "what cannot be read is not waited for"


def test_a_server_that_asks_for_too_long_a_wait_is_given_up_on_at_once() -> None:
    sleeps = Sleeps()
    with pytest.raises(ModelUnavailableError) as limited:
        a_caller(sleeps).call(a_request(a_status(429, Retry_After=str(MAX_RETRY_AFTER_S + 1)), "never reached"))
    assert limited.value.facts["retry_after_s"] == MAX_RETRY_AFTER_S + 1
    assert sleeps == []


def test_a_programming_error_is_not_taken_for_a_failure_of_the_server() -> None:
    with pytest.raises(RuntimeError, match="our own"):
        a_caller(Sleeps()).call(a_request(RuntimeError("our own")))


def test_an_answer_that_a_library_cannot_read_is_an_error_of_the_model() -> None:
    with pytest.raises(ModelError, match="not what such a server sends"):
        a_caller(Sleeps()).call(a_request(AttributeError("'str' object has no attribute 'data'")))


def test_an_earlier_failure_of_another_server_is_not_the_cause_of_this_one() -> None:
    sleeps = Sleeps()

    def after_another_failed() -> str:
        try:
            raise httpx.ConnectError("the other server")
        except httpx.ConnectError:
            return a_caller(sleeps).call(a_request(ValueError("not JSON"), "never reached"))

    with pytest.raises(ModelError, match="not what such a server sends"):
        after_another_failed()
    assert sleeps == []


def test_calls_keep_their_distance_and_retries_count() -> None:
    sleeps = Sleeps()
    caller = a_caller(sleeps, requests_per_minute=60)
    caller.call(a_request("first"))
    caller.call(a_request("second"))
    caller.call(a_request(a_status(429, Retry_After="0"), "third"))
    paces = [seconds for seconds in sleeps if seconds > 0.5]
    assert paces == pytest.approx([1, 2, 3], abs=0.3)


def test_threads_get_turns_of_their_own() -> None:
    sleeps = Sleeps()
    caller = a_caller(sleeps, requests_per_minute=6)
    threads = [threading.Thread(target=caller.call, args=(a_request("done"),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sleeps) == pytest.approx([10, 20, 30, 40, 50, 60, 70], abs=2)


@pytest.mark.parametrize(
    "error",
    [
        a_status(400, f"bad key {KEY}"),
        a_status(401, f"Incorrect API key provided: {KEY[:6]}****"),
        a_status(500, f"Authorization: Bearer {KEY}"),
        httpx.ConnectError(f"proxy says {KEY}"),
        ValueError(f"not JSON: {KEY}"),
    ],
)
@pytest.mark.parametrize("key", [KEY, f"  {KEY}\n"])
def test_the_key_is_in_no_message(error: Exception, key: str) -> None:
    caller = Caller(a_service(api_key=key), CallPolicy(max_retries=0))
    with pytest.raises(ModelError) as failed:
        caller.call(a_request(error))
    shown = f"{failed.value!r} {failed.value} {failed.value.facts} {a_service(api_key=key)!r}"
    assert KEY not in shown
    assert KEY[:6] not in shown


def test_foreign_words_are_cut_to_one_line() -> None:
    with pytest.raises(ModelError) as failed:
        a_caller(Sleeps()).call(a_request(a_status(400, "line\n\n  two " + "x" * 9000)))
    assert "line two xxx" in failed.value.message
    assert len(failed.value.message) < 500


@pytest.mark.parametrize(
    "url",
    ["", "model.test/v1", "ftp://model.test", "http://", "http://me:hidden@model.test", "http://[::1", "http://a:b:c"],
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(SettingsError, match="RAGSTORE_MODEL_BASE_URL") as refused:
        a_service(url=url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-…", "sk\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SettingsError, match="RAGSTORE_MODEL_API_KEY") as refused:
        a_service(api_key=key)
    assert key not in str(refused.value)


@pytest.mark.parametrize("option", ["RAGSTORE_MODEL", "RAGSTORE_LLM"])
def test_hints_name_the_options_of_the_model_concerned(option: Option) -> None:
    service = a_service(option=option)
    failures = [a_status(401), a_status(404), a_status(422), httpx.ReadTimeout(""), httpx.ConnectError(""), KeyError(0)]
    for failure in failures:
        assert option in service.failure(failure).hint
    assert ("RAGSTORE_MODEL" in service.failure(a_status(429)).hint) == (option == "RAGSTORE_MODEL")
