"""Model of a Text Embeddings Inference server: ``tei:URL``."""

from __future__ import annotations

import httpx
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from ragstore.embedding.embedder import ModelRequest
from ragstore.embedding.remote import RemoteEmbedder, call_policy
from ragstore.embedding.service import Caller, Service

_MAX_BATCH_SIZE = 32
"""The server's own default; it refuses larger requests."""


class _CheckedTei(TextEmbeddingsInference):
    """LlamaIndex's class with checked answers and one client; upstream accepts error pages and reconnects each time."""

    _http: httpx.Client = PrivateAttr()

    def __init__(self, service: Service, batch_size: int) -> None:
        super().__init__(model_name=service.name, base_url=service.url, embed_batch_size=batch_size)
        self._http = httpx.Client(**service.client_kwargs())

    def _call_api(self, texts: list[str]) -> list[list[float]]:
        response = self._http.post(
            f"{self.base_url}{self.endpoint}", json={"inputs": texts, "truncate": self.truncate_text}
        )
        rows: list[list[float]] = response.json()
        return rows

    def close(self) -> None:
        self._http.close()


def load(request: ModelRequest) -> RemoteEmbedder:
    """An embedder of the one model that the server at the URL has; ``options.base_url`` is not used."""
    options = request.options
    url = request.argument.rstrip("/")
    service = Service(request.name, url, options.api_key, options.timeout_s, url_option="RAGSTORE_MODEL")
    model = _CheckedTei(service, min(options.batch_size, _MAX_BATCH_SIZE))
    return RemoteEmbedder(service, model, Caller(service, call_policy(request)), model.close)
