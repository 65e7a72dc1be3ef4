"""Models of an Ollama server: ``ollama:MODEL``."""

from __future__ import annotations

from collections.abc import Callable

from llama_index.embeddings.ollama import OllamaEmbedding

from ragstore.embedding.embedder import ModelRequest
from ragstore.embedding.remote import RemoteEmbedder, call_policy
from ragstore.embedding.service import Caller, Service

_USUAL_URL = "http://127.0.0.1:11434"


class _ClosableOllama(OllamaEmbedding):
    """LlamaIndex's class with a way to close its client, which upstream lacks."""

    def __init__(self, model: str, service: Service, batch_size: int) -> None:
        super().__init__(
            model_name=model,
            base_url=service.url,
            client_kwargs=service.client_kwargs(),
            embed_batch_size=batch_size,
        )

    @property
    def closing(self) -> Callable[[], None]:
        """Function that closes the client."""
        return self._client.close


def load(request: ModelRequest) -> RemoteEmbedder:
    """An embedder of the model at ``options.base_url``, or at Ollama's usual port on this machine."""
    options = request.options
    service = Service(request.name, (options.base_url or _USUAL_URL).rstrip("/"), options.api_key, options.timeout_s)
    model = _ClosableOllama(request.argument, service, options.batch_size)
    return RemoteEmbedder(service, model, Caller(service, call_policy(request)), model.closing)
