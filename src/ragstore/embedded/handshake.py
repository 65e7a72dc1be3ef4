"""The first words of both servers' protocols, without their drivers: whether a server answers now.

A connection alone says little: the kernel accepts it also for a process that was just killed or
still starts. An answer is given by a process that runs.
"""

from __future__ import annotations

import socket
import struct

from ragstore.embedded.home import ServerName
from ragstore.embedded.ports import LOOPBACK

_TIMEOUT_S = 1.0

# PostgreSQL's question whether it speaks TLS: length, code; the answer is one letter.
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
    """Whether the server on the port can be used now: PostgreSQL listens, MongoDB takes writes."""
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
    """One whole message, which begins with its own length; ``b""`` when there is none."""
    answer = connection.recv(_LONGEST_ANSWER_BYTES)
    while len(answer) >= 4 and len(answer) < min(struct.unpack_from("<i", answer)[0], _LONGEST_ANSWER_BYTES):
        more = connection.recv(_LONGEST_ANSWER_BYTES)
        if not more:
            return b""
        answer += more
    return answer
