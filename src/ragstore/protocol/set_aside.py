"""Setting aside of MongoDB documents that PostgreSQL does not have.

They are moved to collections that no reader uses, and the names of these collections are reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ragstore.mongo import set_aside as in_mongo
from ragstore.mongo.client import Document, MongoDatabase
from ragstore.telemetry.failpoint import Failpoint, reached

STRUCTS = in_mongo.STRUCTS


class SetAside:
    """Documents that one command sets aside.

    Args:
        label: of the command's run, part of the names in ``places``.
        dry_run: only name the places.
    """

    def __init__(self, database: MongoDatabase, label: str, *, dry_run: bool = False) -> None:
        self._database = database
        self._label = label
        self._dry_run = dry_run
        self.places: set[str] = set()

    def move(self, name: str, documents: Sequence[Document]) -> list[str]:
        """Move documents of a collection of MongoDB; returns their ids.

        Crash safety:
            Copied first, so that nothing is lost; a killed move is repeated under another label.
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
        """Set documents aside that were never in MongoDB."""
        self.places.add(in_mongo.place_of(self._label, name))
        if documents and not self._dry_run:
            in_mongo.copy(self._database, self._label, name, documents)
            reached(Failpoint.SET_ASIDE_COPIED)

    def namespaces(self) -> list[str]:
        """Namespaces that have documents of ragstore in MongoDB."""
        return in_mongo.namespaces(self._database)

    def ours(self, namespace: str) -> Iterator[tuple[str, list[Document]]]:
        """Pages of ragstore's documents in a namespace, each with the name of its MongoDB collection."""
        return in_mongo.ours(self._database, namespace)
