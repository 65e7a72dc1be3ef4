"""Servers of other systems, started for one test each and stopped by their process id."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ragstore.embedded.ports import a_free_port

BIN = Path(sys.executable).parent
_START_WITHIN_S = 60


@contextmanager
def server(
    command: Sequence[str], port: int, folder: Path, variables: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A server that listens on this port of 127.0.0.1, until the block ends."""
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **(variables or {})})
        try:
            _until_listening(process, port, folder / "server.log")
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_WITHIN_S
    while True:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, f"nothing listens: {log.read_text(errors='replace')}"
        time.sleep(0.05)


@contextmanager
def chroma_server(folder: Path) -> Iterator[int]:
    port = a_free_port()
    command = [str(BIN / "chroma"), "run", "--path", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)]
    with server(command, port, folder):
        yield port


@contextmanager
def redis_server(folder: Path, password: str) -> Iterator[int]:
    port = a_free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", ""]
    with server(command, port, folder):
        yield port


@contextmanager
def dynamodb_server(folder: Path) -> Iterator[int]:
    """moto's server, which is not AWS."""
    port = a_free_port()
    with server([str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, folder):
        yield port


_FIRESTORE = Path(__file__).parents[2] / "build" / "firestore" / "node_modules" / "@firestore-emulator" / "server"


@contextmanager
def firestore_emulator(folder: Path) -> Iterator[int]:
    """A server that speaks Firestore's protocol, which is not Google's."""
    port = a_free_port()
    program = f"new (require({json.dumps(str(_FIRESTORE))}).FirestoreServer)().start({port})"
    with server(["node", "-e", program], port, folder):
        yield port
