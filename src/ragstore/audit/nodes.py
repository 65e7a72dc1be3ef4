"""Survey of the nodes of a collection in both stores. Suspected drift is re-checked before it is reported."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ragstore.audit.origins import UnknownBody, judged
from ragstore.mongo.client import Document
from ragstore.mongo.scan import MongoScan
from ragstore.postgres.scan import PostgresScan, ScannedNode

_AT_ONCE = 1_000
_EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class AlteredBody:
    """A body that differs from its live node; ``stamp`` is that of the body."""

    node: ScannedNode
    stamp: object


@dataclass(slots=True)
class NodeDrift:
    """Confirmed drift among about a thousand nodes."""

    missing: list[ScannedNode] = field(default_factory=list)
    altered: list[AlteredBody] = field(default_factory=list)
    doubled: list[ScannedNode] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unusable: list[ScannedNode] = field(default_factory=list)
    unknown: list[UnknownBody] = field(default_factory=list)


class NodeSurvey:
    """Compares all nodes of a collection.

    Args:
        deep: also compare content and vectors, not only which nodes exist.
        tell: called from time to time with the number of nodes compared so far.
    """

    def __init__(
        self, postgres: PostgresScan, mongo: MongoScan, *, deep: bool, tell: Callable[[int], None] = lambda _: None
    ) -> None:
        self._postgres = postgres
        self._mongo = mongo
        self._deep = deep
        self._tell = tell
        self.n_nodes = 0

    def drift(self) -> Iterator[NodeDrift]:
        """Confirmed drift, in batches; ``n_nodes`` is complete at the end.

        A node named by a running run or the outbox is still being written, and is no drift. A node that changed between
        two reads is not reported: a writer is working on it.
        """
        suspects: list[str] = []
        strangers: list[str] = []
        for live, stored in self._differences():
            suspects += live
            strangers += stored
            while len(suspects) >= _AT_ONCE:
                yield self._confirmed(suspects[:_AT_ONCE])
                del suspects[:_AT_ONCE]
            while len(strangers) >= _AT_ONCE:
                yield NodeDrift(unknown=self._unknown(strangers[:_AT_ONCE]))
                del strangers[:_AT_ONCE]
        if suspects:
            yield self._confirmed(suspects)
        if strangers:
            yield NodeDrift(unknown=self._unknown(strangers))

    def _differences(self) -> Iterator[tuple[list[str], list[str]]]:
        """Pairs: ids of live nodes that MongoDB lacks or has in another state, and ids that only MongoDB has."""
        if self._deep:
            yield from self._deep_differences()
            return
        for live, stored in aligned(prefetched(self._postgres.node_ids()), prefetched(self._mongo.node_ids())):
            self._count(len(live))
            if live != stored:
                live_ids, stored_ids = set(live), set(stored)
                yield [i for i in live if i not in stored_ids], [i for i in stored if i not in live_ids]

    def _deep_differences(self) -> Iterator[tuple[list[str], list[str]]]:
        pieces = aligned(
            prefetched(self._postgres.nodes()),
            prefetched(self._mongo.bodies()),
            left_key=lambda node: node.node_id,
            right_key=lambda body: str(body["_id"]),
        )
        for live, stored in pieces:
            self._count(len(live))
            bodies = {body["_id"]: body for body in stored}
            wrong = [
                node.node_id
                for node in live
                if (body := bodies.pop(node.node_id, None)) is None
                or not is_body_of(body, node)
                or self._is_unusable(node)
            ]
            yield wrong, list(bodies)

    def _count(self, n_nodes: int) -> None:
        self.n_nodes += n_nodes
        self._tell(self.n_nodes)

    def _confirmed(self, ids: Sequence[str]) -> NodeDrift:
        """Drift among these live nodes.

        The ledger is read before MongoDB and after. A stamp is never used again: a node with the same stamp both times,
        on which nothing was pending, was in that state in between too.
        """
        before = self._postgres.states(ids)
        bodies = self._mongo.bodies_of(ids)
        nodes = self._postgres.nodes_of(ids)
        after = self._postgres.states(ids)
        drift = NodeDrift()
        for node_id in ids:
            stamp = before.stable_stamp(node_id)
            node = nodes.get(node_id)
            if stamp is None or node is None or not stamp == node.stamp == after.stable_stamp(node_id):
                continue
            self._sort(node, bodies.get(node_id), drift)
        self._find_doubled(drift)
        return drift

    def _sort(self, node: ScannedNode, body: Document | None, drift: NodeDrift) -> None:
        if body is None:
            drift.missing.append(node)
        elif node.content is None:
            drift.unreadable.append(node.node_id)
        elif self._deep and not is_body_of(body, node):
            drift.altered.append(AlteredBody(node, body.get("stamp")))
        if self._deep and self._is_unusable(node):
            drift.unusable.append(node)

    def _find_doubled(self, drift: NodeDrift) -> None:
        """Move rows that another program copied from existing rows from ``missing`` to ``doubled``.

        The proof: another row of the same place has the same text, and a body; and the ledger does not count the copy,
        or the copy holds another node than its id says.
        """
        copies = self._postgres.copies([node.node_id for node in drift.missing])
        if copies:
            lines = self._postgres.lines_of([n.document_id for n in drift.missing if n.document_id is not None])
            uncounted = {i for i, line in lines.items() if line.n_rows > line.n_nodes}
            bodies = self._mongo.present([i for originals in copies.values() for i in originals])
            drift.doubled = [
                node
                for node in drift.missing
                if bodies.intersection(copies.get(node.node_id, ()))
                and (node.content is None or node.document_id in uncounted)
            ]
        doubled = {node.node_id for node in drift.doubled}
        drift.unreadable += [n.node_id for n in drift.missing if n.content is None and n.node_id not in doubled]
        drift.missing = [n for n in drift.missing if n.content is not None and n.node_id not in doubled]

    def _unknown(self, ids: Sequence[str]) -> list[UnknownBody]:
        """Verdicts on those of these bodies that PostgreSQL did not know and that did not change between two reads."""
        found = self._mongo.origins_of(ids)
        states = self._postgres.states(ids)
        again = self._mongo.origins_of(ids)
        origins = [o for i, o in found.items() if not states.knows(i) and i in again and again[i].stamp == o.stamp]
        return judged(self._postgres, self._mongo, origins) if origins else []

    def _is_unusable(self, node: ScannedNode) -> bool:
        # Vectors from outside are never judged: their maker decides what they are.
        return node.usable is False and self._postgres.collection.space.model != _EXTERNAL


def is_body_of(body: Document, node: ScannedNode) -> bool:
    """Whether this body of MongoDB is the current state of the node."""
    stamp = body.get("stamp")
    return (
        body.get("__data__") == node.content
        and body.get("__type__") == node.type_key
        and (stamp == node.stamp or (node.staged and stamp == 0))
    )


L = TypeVar("L")
R = TypeVar("R")
T = TypeVar("T")


def prefetched(pages: Iterator[T]) -> Iterator[T]:
    """The same pages, each read in a thread while the page before is processed; no thread for one or two pages."""
    first, second = next(pages, None), next(pages, None)
    if first is not None:
        yield first
    if second is None:
        return
    yield second
    with ThreadPoolExecutor(1, thread_name_prefix="ragstore-scan") as reader:
        coming = reader.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = reader.submit(next, pages, None)
            yield page


def aligned(
    left: Iterator[list[L]],
    right: Iterator[list[R]],
    *,
    left_key: Callable[[L], str] | None = None,
    right_key: Callable[[R], str] | None = None,
) -> Iterator[tuple[list[L], list[R]]]:
    """Pairs of pieces of both streams; both pieces of a pair cover the same range of keys.

    Args:
        left: pages in ascending order of keys; Python orders strings as both databases order their UTF-8 bytes.
        left_key: returns the key of an item; None if the item is its own key.
    """
    left_rest: list[L] = []
    right_rest: list[R] = []
    while True:
        left_rest = left_rest or next(left, [])
        right_rest = right_rest or next(right, [])
        if not left_rest and not right_rest:
            return
        last = min(_last(rest, key) for rest, key in ((left_rest, left_key), (right_rest, right_key)) if rest)
        n_left, n_right = _upto(left_rest, last, left_key), _upto(right_rest, last, right_key)
        yield left_rest[:n_left], right_rest[:n_right]
        left_rest, right_rest = left_rest[n_left:], right_rest[n_right:]


def _last(items: list[Any], key: Callable[[Any], str] | None) -> str:
    return str(key(items[-1]) if key else items[-1])


def _upto(items: list[Any], last: str, key: Callable[[Any], str] | None) -> int:
    return bisect_right(items, last, key=key) if key else bisect_right(items, last)
