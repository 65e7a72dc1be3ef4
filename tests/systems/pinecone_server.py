"""A small server that answers the routes of Pinecone's API which its client and LlamaIndex's store call.

It is not Pinecone: it shows that ragstore calls the real client as it wants to be called, and no more than that.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

KEY = "pinecone-key-of-the-test"
Vectors = dict[str, dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    spaces: dict[str, Vectors]

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        given = parse_qs(asked.query)
        space = self.spaces.get(given.get("namespace", [""])[0], {})
        if asked.path == "/vectors/list":
            limit, after = int(given.get("limit", ["100"])[0]), given.get("paginationToken", [""])[0]
            ids = [i for i in sorted(space) if i > after][:limit]
            more = {"pagination": {"next": ids[-1]}} if len(ids) == limit else {}
            self._answer({"vectors": [{"id": i} for i in ids], "namespace": "", "usage": {"readUnits": 1}, **more})
        elif asked.path == "/vectors/fetch":
            found = {i: space[i] for i in given.get("ids", []) if i in space}
            self._answer({"vectors": found, "namespace": "", "usage": {"readUnits": 1}})
        else:
            self._answer({"message": "not found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path == "/vectors/upsert":
            space = self.spaces.setdefault(body.get("namespace") or "", {})
            space.update({vector["id"]: vector for vector in body["vectors"]})
            self._answer({"upsertedCount": len(body["vectors"])})
        elif self.path == "/describe_index_stats":
            counts = {name or "__default__": {"vectorCount": len(space)} for name, space in self.spaces.items()}
            self._answer({"namespaces": counts, "dimension": 32, "totalVectorCount": 0, "metric": "cosine"})
        elif self.path == "/query":
            space = self.spaces.get(body.get("namespace") or "", {})
            self._answer({"matches": _nearest(space, body), "namespace": "", "usage": {"readUnits": 1}})
        else:
            self._answer({"message": "not found"}, 404)

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        if self.headers.get("Api-Key") != KEY:
            document, status = {"message": f"Invalid API Key: {self.headers.get('Api-Key')}"}, 401
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _nearest(space: Vectors, body: dict[str, Any]) -> list[dict[str, Any]]:
    ids = list(space)
    table = np.array([space[i]["values"] for i in ids])
    asked = np.array(body["vector"])
    scores = table @ asked / np.linalg.norm(table, axis=1) / np.linalg.norm(asked)
    best = np.argsort(-scores)[: body["topK"]]
    return [
        {"id": ids[n], "score": float(scores[n]), "values": [], "metadata": space[ids[n]]["metadata"]} for n in best
    ]


@contextmanager
def pinecone_server() -> Iterator[str]:
    """The address of an empty index."""
    handler = type("Handler", (_Handler,), {"spaces": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
