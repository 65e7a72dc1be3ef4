"""Models of any server that speaks the OpenAI protocol: ``openai:MODEL``."""

from __future__ import annotations

import httpx
from llama_index.embeddings.openai import OpenAIEmbedding
from openai import OpenAIError

from ragstore.embedding.embedder import ModelRequest
from ragstore.embedding.remote import RemoteEmbedder, call_policy
from ragstore.embedding.service import KEY_IS_ADDED_LATER, Caller, Service, openai_url


def load(request: ModelRequest) -> RemoteEmbedder:
    """An embedder of the model at ``options.base_url``, or at OpenAI's own address."""
    options = request.options
    url = openai_url(request.name, options.base_url, options.api_key, "RAGSTORE_MODEL")
    service = Service(request.name, url, options.api_key, options.timeout_s)
    client = httpx.Client(**service.client_kwargs())
    model = OpenAIEmbedding(
        model_name=request.argument,
        api_base=url,
        api_key=KEY_IS_ADDED_LATER,
        http_client=client,
        timeout=options.timeout_s,
        max_retries=0,
        embed_batch_size=options.batch_size,
    )
    caller = Caller(service, call_policy(request), failures=(OpenAIError,))
    return RemoteEmbedder(service, model, caller, client.close)
