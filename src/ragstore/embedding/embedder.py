"""The face every embedding model shows, and the options one is loaded with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ragstore.errors import SettingsError

if TYPE_CHECKING:
    import numpy as np

MAX_BATCH_SIZE = 2048
"""What the OpenAI protocol takes in one request; the LlamaIndex classes refuse more."""

_BLANK = "."


class Embedder(Protocol):
    """A model that turns text into vectors; one may be used from several threads."""

    @property
    def name(self) -> str:
        """The setting that named it, e.g. ``wordllama`` or ``openai:text-embedding-3-small``."""
        ...

    @property
    def dim(self) -> int:
        """Length of its vectors; for a model behind HTTP the first use may cost one request."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of shape ``(n_texts, dim)``, float32, C-contiguous, finite, never zero, in the order of the texts."""
        ...

    def embed_query(self, text: str) -> np.ndarray:
        """A vector of shape ``(dim,)``, float32, to compare with those of documents."""
        ...


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is reached and how much of the machine or of a server it may take.

    Args:
        base_url: address of a server; None is the provider's usual one. ``tei:URL`` brings its own.
        api_key: sent as a bearer token to that server only, never shown.
        batch_size: texts in one request, 1 to 2,048; servers of a lower limit get less.
        max_retries: tries after the first when a server is unreachable, overloaded or too slow.
        timeout_s: longest silence of a server within one request.
        requests_per_minute: None is unlimited; retries count.
        n_threads: of the processor, for models that run here.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    batch_size: int = 64
    max_retries: int = 5
    timeout_s: float = 60.0
    requests_per_minute: int | None = None
    n_threads: int = 2

    def __post_init__(self) -> None:
        _require(1 <= self.batch_size <= MAX_BATCH_SIZE, "batch_size", f"1 to {MAX_BATCH_SIZE}")
        _require(self.max_retries >= 0, "max_retries", "0 or more")
        _require(self.timeout_s > 0, "timeout_s", "more than 0")
        _require(self.requests_per_minute is None or self.requests_per_minute >= 1, "requests_per_minute", "1 or more")
        _require(self.n_threads >= 1, "n_threads", "1 or more")


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Which model to load.

    Args:
        name: the whole setting, e.g. ``tei:http://127.0.0.1:8080``.
        argument: what follows the first colon, empty for models without.
        sleep: waits so many seconds between retries.
    """

    name: str
    argument: str
    options: ModelOptions
    sleep: Callable[[float], object]


def _require(holds: bool, option: str, allowed: str) -> None:
    if not holds:
        raise SettingsError(
            f"model option {option} is out of range",
            hint=f"set {option} to {allowed}",
            option=option,
        )


def embeddable(text: str) -> str:
    """The text as every model takes it: "." in place of blank text, "?" in place of lone surrogates.

    Blank text has no tokens: some models would make NaN or a zero vector of it, which has no cosine
    distance to anything, and some servers refuse it. Surrogates come from undecodable command lines.
    """
    storable = text.encode(errors="replace").decode()
    return storable if storable.strip() else _BLANK
