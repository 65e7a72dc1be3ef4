"""Language model that writes answers: any server that speaks the OpenAI protocol, by plain HTTP.

No client library is used: importing one takes seconds, and only one POST is needed.
"""

from __future__ import annotations

import json
import re
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from ragstore.embedding.service import BadStatusError, Caller, CallPolicy, Service, openai_url
from ragstore.errors import SettingsError
from ragstore.query.answer import Llm, Tell

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_THOUGHT_BEGINS = "<think>"
_EVENT = "data:"
_LAST_EVENT = "[DONE]"

CHARS_PER_TOKEN = 3
"""A safe estimate: English text has four to five, code and other languages fewer."""

PROMPT_TOKENS = 300
"""Tokens of the prompt of ``ask`` without the quoted texts and the question."""


@dataclass(frozen=True, slots=True)
class LlmOptions:
    """Address, key and limits of the model.

    Args:
        base_url: URL of an OpenAI-compatible server, with its ``/v1``; None for OpenAI's own.
        api_key: sent as a bearer token, only to that server; never shown.
        chat: whether the server applies a chat template (``/chat/completions``) or none (``/completions``).
        context_window: tokens that prompt and answer may take together.
        max_answer_tokens: most tokens of an answer.
        max_retries: tries after the first if the server is unreachable, overloaded or too slow.
        timeout_s: longest silence of the server within one request, in seconds.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    chat: bool = True
    context_window: int = 8192
    max_answer_tokens: int = 1024
    max_retries: int = 5
    timeout_s: float = 120.0

    @property
    def max_context_chars(self) -> int:
        """Most characters of quoted text for ``ask`` that leave room for prompt and answer."""
        tokens = self.context_window - self.max_answer_tokens - PROMPT_TOKENS
        if tokens < PROMPT_TOKENS:
            raise SettingsError(
                f"a context of {self.context_window} tokens leaves no room for sources and an answer",
                hint="set context_window higher or max_answer_tokens lower",
                option="context_window",
            )
        return tokens * CHARS_PER_TOKEN


_DEFAULTS = LlmOptions()


def load_llm(setting: str, options: LlmOptions = _DEFAULTS, *, sleep: Callable[[float], object] = time.sleep) -> Llm:
    """The model that a setting names, ``openai:MODEL``.

    Raises:
        SettingsError: the setting names no model, or an option that it needs is not set.
    """
    kind, _, model = setting.partition(":")
    if kind != "openai" or not model:
        raise SettingsError(
            f"{setting!r} names no language model", hint="set RAGSTORE_LLM to openai:MODEL", option="RAGSTORE_LLM"
        )
    url = openai_url(setting, options.base_url, options.api_key, "RAGSTORE_LLM")
    service = Service(setting, url, options.api_key, options.timeout_s, option="RAGSTORE_LLM")
    return OpenAiLlm(service, model, options, Caller(service, CallPolicy(options.max_retries, sleep=sleep)))


class OpenAiLlm:
    """A model of a server that speaks the OpenAI protocol; its connections are released with this object."""

    def __init__(self, service: Service, model: str, options: LlmOptions, caller: Caller) -> None:
        self._service = service
        self._model = model
        self._options = options
        self._caller = caller
        self._client = httpx.Client(**service.client_kwargs())
        weakref.finalize(self, self._client.close)

    def complete(self, prompt: str, tell: Tell | None = None) -> str:
        """The model's answer, without the thoughts that it wrote before.

        Raises:
            ModelUnavailableError: the server did not answer, after all retries; or it broke off its answer.
            ModelError: the server refused, or the answer is empty.
        """
        try:
            text = self._caller.call(lambda: self._answer(prompt, tell)).strip()
        except _BrokenOffError as broken:
            raise self._service.failure(broken.why) from broken.why
        if not text:
            raise self._service.unusable_answer("no text")
        return text

    def _answer(self, prompt: str, tell: Tell | None) -> str:
        try:
            return self._posted(prompt, tell, _limits(self._options))
        except BadStatusError as error:
            # Newer models of OpenAI accept neither these names nor a temperature.
            if error.status != 400 or not any(name in error.body for name in ("max_completion_tokens", "temperature")):
                raise
            return self._posted(prompt, tell, {"max_completion_tokens": self._options.max_answer_tokens})

    def _posted(self, prompt: str, tell: Tell | None, limits: dict[str, Any]) -> str:
        asked = {"messages": [{"role": "user", "content": prompt}]} if self._options.chat else {"prompt": prompt}
        body = {"model": self._model, **asked, **limits, "stream": tell is not None}
        path = "chat/completions" if self._options.chat else "completions"
        # ASCII escapes, because a prompt may have characters that UTF-8 cannot represent.
        content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with self._client.stream("POST", f"{self._service.url}/{path}", content=content, headers=headers) as response:
            if "text/event-stream" in response.headers.get("Content-Type", ""):
                return _spoken_text(_pieces(response), tell)
            response.read()
            # A server that does not stream sends one document.
            return _spoken_text(iter([_text_of(response.json(), "message")]), tell)


class _BrokenOffError(Exception):
    """An answer of which a part was passed on already, so that the request cannot be repeated."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


def _limits(options: LlmOptions) -> dict[str, Any]:
    return {"max_tokens": options.max_answer_tokens, "temperature": 0}


def _pieces(response: httpx.Response) -> Iterator[str]:
    """The pieces of a streamed answer; raises if the answer has no end."""
    ended = False
    for line in response.iter_lines():
        if not line.startswith(_EVENT):
            continue
        data = line.removeprefix(_EVENT).strip()
        if data == _LAST_EVENT:
            return
        event = json.loads(data)
        if "error" in event:
            raise httpx.RemoteProtocolError(f"it broke off: {event['error']}")
        if event.get("choices"):
            ended = ended or bool(event["choices"][0].get("finish_reason"))
            yield _text_of(event, "delta")
    if not ended:
        raise httpx.RemoteProtocolError("the answer broke off")


def _text_of(answer: dict[str, Any], part: str) -> str:
    """The text of a chat message, of a piece of one, or of a plain completion."""
    choice = answer["choices"][0]
    text = choice["text"] if "text" in choice else choice[part].get("content")
    if text is not None and not isinstance(text, str):
        raise TypeError(type(text).__name__)
    return text or ""


def _spoken_text(pieces: Iterator[str], tell: Tell | None) -> str:
    """All pieces as one text without thoughts; each is passed on to ``tell`` as it comes."""
    text, n_passed = "", 0
    try:
        for piece in pieces:
            text += piece
            spoken = _spoken(text)
            if tell is not None and len(spoken) > n_passed:
                tell(spoken[n_passed:])
                n_passed = len(spoken)
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        if n_passed:
            raise _BrokenOffError(error) from error
        raise
    whole = _THOUGHTS.sub("", text).lstrip()
    if tell is not None and len(whole) > n_passed:
        tell(whole[n_passed:])
    return whole


def _spoken(text: str) -> str:
    """The part of the text that is no thought, however the text goes on."""
    begun = text.lstrip()
    if begun.startswith(_THOUGHT_BEGINS):
        thought = _THOUGHTS.match(text)
        return text[thought.end() :].lstrip() if thought else ""
    return "" if _THOUGHT_BEGINS.startswith(begun) else begun
