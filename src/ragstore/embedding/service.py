"""Models behind HTTP: address, key, translation of failures, and calls with retries and a rate limit.

Every client library used here sends its requests through ``httpx``. So the key is added, statuses are
checked and failures are translated at that level, in the same way for all libraries, and no library has the key.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random,
    wait_random_exponential,
)

from ragstore.errors import ModelError, ModelUnavailableError, SettingsError

_MAX_DETAIL_CHARS = 300
_PASSING_STATUSES = frozenset({408, 425, 429})
OPENAI_URL = "https://api.openai.com/v1"
KEY_IS_ADDED_LATER = "added-when-sent"
"""Replaces the key in libraries that require one: without a key they would use a global one."""

Option = Literal["RAGSTORE_MODEL", "RAGSTORE_LLM"]

_CONNECTIONS = httpx.Limits(max_connections=16, max_keepalive_connections=8)


@dataclass(frozen=True, slots=True)
class Service:
    """Address and key of a model, and the settings that they come from.

    Args:
        name: the setting's value, e.g. ``openai:text-embedding-3-small``.
        url: without trailing slash, user name or password.
        option: the setting's name; the names of its key's, time-out's and usually address's settings start with it.
        url_option: the setting with the address, empty for ``option`` with ``_BASE_URL``.
    """

    name: str
    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0
    option: Option = "RAGSTORE_MODEL"
    url_option: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url_option", self.url_option or f"{self.option}_BASE_URL")
        if not _is_plain_http(self.url):
            # The URL is not shown: it may be unusable because of a password in it.
            raise SettingsError(
                f"the address in {self.url_option} is not an http or https URL without user name and password",
                hint=f"set {self.url_option} to http://HOST:PORT or the like, and {self.option}_API_KEY to the key",
                option=self.url_option,
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise SettingsError(
                f"the API key of {self.name} has characters that no key has",
                hint=f"set {self.option}_API_KEY to the key alone",
                option=f"{self.option}_API_KEY",
            )

    def __str__(self) -> str:
        return self.name if self.url in self.name else f"{self.name} at {self.url}"

    def client_kwargs(self) -> dict[str, Any]:
        """Arguments of ``httpx.Client`` for this service."""
        return {
            "auth": self._authorise,
            "event_hooks": {"response": [_raise_bad_status]},
            "follow_redirects": False,  # a redirected POST would become a GET, or send texts to another host
            "limits": _CONNECTIONS,
            "timeout": self.timeout_s,
        }

    def _authorise(self, request: httpx.Request) -> httpx.Request:
        """Replace any key that the library found in its own environment variables with our key."""
        request.headers.pop("Authorization", None)
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    @property
    def _key(self) -> str:
        # Files and pasted lines end in a newline, which httpx would refuse while showing the key.
        return (self.api_key or "").strip()

    def failure(self, error: BaseException) -> ModelError:
        """Translate an exception of a client library into our error."""
        for cause in _causes(error):
            if isinstance(cause, BadStatusError):
                return self._status_failure(cause)
            if isinstance(cause, httpx.TimeoutException):
                return ModelUnavailableError(
                    f"{self} did not answer within {self.timeout_s:g} s",
                    hint=f"raise {self.option}_TIMEOUT_S or see whether the server is overloaded",
                    **self._facts(),
                )
            if isinstance(cause, httpx.TransportError):
                return ModelUnavailableError(
                    f"{self} cannot be reached: {self._shown(str(cause)) or type(cause).__name__}",
                    hint=f"start the server or correct {self.url_option}",
                    **self._facts(),
                )
        return self.unusable_answer(f"it is not what such a server sends ({type(error).__name__})")

    def unusable_answer(self, what: str) -> ModelError:
        """The error for an answer that was received but cannot be used."""
        return ModelError(
            f"{self} gave an answer that cannot be used: {what}",
            hint=f"check the model's name and the address in {self._options}",
            **self._facts(),
        )

    def _status_failure(self, error: BadStatusError) -> ModelError:
        status, facts = error.status, {**self._facts(), "status": error.status}
        if status in _PASSING_STATUSES or status >= 500:
            what, hint = "failed", "see the log of that server, then try again"
            if status == 429:
                what, hint = "limits the rate of requests", "try again later"
                if self.option == "RAGSTORE_MODEL":
                    hint += f", or set {self.option}_REQUESTS_PER_MINUTE to what the server allows"
            facts["retry_after_s"] = error.retry_after_s
            return ModelUnavailableError(f"{self} {what} (status {status}){self._detail(error)}", hint=hint, **facts)

        what, hint = "refused the request", f"check {self.option}, and that the text is not longer than its model takes"
        if status in (401, 403):
            what, hint = "refused the API key", f"set {self.option}_API_KEY to a key that this server accepts"
        elif status == 404:
            what, hint = "was not found", f"check the model's name and the address in {self._options}"
        elif status < 400:
            what, hint = "redirects to another address", f"set {self.url_option} to that address"
        return ModelError(f"{self} {what} (status {status}){self._detail(error)}", hint=hint, **facts)

    @property
    def _options(self) -> str:
        return self.option if self.option == self.url_option else f"{self.option} and {self.url_option}"

    def _facts(self) -> dict[str, Any]:
        return {"model": self.name, "url": self.url}

    def _detail(self, error: BadStatusError) -> str:
        # A server that refuses a key may repeat it in its message, with a part of it masked.
        detail = "" if error.status in (401, 403) else self._shown(error.body)
        return f": {detail}" if detail else ""

    def _shown(self, text: str) -> str:
        """Text of the server as a message may show it: one short line without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return re.sub(r"\s+", " ", text).strip()[:_MAX_DETAIL_CHARS]


class BadStatusError(Exception):
    """A status other than 2xx; it is raised through a client library and translated by ``Service.failure``."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"status {response.status_code}")
        self.status = response.status_code
        self.retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
        self.body = response.text


def openai_url(name: str, base_url: str | None, api_key: str | None, option: Option) -> str:
    """The address of an OpenAI-compatible server; raises SettingsError for OpenAI's own without a key."""
    if base_url is None and not api_key:
        raise SettingsError(
            f"{name} at {OPENAI_URL} needs an API key",
            hint=f"set {option}_API_KEY, or {option}_BASE_URL to a server that needs none",
            option=f"{option}_API_KEY",
        )
    return (base_url or OPENAI_URL).rstrip("/")


def _raise_bad_status(response: httpx.Response) -> None:
    if not response.is_success:
        response.read()
        raise BadStatusError(response)


def _retry_after_s(header: str | None) -> float | None:
    """Seconds to wait, from a header of RFC 9110: a number of seconds, or a date."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip()):
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, until.replace(tzinfo=until.tzinfo or UTC).timestamp() - time.time())


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes, nearest first, also causes that a library hid with ``from None``."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__context__ if cause.__suppress_context__ and not cause.__cause__ else cause.__cause__


def _is_plain_http(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host) and not parsed.userinfo


T = TypeVar("T")

MAX_RETRY_AFTER_S = 120.0
"""If a server asks to wait longer than this, the call fails; its caller can try again later."""

_SECONDS_PER_MINUTE = 60.0
_jitter = wait_random(0, 0.5)
_back_off = wait_random_exponential(multiplier=0.5, max=30)

_FAILURES = (httpx.HTTPError, httpx.InvalidURL, BadStatusError, OSError)
# Errors of the client libraries for an answer of an unexpected shape: all of them read it without a check, and some
# even read an error page as an answer.
_MISREADINGS = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """Limits for retries and for the rate of calls.

    Args:
        max_retries: tries after the first.
        requests_per_minute: None is unlimited; retries count.
        sleep: waits this many seconds; a stop event's ``wait`` ends the waiting early.
    """

    max_retries: int = 5
    requests_per_minute: int | None = None
    sleep: Callable[[float], object] = time.sleep


class Caller:
    """Makes calls of one service, from any number of threads.

    Args:
        failures: the client library's own exceptions.
    """

    def __init__(self, service: Service, policy: CallPolicy, failures: tuple[type[Exception], ...] = ()) -> None:
        self._service = service
        self._policy = policy
        self._failures = failures + _FAILURES + _MISREADINGS
        self._rate_limit = _RateLimit(policy.requests_per_minute, policy.sleep)

    def call(self, request: Callable[[], T]) -> T:
        """Make a request with retries, and return its result.

        Raises:
            ModelUnavailableError: it still fails after the last retry, or the server asks to wait longer
                than ``MAX_RETRY_AFTER_S``; ``facts`` has ``retry_after_s`` if the server sent it.
            ModelError: the same request would fail the same way.
        """
        retrying = Retrying(
            stop=stop_after_attempt(self._policy.max_retries + 1),
            wait=_wait_s,
            retry=retry_if_exception(_may_pass),
            sleep=self._sleep,
            reraise=True,
        )
        result: T = retrying(self._once, request)
        return result

    def _sleep(self, seconds: float) -> None:
        self._policy.sleep(seconds)

    def _once(self, request: Callable[[], T]) -> T:
        self._rate_limit.wait_turn()
        try:
            return request()
        except self._failures as error:
            raise self._service.failure(error) from error


class _RateLimit:
    """Gives threads turns at equal intervals, in the order in which they ask."""

    def __init__(self, requests_per_minute: int | None, sleep: Callable[[float], object]) -> None:
        self._distance_s = _SECONDS_PER_MINUTE / requests_per_minute if requests_per_minute else 0.0
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_turn = 0.0

    def wait_turn(self) -> None:
        if not self._distance_s:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + self._distance_s
        if turn > now:
            self._sleep(turn - now)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ModelUnavailableError) and (error.facts.get("retry_after_s") or 0) <= MAX_RETRY_AFTER_S


def _wait_s(state: RetryCallState) -> float:
    """The server's waiting time plus a random part, so that clients return at different times; else back-off."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ModelUnavailableError) and error.facts.get("retry_after_s") is not None:
        return float(error.facts["retry_after_s"]) + _jitter(state)
    return _back_off(state)
