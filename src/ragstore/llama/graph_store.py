"""Graph store of plain triplets (subject, relation, object): LlamaIndex's interface on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from llama_index.core.graph_stores.types import GraphStore

from ragstore.errors import UsageError
from ragstore.llama.backend import Backend, NotCopied, engine_on
from ragstore.model.collection import Collection
from ragstore.model.graph import MAX_RELATION_BYTES, checked_key
from ragstore.model.storable import storable_text
from ragstore.postgres import triplets
from ragstore.postgres.triplets import Triplet


class RagstoreGraphStore(NotCopied, GraphStore):
    """The triplets of a collection. Every call writes to the database, and every process sees it.

    Works as ``SimpleGraphStore``, without two of its defects: there ``delete`` removes nothing, and ``get_rel_map``
    follows no more than 30 triplets of each subject that it reaches, whatever the limit.
    """

    def __init__(self, backend: Backend, collection: Collection) -> None:
        self._pool = backend.pool
        self._collection = collection

    @property
    def client(self) -> Any:
        """A SQLAlchemy engine on ragstore's pool."""
        return engine_on(self._pool)

    def get(self, subj: str) -> list[list[str]]:
        """[relation, object] of a subject, oldest first."""
        return [list(each) for each in triplets.triplets_of(self._pool, self._collection, storable_text(subj))]

    def get_rel_map(
        self, subjs: list[str] | None = None, depth: int = 2, limit: int = 30
    ) -> dict[str, list[list[str]]]:
        """The triplets on the paths that begin at each of these subjects, or at all subjects.

        Args:
            depth: most triplets of one path.
            limit: most triplets of all paths together.
        """
        limit = max(limit, 0)
        if subjs is None:
            # Each subject has at least one triplet, so later ones would be above the limit.
            subjs = triplets.subjects(self._pool, self._collection, limit=limit + 1)
        subjs = list(dict.fromkeys(storable_text(subj) for subj in subjs))
        near: Mapping[str, Sequence[tuple[str, str]]] = {}
        if subjs and depth > 0 and limit > 0:
            near = triplets.triplets_near(self._pool, self._collection, subjs, depth=depth, limit=limit)
        found: dict[str, list[list[str]]] = {}
        left = limit
        for subj in subjs:
            walked = list(islice(_walk(near, subj, depth), left + 1))
            found[subj] = walked[:left]
            if len(walked) > left:
                break
            left -= len(walked)
        return found

    def upsert_triplet(self, subj: str, rel: str, obj: str) -> None:
        """Add a triplet; nothing happens if it exists.

        Raises:
            InvalidNodeError: a part of it is empty or too long; nothing was written.

        Crash safety:
            Durable when it returns. If several processes add the same triplet at once, it is stored once.
        """
        self.upsert_triplets([(subj, rel, obj)])

    def upsert_triplets(self, new: Iterable[Triplet]) -> None:
        """Add many triplets at once; otherwise as ``upsert_triplet``."""
        checked = [
            (
                checked_key(storable_text(subj), "subject"),
                checked_key(storable_text(rel), "relation", MAX_RELATION_BYTES),
                checked_key(storable_text(obj), "object"),
            )
            for subj, rel, obj in new
        ]
        if checked:
            triplets.put_triplets(self._pool, self._collection, checked)

    def delete(self, subj: str, rel: str, obj: str) -> None:
        """Remove a triplet, if it exists."""
        triplet = (storable_text(subj), storable_text(rel), storable_text(obj))
        triplets.delete_triplet(self._pool, self._collection, triplet)

    def persist(self, persist_path: str = "", fs: Any = None) -> None:
        """Nothing to do: every call is durable when it returns."""

    def get_schema(self, refresh: bool = False) -> str:  # noqa: ARG002 - it is always fresh
        """A text that lists the relations in use."""
        return f"relations: {', '.join(triplets.relations(self._pool, self._collection))}"

    def query(self, query: str, param_map: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Refused: triplets have no query language here.

        Raises:
            UsageError
        """
        raise UsageError("the graph store has no query language", hint="use get or get_rel_map")


def _walk(near: Mapping[str, Sequence[tuple[str, str]]], subject: str, depth: int) -> Iterator[list[str]]:
    """The triplets in the order of the paths, depth first; a path may visit a subject again."""
    path = [(subject, iter(near.get(subject, ())))] if depth > 0 else []
    while path:
        here, rest = path[-1]
        step = next(rest, None)
        if step is None:
            path.pop()
            continue
        yield [here, *step]
        if len(path) < depth:
            path.append((step[1], iter(near.get(step[1], ()))))
