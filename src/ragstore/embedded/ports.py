"""Ports of the loopback address: free ones, open ones, and servers that can be used."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Collection

from ragstore.embedded.home import ServerName
from ragstore.errors import EmbeddedServerError

LOOPBACK = "127.0.0.1"

# Below the ports that kernels use for outgoing connections: one of these could occupy the server's
# port just when the server restarts.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_N_TRIES = 200


def a_free_port(*, other_than: Collection[int] = ()) -> int:
    """A random port on which nothing listens."""
    chooser = random.SystemRandom()
    for _ in range(_N_TRIES):
        port = chooser.randrange(_FIRST_PORT, _LAST_PORT)
        if port not in other_than and is_free(port):
            return port
    raise EmbeddedServerError(
        f"no free port between {_FIRST_PORT} and {_LAST_PORT}",
        hint="set RAGSTORE_POSTGRES_URL and RAGSTORE_MONGO_URL to servers of your own",
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As the servers do: closing connections of an earlier server do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(1)
        except OSError:
            return False
        return True


def is_open(port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether something accepts connections on the port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s):
            return True
    except OSError:
        return False


_TIMEOUT_S = 1.0

# PostgreSQL's request for TLS: length, code; the answer is one letter.
_TLS_QUESTION = struct.pack("!II", 8, 80877103)
_TLS_ANSWERS = (b"S", b"N")

# MongoDB's command {hello: 1, $db: "admin"} as a message of kind OP_MSG with one document.
_FIELDS = b"\x10hello\x00\x01\x00\x00\x00" + b"\x02$db\x00\x06\x00\x00\x00admin\x00"
_HELLO = struct.pack("<i", len(_FIELDS) + 5) + _FIELDS + b"\x00"
_OP_MSG = 2013
_MESSAGE = struct.pack("<iiiiIB", 21 + len(_HELLO), 1, 0, _OP_MSG, 0, 0) + _HELLO
_IS_PRIMARY = b"\x08isWritablePrimary\x00\x01"
_LONGEST_ANSWER_BYTES = 64 * 2**10


def answers(name: ServerName, port: int) -> bool:
    """Whether the server on the port can be used now: PostgreSQL answers, MongoDB accepts writes."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT_S) as connection:
            if name == "postgres":
                connection.sendall(_TLS_QUESTION)
                return connection.recv(1) in _TLS_ANSWERS
            connection.sendall(_MESSAGE)
            return _IS_PRIMARY in _mongo_answer(connection)
    except OSError:
        return False


def _mongo_answer(connection: socket.socket) -> bytes:
    """Receive one whole message, which begins with its length; ``b""`` if it is incomplete."""
    answer = connection.recv(_LONGEST_ANSWER_BYTES)
    while len(answer) >= 4 and len(answer) < min(struct.unpack_from("<i", answer)[0], _LONGEST_ANSWER_BYTES):
        more = connection.recv(_LONGEST_ANSWER_BYTES)
        if not more:
            return b""
        answer += more
    return answer
