from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ragstore.embedding import Embedder, ModelOptions, load
from ragstore.errors import ModelError, ModelUnavailableError, SettingsError
from tests.support.children import until
from tests.support.model_server import DIM, Fault, ModelServer, running_model_server, vector_of

KEY = "sk-very-secret"
PATHS = {"openai": "/v1/embeddings", "ollama": "/api/embed", "tei": "/embed"}


@dataclass
class Client:
    """One kind of embedder and the server it talks to."""

    kind: str
    server: ModelServer
    sleeps: list[float]

    def embedder(self, **changes: object) -> Embedder:
        options = ModelOptions(api_key=KEY, batch_size=3, max_retries=2, timeout_s=10)
        if self.kind == "tei":
            return load(f"tei:{self.server.url}/", replace(options, **changes), sleep=self.sleeps.append)  # type: ignore[arg-type]
        url = self.server.openai_url if self.kind == "openai" else self.server.url
        return load(f"{self.kind}:m:latest", replace(options, base_url=url, **changes), sleep=self.sleeps.append)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_model_server() as server:
        yield server


@pytest.fixture(params=list(PATHS))
def client(request: pytest.FixtureRequest, server: ModelServer) -> Client:
    return Client(request.param, server, [])


def assert_vectors_of(vectors: np.ndarray, texts: list[str]) -> None:
    assert vectors.shape == (len(texts), DIM)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, [vector_of(text) for text in texts], rtol=1e-6)


def test_documents_are_sent_in_batches_and_their_vectors_come_back_in_order(client: Client) -> None:
    texts = [f"text {number}" for number in range(8)]
    assert_vectors_of(client.embedder().embed_documents(texts), texts)
    assert [request.texts for request in client.server.requests] == [texts[:3], texts[3:6], texts[6:]]
    assert {request.path for request in client.server.requests} == {PATHS[client.kind]}


def test_a_query_gets_one_vector(client: Client) -> None:
    vector = client.embedder().embed_query("question")
    assert vector.shape == (DIM,)
    assert_vectors_of(vector.reshape(1, DIM), ["question"])


def test_the_name_is_the_setting_and_the_model_is_what_follows_it(client: Client) -> None:
    embedder = client.embedder()
    embedder.embed_query("question")
    assert embedder.name == (f"tei:{client.server.url}/" if client.kind == "tei" else f"{client.kind}:m:latest")
    assert client.server.requests[0].body.get("model") == (None if client.kind == "tei" else "m:latest")


def test_the_dimension_costs_one_request_and_only_when_it_is_not_known(client: Client) -> None:
    embedder = client.embedder()
    assert client.server.requests == []
    assert (embedder.dim, embedder.dim) == (DIM, DIM)
    assert len(client.server.requests) == 1
    embedder = client.embedder()
    embedder.embed_documents(["text"])
    assert embedder.dim == DIM
    assert len(client.server.requests) == 2


def test_blank_text_is_not_sent_as_blank(client: Client) -> None:
    embedder = client.embedder()
    assert_vectors_of(embedder.embed_documents(["", " \n", "text"]), [".", ".", "text"])
    assert_vectors_of(embedder.embed_query("").reshape(1, DIM), ["."])


def test_no_texts_give_no_vectors(client: Client) -> None:
    assert client.embedder().embed_documents([]).shape == (0, DIM)


def test_the_key_goes_to_the_server_as_a_bearer_token(client: Client) -> None:
    client.embedder().embed_query("question")
    assert client.server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_no_key_and_no_address_is_taken_from_a_global(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OLLAMA_API_KEY"):
        monkeypatch.setenv(name, "sk-global")
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/v1")
    client.embedder(api_key=None).embed_query("question")
    assert "sk-global" not in str(client.server.requests[0])
    assert "authorization" not in client.server.requests[0].headers


def test_openai_itself_needs_a_key_also_when_a_global_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-global")
    with pytest.raises(SettingsError, match="needs an API key") as refused:
        load("openai:text-embedding-3-small")
    assert "RAGSTORE_MODEL_API_KEY" in refused.value.hint


@pytest.mark.parametrize("fault", [Fault(500, text="out of memory"), Fault(drop=True)])
def test_two_failures_are_survived(client: Client, fault: Fault) -> None:
    client.server.fails_with(fault, fault)
    assert_vectors_of(client.embedder().embed_documents(["text"]), ["text"])
    assert len(client.server.requests) == 3, "the library below must not retry on its own"
    assert len(client.sleeps) == 2


def test_a_third_failure_is_reported(client: Client) -> None:
    client.server.fails_with(*[Fault(503, text="loading model")] * 3)
    with pytest.raises(ModelUnavailableError, match="loading model"):
        client.embedder().embed_documents(["text"])
    assert len(client.server.requests) == 3


def test_a_rate_limit_is_waited_for_as_long_as_the_server_says(client: Client) -> None:
    client.server.fails_with(Fault(429, headers={"Retry-After": "7"}))
    assert_vectors_of(client.embedder().embed_documents(["text"]), ["text"])
    assert len(client.sleeps) == 1
    assert 7 <= client.sleeps[0] <= 7.5


def test_a_server_that_hangs_is_given_up_on(client: Client) -> None:
    embedder = client.embedder(timeout_s=0.2, max_retries=1)
    client.server.fails_with(*[Fault(hang=True)] * 2)
    with pytest.raises(ModelUnavailableError, match=r"did not answer within 0\.2 s"):
        embedder.embed_query("question")
    until(lambda: len(client.server.requests) == 2, what="the server has read what was sent")


def test_a_server_that_is_not_there_is_unavailable(client: Client) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client.server.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ModelUnavailableError, match="cannot be reached") as unreachable:
            client.embedder().embed_query("question")
    assert "RAGSTORE_MODEL" in unreachable.value.hint
    assert len(client.sleeps) == 2


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (Fault(rows=lambda rows: rows[:-1]), "1 vectors for 2 texts"),
        (Fault(rows=lambda rows: [*rows, rows[0]]), "3 vectors for 2 texts"),
        (Fault(rows=lambda rows: [row[:-1] for row in rows]), "7 dimensions, earlier ones had 8"),
        (Fault(rows=lambda rows: [rows[0], rows[1][:-1]]), "several lengths"),
        (Fault(rows=lambda rows: [rows[0], [float("nan")] * DIM]), "NaN"),
        (Fault(rows=lambda rows: [rows[0], [float("inf")] * DIM]), "infinity"),
        (Fault(rows=lambda rows: [rows[0], [0.0] * DIM]), "zeros"),
        (Fault(text="<html>welcome</html>", content_type="text/html"), "cannot be used"),
        (Fault(text='{"error": "no"}'), "cannot be used"),
        (Fault(text="null"), "cannot be used"),
        (Fault(401, text=f"unknown key {KEY[:6]}***"), "refused the API key"),
        (Fault(403, text=f"unknown key {KEY}"), "refused the API key"),
        (Fault(404, text="no model m"), "was not found .*no model m"),
        (Fault(400, text="too long"), "refused the request .*too long"),
        (Fault(307, headers={"Location": "http://127.0.0.1:1/"}), "redirects"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_at_once(client: Client, fault: Fault, complaint: str) -> None:
    embedder = client.embedder()
    embedder.embed_query("so that the dimension is known")
    client.server.fails_with(fault)
    with pytest.raises(ModelError, match=complaint) as failed:
        embedder.embed_documents(["a", "b"])
    assert not isinstance(failed.value, ModelUnavailableError)
    assert embedder.name in failed.value.message
    assert client.server.url in failed.value.message
    assert "RAGSTORE_MODEL" in failed.value.hint
    assert KEY[:6] not in f"{failed.value!r} {failed.value}"
    assert len(client.server.requests) == 2
    assert client.sleeps == []


def test_threads_share_one_embedder(client: Client) -> None:
    embedder = client.embedder()
    batches = [[f"text {number} {part}" for part in range(4)] for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for vectors, texts in zip(pool.map(embedder.embed_documents, batches), batches, strict=True):
            assert_vectors_of(vectors, texts)


def test_requests_keep_to_the_rate(client: Client) -> None:
    client.embedder(requests_per_minute=1).embed_documents([f"text {number}" for number in range(9)])
    assert client.sleeps == pytest.approx([60, 120], abs=30)


def test_a_tei_server_gets_no_more_texts_at_once_than_it_takes_by_default(server: ModelServer) -> None:
    load(f"tei:{server.url}", ModelOptions(batch_size=64)).embed_documents(["text"] * 40)
    assert [len(request.texts) for request in server.requests] == [32, 8]


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(SettingsError) as refused:
        load("tei:http://me:hidden@127.0.0.1:1")
    assert "hidden" not in str(refused.value)
    assert "RAGSTORE_MODEL_API_KEY" in refused.value.hint
