"""A real HTTP server on loopback that answers as model servers do, and fails on demand.

It speaks the protocols of OpenAI (embeddings, chat completions, completions), Ollama (``/api/embed``) and
Text Embeddings Inference (``/embed``). Vectors depend on the text alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DIM = 8


def vector_of(text: str, dim: int = DIM) -> list[float]:
    """The vector the server gives a text: unit length, float32 values."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    values = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return [float(value) for value in values / np.linalg.norm(values)]


@dataclass(frozen=True)
class Request:
    """One request as it arrived; header names are lower-case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """What it asks to embed."""
        given: str | list[str] = self.body.get("input") or self.body["inputs"]
        return [given] if isinstance(given, str) else given


@dataclass(frozen=True)
class Fault:
    """What the server does with one request in place of the right thing.

    Args:
        status: of the answer; 200 with ``text`` sends that text as it is.
        hang: never answers.
        drop: closes the connection without an answer.
        rows: changes the list of vectors.
        breaks_off_after: a streamed answer ends there, after so many events and without a word.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: str | None = None
    content_type: str = "application/json"
    hang: bool = False
    drop: bool = False
    rows: Callable[[list[list[float]]], list[Any]] | None = None
    breaks_off_after: int | None = None


@dataclass
class ModelServer:
    """The server as a test sees it."""

    url: str
    requests: list[Request] = field(default_factory=list)
    answers: deque[str] = field(default_factory=deque)
    faults: deque[Fault] = field(default_factory=deque)
    stopped: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event | None = None

    @property
    def openai_url(self) -> str:
        """Address for clients of the OpenAI protocol."""
        return f"{self.url}/v1"

    def fails_with(self, *faults: Fault) -> None:
        """Let the next requests fail so, one each."""
        self.faults.extend(faults)

    def says(self, *answers: str) -> None:
        """What it completes the next prompts with, one each."""
        self.answers.extend(answers)


@contextmanager
def running_model_server() -> Iterator[ModelServer]:
    """A server on a free port of loopback until the block ends."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.daemon_threads = True
    server = ModelServer(f"http://127.0.0.1:{listener.server_address[1]}")
    listener.model_server = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _server(self) -> ModelServer:
        return self.server.model_server  # type: ignore[attr-defined,no-any-return]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        self._server.requests.append(request)
        fault = self._server.faults.popleft() if self._server.faults else Fault()
        if fault.hang or fault.drop:
            if fault.hang:
                self._server.stopped.wait(30)
            self.close_connection = True
        elif fault.status != 200 or fault.text is not None:
            self._send(fault.status, fault.text or '{"error": "as told"}', fault.headers, fault.content_type)
        else:
            self._answer(request, fault)

    def _answer(self, request: Request, fault: Fault) -> None:
        routes: dict[str, Callable[[Request, list[Any]], Any]] = {
            "/v1/embeddings": _openai_embeddings,
            "/api/embed": lambda request, rows: {"model": request.body["model"], "embeddings": rows},
            "/embed": lambda _, rows: rows,
        }
        if request.path in routes:
            rows = [vector_of(text) for text in request.texts]
            answer = routes[request.path](request, fault.rows(rows) if fault.rows else rows)
        elif request.path in ("/v1/chat/completions", "/v1/completions"):
            text, is_chat = self._server.answers.popleft(), request.path == "/v1/chat/completions"
            if request.body.get("stream"):
                self._stream(text, fault, is_chat=is_chat)
                return
            answer = _completion({"message": {"role": "assistant", "content": text}} if is_chat else {"text": text})
        else:
            self._send(404, '{"error": "no such path"}')
            return
        self._send(200, json.dumps(answer))

    def _stream(self, text: str, fault: Fault, *, is_chat: bool) -> None:
        """A few characters an event; waits for ``go_on`` before the last one where a test has set it up."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
        for number, piece in enumerate(pieces):
            if number == len(pieces) - 1 and self._server.go_on is not None:
                self._server.go_on.wait(30)
            if fault.breaks_off_after is not None and number == fault.breaks_off_after:
                return
            choice = {"index": 0, "delta": {"content": piece}} if is_chat else {"index": 0, "text": piece}
            self._event(json.dumps({"choices": [choice]}))
        self._event(json.dumps({"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}]}))
        self._event(json.dumps({"choices": [], "usage": {"total_tokens": 1}}))
        self._event("[DONE]")

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _send(
        self, status: int, text: str, headers: dict[str, str] | None = None, content_type: str = "application/json"
    ) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep test output quiet."""


def _openai_embeddings(request: Request, rows: list[Any]) -> dict[str, Any]:
    if request.body.get("encoding_format") == "base64":
        rows = [base64.b64encode(np.array(row, dtype="<f4").tobytes()).decode() for row in rows]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return {"object": "list", "data": data, "model": request.body["model"], "usage": usage}


def _completion(choice: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices = [{"index": 0, "finish_reason": "stop", "logprobs": None, **choice}]
    return {"id": "1", "object": "completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
