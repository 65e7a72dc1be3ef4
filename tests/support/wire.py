"""A way to PostgreSQL that writes down what clients ask of it: each entry is a round trip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.sql_spy import Overheard


class Wire(Overheard):
    """Forwards everything, and remembers the statements."""

    def taken(self) -> list[str]:
        """What was asked since the last call, each as it was sent."""
        asked, self.statements = self.statements, []
        return asked


@contextmanager
def a_wire(url: str) -> Iterator[Wire]:
    """A wire to this server until the block ends."""
    wire = Wire(url)
    try:
        yield wire
    finally:
        wire.close()
