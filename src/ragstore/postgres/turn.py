"""Taking turns: of several workers on the same paths one works and the others stand by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ragstore.postgres.errors import translation
from ragstore.postgres.pool import Connection, PostgresPool

# The server notices within half a minute that the machine of a worker is gone; of a process that died, at once.
_KEEP = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
_TAKE = f"{_KEEP}; SELECT pg_try_advisory_lock(%(key)s)"


class Turn:
    """The right to work, held on a connection of its own; it only spares work, correctness never depends on it."""

    def __init__(self, url: str, *, collection: str, paths: Sequence[str], connect_timeout_s: float) -> None:
        self._url = url
        self._key = _key(collection, paths)
        self._connect_timeout_s = connect_timeout_s
        self._lent: tuple[PostgresPool, Connection] | None = None
        self._held = False

    def mine(self) -> bool:
        """Whether it is this process's turn: kept if it was, taken if it is free.

        Raises:
            StoreUnavailableError: PostgreSQL cannot say.
        """
        try:
            with translation():
                return self._ask()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another one work."""
        self._held = False
        if self._lent is not None:
            (pool, connection), self._lent = self._lent, None
            # In this order it is ended, and not kept with its lock.
            pool.close()
            pool.checkin(connection)

    def _ask(self) -> bool:
        with self._connection().cursor() as cursor:
            # Taken twice it would have to be given back twice.
            cursor.execute("SELECT true" if self._held else _TAKE, {"key": self._key})
            row = cursor.fetchone()
        self._held = bool(row and row[0])
        return self._held

    def _connection(self) -> Connection:
        if self._lent is None:
            pool = PostgresPool(self._url, size=1, connect_timeout_s=self._connect_timeout_s)
            self._lent = (pool, pool.checkout())
            self._lent[1].autocommit = True
        return self._lent[1]


def _key(collection: str, paths: Sequence[str]) -> int:
    # Each part ends in a byte that no path and no name can hold, so that no two lists make one text.
    text = "\0".join([collection, *sorted(set(paths)), ""])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8, person=b"ragstore-turn")
    return int.from_bytes(digest.digest(), "big", signed=True)
