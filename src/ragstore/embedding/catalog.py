"""Catalog of embedding models: the setting that names each, and what to install if it is missing.

A model's module is imported when the model is loaded, because some imports take seconds.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Protocol, cast

from ragstore.embedding.embedder import Embedder, ExternalEmbedder, ModelOptions, ModelRequest
from ragstore.errors import ModelMissingError, SettingsError, not_installed

MODEL_FORMS = "wordllama, minilm, openai:MODEL, ollama:MODEL, tei:URL, huggingface:MODEL or external"

_REMEDIES = {
    "wordllama": "it has no wheel for Python 3.14 and Linux on ARM: set RAGSTORE_MODEL to minilm, openai:MODEL, "
    "ollama:MODEL or tei:URL there; elsewhere run: pip install wordllama",
    "minilm": not_installed("minilm"),
    "openai": not_installed("openai"),
    "ollama": not_installed("ollama"),
    "tei": not_installed("tei"),
    "huggingface": "run: pip install llama-index-embeddings-huggingface",
}
_MODULES = {
    "wordllama": "wordllama_model",
    "minilm": "minilm_model",
    "openai": "openai_models",
    "ollama": "ollama_models",
    "tei": "tei_models",
    "huggingface": "huggingface_models",
}
_TAKES_ARGUMENT = {"openai": "MODEL", "ollama": "MODEL", "tei": "URL", "huggingface": "MODEL"}

_DENSE_WEIGHTS = {"wordllama": 0.5}
"""Weights of weaker models: their ranking counts less compared with the ranking by words."""
_DENSE_WEIGHT = 2.0

_DEFAULTS = ModelOptions()


class _ModelModule(Protocol):
    def load(self, request: ModelRequest) -> Embedder: ...


def dense_weight(model: str) -> float:
    """Weight of a model's ranking in hybrid search; the ranking by words has weight 1."""
    return _DENSE_WEIGHTS.get(model, _DENSE_WEIGHT)


def load(model: str, options: ModelOptions = _DEFAULTS, *, sleep: Callable[[float], object] = time.sleep) -> Embedder:
    """Load the model that a setting names.

    Args:
        sleep: waits between retries; a worker may pass its stop event's ``wait``.

    Raises:
        SettingsError: there is no model of that name, or an option it needs is not set.
        ModelMissingError: its package or files are not installed.
    """
    kind, _, argument = model.partition(":")
    if model == "external":
        return ExternalEmbedder()
    if kind not in _MODULES or bool(argument) != (kind in _TAKES_ARGUMENT) or (":" in model and not argument):
        raise SettingsError(
            f"{model!r} names no embedding model", hint=f"set RAGSTORE_MODEL to {MODEL_FORMS}", option="RAGSTORE_MODEL"
        )
    try:
        module = cast("_ModelModule", importlib.import_module(f"ragstore.embedding.{_MODULES[kind]}"))
        return module.load(ModelRequest(model, argument, options, sleep))
    except ImportError as error:
        raise ModelMissingError(f"model {model} is not installed", hint=_REMEDIES[kind], model=model) from error
