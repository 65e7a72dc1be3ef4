"""Setting aside what PostgreSQL does not have: out of every reader's way, under a name that is reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ragstore.mongo import set_aside as in_mongo
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.telemetry.failpoint import Failpoint, reached

STRUCTS = in_mongo.STRUCTS


class SetAside:
    """One place for what one command sets aside.

    Args:
        label: of the command's run, part of the place's name.
        dry_run: only name what would be moved.
    """

    def __init__(self, database: MongoDatabase, label: str, *, dry_run: bool = False) -> None:
        self._database = database
        self._label = label
        self._dry_run = dry_run
        self.places: set[str] = set()

    def move(self, name: str, documents: Sequence[Document]) -> list[str]:
        """Move documents of a collection of MongoDB; returns their ids.

        Crash safety:
            Copied first, so that nothing is in neither place; a killed move is done again, under another label.
        """
        if not documents:
            return []
        self.places.add(in_mongo.place_of(self._label, name))
        if not self._dry_run:
            in_mongo.copy(self._database, self._label, name, documents)
            reached(Failpoint.SET_ASIDE_COPIED)
            in_mongo.remove(self._database, name, documents)
            reached(Failpoint.SET_ASIDE_REMOVED)
        return [str(each["_id"]) for each in documents]

    def keep(self, name: str, documents: Sequence[Document]) -> None:
        """Put something aside that is not in MongoDB."""
        self.places.add(in_mongo.place_of(self._label, name))
        if documents and not self._dry_run:
            in_mongo.copy(self._database, self._label, name, documents)
            reached(Failpoint.SET_ASIDE_COPIED)

    def namespaces(self) -> list[str]:
        """Names under which there is something of ours in MongoDB."""
        return in_mongo.namespaces(self._database)

    def ours(self, namespace: str) -> Iterator[tuple[str, list[Document]]]:
        """What that is: name of the collection of MongoDB, and a page of it."""
        return in_mongo.ours(self._database, namespace)
