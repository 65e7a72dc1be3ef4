"""The language model that writes answers: any server that speaks the OpenAI protocol."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ragstore.errors import ModelMissingError, SettingsError

if TYPE_CHECKING:
    from ragstore.embedding.calls import Caller
    from ragstore.embedding.service import Service

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)

CHARS_PER_TOKEN = 3
"""On the safe side: English text has four to five, code and other languages fewer."""

PROMPT_TOKENS = 300
"""What the prompt of ``ask`` takes besides the texts it quotes and the question."""


class Llm(Protocol):
    """A model that continues a text."""

    def complete(self, prompt: str) -> str:
        """What the model answers; raises ModelError where it gives no answer."""
        ...


@dataclass(frozen=True, slots=True)
class LlmOptions:
    """How the model is reached and what it can take.

    Args:
        base_url: of an OpenAI-compatible server, with its ``/v1``; None is OpenAI's own.
        api_key: sent as a bearer token to that server only, never shown.
        chat: whether the server applies a chat template (``/chat/completions``) or none (``/completions``).
        context_window: tokens that prompt and answer may take together.
        max_answer_tokens: most tokens of an answer.
        max_retries: tries after the first when the server is unreachable, overloaded or too slow.
        timeout_s: longest silence of the server within one request.
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
        """Most characters of quoted text that leave room for prompt and answer, for ``ask``."""
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
        SettingsError: no model is named so, or an option it needs is not set.
        ModelMissingError: the client library is not installed.
    """
    kind, _, model = setting.partition(":")
    if kind != "openai" or not model:
        raise SettingsError(
            f"{setting!r} names no language model", hint="set RAGSTORE_LLM to openai:MODEL", option="RAGSTORE_LLM"
        )
    try:
        return _open(setting, model, options, sleep)
    except ImportError as error:
        raise ModelMissingError(
            f"language model {setting} is not installed", hint="run: pip install 'ragstore[openai]'", model=setting
        ) from error


class OpenAiLlm:
    """A model behind the OpenAI protocol.

    Args:
        continue_text: makes one request.
        close: releases the connections when the model is no longer used.
    """

    def __init__(
        self, service: Service, caller: Caller, continue_text: Callable[[str], str], close: Callable[[], None]
    ) -> None:
        self._service = service
        self._caller = caller
        self._continue = continue_text
        weakref.finalize(self, close)

    def complete(self, prompt: str) -> str:
        """What the model answers, without what it thought aloud before.

        Raises:
            ModelUnavailableError: the server did not answer, after all retries.
            ModelError: it refused, or the answer is empty.
        """
        text = _THOUGHTS.sub("", self._caller.call(lambda: self._continue(prompt))).strip()
        if not text:
            raise self._service.nonsense("no text")
        return text


def _open(setting: str, model: str, options: LlmOptions, sleep: Callable[[float], object]) -> OpenAiLlm:
    # Imported here because it costs seconds, and only who asks for an answer needs it.
    import httpx
    from llama_index.llms.openai_like import OpenAILike
    from openai import OpenAIError

    from ragstore.embedding.calls import Caller, CallPolicy
    from ragstore.embedding.service import KEY_IS_ADDED_LATER, Service, openai_url

    url = openai_url(setting, options.base_url, options.api_key, "RAGSTORE_LLM")
    service = Service(setting, url, options.api_key, options.timeout_s, option="RAGSTORE_LLM")
    client = httpx.Client(**service.client_kwargs())
    arguments: dict[str, Any] = {  # a dict, because the class is annotated as if it took no client
        "model": model,
        "api_base": url,
        "api_key": KEY_IS_ADDED_LATER,
        "http_client": client,
        "is_chat_model": options.chat,
        "context_window": options.context_window,
        "max_tokens": options.max_answer_tokens,
        "temperature": 0,
        "timeout": options.timeout_s,
        "max_retries": 0,
    }
    try:
        llm = OpenAILike(**arguments)
    except ValueError as error:
        raise SettingsError(
            f"language model {setting} cannot be used: {error}",
            hint="set RAGSTORE_LLM to a model that has chat completions",
            option="RAGSTORE_LLM",
        ) from error
    caller = Caller(service, CallPolicy(options.max_retries, sleep=sleep), failures=(OpenAIError,))
    return OpenAiLlm(service, caller, lambda prompt: llm.complete(prompt).text, client.close)
