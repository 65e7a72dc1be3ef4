"""Free ports of the loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from ragstore.errors import EmbeddedServerError

LOOPBACK = "127.0.0.1"

# Below the ports that kernels give to outgoing connections: one of those may sit on a remembered
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
        # As the servers do: connections of a predecessor that are still closing do not count.
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
